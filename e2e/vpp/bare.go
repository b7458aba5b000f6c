package vpp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"go.fd.io/govpp"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/core"
)

// Bare is what one memif costs without anybody's help: the messages alone, over an
// open connection. It is for one goroutine.
type Bare struct {
	conn   *core.Connection
	socket string

	memif      memif.RPCService
	interfaces interfaces.RPCService
	l2         l2.RPCService
}

// bareDomain is the bridge domain that the memifs join.
const bareDomain = 77

// NewBare connects to the API at a socket; the memifs are at another one.
func NewBare(ctx context.Context, api, socket string) (*Bare, error) {
	core.SetLogLevel(logrus.FatalLevel)
	conn, err := govpp.Connect(api)
	if err != nil {
		return nil, fmt.Errorf("bare memif: %w", err)
	}
	b := &Bare{conn: conn, socket: socket, memif: memif.NewServiceClient(conn), interfaces: interfaces.NewServiceClient(conn), l2: l2.NewServiceClient(conn)}
	if _, err := b.l2.BridgeDomainAddDelV2(ctx, &l2.BridgeDomainAddDelV2{IsAdd: true, BdID: bareDomain, Flood: true, UuFlood: true, Forward: true, Learn: true}); err != nil {
		conn.Disconnect()
		return nil, fmt.Errorf("bare memif: %w", err)
	}
	return b, nil
}

// Close takes the domain away.
func (b *Bare) Close(ctx context.Context) error {
	_, err := b.l2.BridgeDomainAddDelV2(ctx, &l2.BridgeDomainAddDelV2{BdID: bareDomain})
	b.conn.Disconnect()
	return err
}

// Time times the messages that make one memif: socket, interface, look for the
// domain, tag, join, up; and undoes them, untimed.
func (b *Bare) Time(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	s, err := b.memif.MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: unset, SocketFilename: b.socket})
	if err != nil {
		return 0, err
	}
	c, err := b.memif.MemifCreateV2(ctx, &memif.MemifCreateV2{SocketID: s.SocketID})
	if err != nil {
		return 0, err
	}
	domains, errFind := b.l2.BridgeDomainDump(ctx, &l2.BridgeDomainDump{BdID: unset, SwIfIndex: ^interface_types.InterfaceIndex(0)})
	for errFind == nil {
		_, errFind = domains.Recv()
	}
	if errors.Is(errFind, io.EOF) {
		errFind = nil
	}
	_, errTag := b.interfaces.SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: c.SwIfIndex, Tag: "bare"})
	_, errJoin := b.l2.SwInterfaceSetL2Bridge(ctx, &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: c.SwIfIndex, BdID: bareDomain, Enable: true})
	_, errUp := b.interfaces.SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: c.SwIfIndex, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP})
	took := time.Since(began)
	_, errDel := b.memif.MemifDelete(ctx, &memif.MemifDelete{SwIfIndex: c.SwIfIndex})
	_, errSocket := b.memif.MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{SocketID: s.SocketID})
	return took, errors.Join(errFind, errTag, errJoin, errUp, errDel, errSocket)
}

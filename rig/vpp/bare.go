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

// Time times the messages that make memifs, one after the other: for each its socket,
// the interface, a look for the domain, tag, join, up. It undoes them, untimed.
func (b *Bare) Time(ctx context.Context, memifs int) (time.Duration, error) {
	var made []bareMemif
	var errs []error
	began := time.Now()
	for i := range memifs {
		one, err := b.make(ctx, fmt.Sprintf("%s.%d", b.socket, i))
		made = append(made, one)
		if err != nil {
			errs = append(errs, err)
			break
		}
	}
	took := time.Since(began)
	for _, one := range made {
		errs = append(errs, b.remove(ctx, one))
	}
	return took, errors.Join(errs...)
}

// bareMemif has the numbers of what was made, unset of what was not.
type bareMemif struct {
	socket uint32
	index  interface_types.InterfaceIndex
}

func (b *Bare) make(ctx context.Context, socket string) (bareMemif, error) {
	one := bareMemif{unset, interface_types.InterfaceIndex(unset)}
	s, err := b.memif.MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: unset, SocketFilename: socket})
	if err != nil {
		return one, err
	}
	one.socket = s.SocketID
	c, err := b.memif.MemifCreateV2(ctx, &memif.MemifCreateV2{SocketID: one.socket})
	if err != nil {
		return one, err
	}
	one.index = c.SwIfIndex
	domains, errFind := b.l2.BridgeDomainDump(ctx, &l2.BridgeDomainDump{BdID: unset, SwIfIndex: ^interface_types.InterfaceIndex(0)})
	for errFind == nil {
		_, errFind = domains.Recv()
	}
	if errors.Is(errFind, io.EOF) {
		errFind = nil
	}
	_, errTag := b.interfaces.SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: one.index, Tag: "bare"})
	_, errJoin := b.l2.SwInterfaceSetL2Bridge(ctx, &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: one.index, BdID: bareDomain, Enable: true})
	_, errUp := b.interfaces.SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: one.index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP})
	return one, errors.Join(errFind, errTag, errJoin, errUp)
}

func (b *Bare) remove(ctx context.Context, one bareMemif) error {
	var errs []error
	if one.index != interface_types.InterfaceIndex(unset) {
		_, err := b.memif.MemifDelete(ctx, &memif.MemifDelete{SwIfIndex: one.index})
		errs = append(errs, err)
	}
	if one.socket != unset {
		_, err := b.memif.MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{SocketID: one.socket})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

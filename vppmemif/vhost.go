package vppmemif

import (
	"context"
	"fmt"

	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/vhost_user"
)

// createVhost asks for a vhost-user interface, tagged from the start
// (vhost_user.api).
func (w *wiring) createVhost(ctx context.Context) error {
	st := w.st
	if err := w.step(ctx, "create vhost-user on %s", st.Socket); err != nil {
		return err
	}
	m := &vhost_user.CreateVhostUserIfV2{IsServer: st.Role == "server", SockFilename: st.Socket, Tag: st.Tag}
	mac, err := w.c.hwAddr(st)
	if err != nil {
		return err
	}
	m.UseCustomMac, m.MacAddress = mac != ethernet_types.MacAddress{}, mac
	return w.ask(ctx, "create vhost-user interface on "+st.Socket, m)
}

func (w *wiring) createdVhost(ctx context.Context) error {
	reply, err := answer[*vhost_user.CreateVhostUserIfV2Reply](ctx, w.session, w.asked)
	if err != nil {
		return fmt.Errorf("%s (is its folder there, and may VPP write to it?): %w", w.asked.doing, err)
	}
	w.index = reply.SwIfIndex
	return nil
}

func (s *session) deleteVhost(ctx context.Context, index interface_types.InterfaceIndex) error {
	_, err := call(ctx, s, func(ctx context.Context) (*vhost_user.DeleteVhostUserIfReply, error) {
		return vhost_user.NewServiceClient(s.conn).DeleteVhostUserIf(ctx, &vhost_user.DeleteVhostUserIf{SwIfIndex: index})
	})
	return err
}

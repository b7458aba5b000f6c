package vppmemif

import (
	"context"
	"fmt"

	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/vhost_user"
)

// createVhost makes a vhost-user interface, tagged from the start
// (vhost_user.api).
func (s *session) createVhost(ctx context.Context, c *Config, st *state) (interface_types.InterfaceIndex, error) {
	m := &vhost_user.CreateVhostUserIfV2{IsServer: st.Role == "server", SockFilename: st.Socket, Tag: st.Tag}
	mac, err := c.hwAddr(st)
	if err != nil {
		return 0, err
	}
	m.UseCustomMac, m.MacAddress = mac != ethernet_types.MacAddress{}, mac
	reply, err := call(ctx, s, func(ctx context.Context) (*vhost_user.CreateVhostUserIfV2Reply, error) {
		return vhost_user.NewServiceClient(s.conn).CreateVhostUserIfV2(ctx, m)
	})
	if err != nil {
		return 0, fmt.Errorf("create vhost-user interface on %s (is its folder there, and may VPP write to it?): %w", st.Socket, err)
	}
	return reply.SwIfIndex, nil
}

func (s *session) deleteVhost(ctx context.Context, index interface_types.InterfaceIndex) error {
	_, err := call(ctx, s, func(ctx context.Context) (*vhost_user.DeleteVhostUserIfReply, error) {
		return vhost_user.NewServiceClient(s.conn).DeleteVhostUserIf(ctx, &vhost_user.DeleteVhostUserIf{SwIfIndex: index})
	})
	return err
}

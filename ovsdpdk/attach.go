package ovsdpdk

import (
	"cmp"
	"context"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// Attach makes the folders ready, inserts the ports, all of one OVSDB in one
// transaction, and waits for ovs-vswitchd to open them.
func (d *Delegate) Attach(ctx context.Context, all []*delegates.Attachment) error {
	ports := make([]*port, len(all))
	for i, a := range all {
		p, err := portOf(a)
		if err == nil {
			err = p.provide(ctx)
		}
		if err != nil {
			return p.errorf("%w", err)
		}
		ports[i] = p
	}
	for _, group := range byOVSDB(ports) {
		if err := d.open(ctx, group[0].OVSDB, group); err != nil {
			return err
		}
	}
	for _, p := range ports {
		p.Result = p.result()
	}
	return nil
}

// provide makes the folder ready for the socket, and writes what the container reads.
func (p *port) provide(ctx context.Context) (err error) {
	var data []byte
	switch dialect := p.network.dialect; {
	case dialect != nil:
		data, err = dialect.Document(p.Attachment, p.File, cmp.Or(p.Result, p.IPAM))
	case p.Config != "":
		data, err = shareddir.NewInfo(p.Attachment, p.device(), p.network.mac(), p.network.MTU)
	}
	if err != nil {
		return err
	}
	if err := p.Provide(ctx, p.IfName, data); err != nil {
		return err
	}
	return p.network.d.grants.Keep(p.Use)
}

// open inserts ports of one OVSDB and waits until they are open. In server mode the
// socket exists from then on, and is linked to where the pod sees it.
func (d *Delegate) open(ctx context.Context, address string, ports []*port) error {
	ifNames, _ := names(ports)
	if err := delegates.Step(ctx, "%s: insert ports into OVSDB at %s", ifNames, address); err != nil {
		return err
	}
	if err := d.insert(ctx, address, ports); err != nil {
		return err
	}
	if err := delegates.Step(ctx, "%s: wait for ovs-vswitchd to open the ports", ifNames); err != nil {
		return err
	}
	if err := d.awaitPorts(ctx, address, ports); err != nil {
		return err
	}
	_, err := d.link(ctx, ports)
	return err
}

// result is the attachment in CNI's terms. There is no kernel link: the
// interface is the socket.
func (p *port) result() *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: p.IfName, Mac: p.network.mac(), Mtu: p.network.MTU, Sandbox: p.Netns, SocketPath: p.Socket}},
	}
	if p.IPAM != nil {
		r.Routes, r.DNS = p.IPAM.Routes, p.IPAM.DNS
		for _, ip := range p.IPAM.IPs {
			own := *ip
			own.Interface = types100.Int(0)
			r.IPs = append(r.IPs, &own)
		}
	}
	return r
}

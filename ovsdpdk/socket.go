package ovsdpdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// socketFolder is where the vswitch has its sockets of server mode, each under the name
// of its port: its run folder, or a folder below that.
type socketFolder struct{ run, below string }

// socketFolder reads the folder from other_config:vhost-sock-dir.
func (d *Delegate) socketFolder(ctx context.Context, address string) (socketFolder, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return socketFolder{}, errors.New(`key "vhost.mode": server needs "ovsdb" to be unix:PATH, as the sockets are beside it`)
	}
	results, err := d.db.transact(ctx, address, selectRows("Open_vSwitch", anyRow(), "other_config"))
	if err != nil {
		return socketFolder{}, err
	}
	f := socketFolder{run: filepath.Dir(path)}
	if rows := results[0].Rows; len(rows) > 0 {
		// A slash at its beginning has no meaning for ovs-vswitchd.
		f.below = strings.TrimLeft(strMap(rows[0], "other_config")["vhost-sock-dir"], "/")
	}
	return f, nil
}

// open opens the socket of a port. OVSDB may say anything: no socket outside of the run
// folder is opened.
func (f socketFolder) open(port string) (*os.File, error) {
	socket, err := shareddir.OpenSocket(f.run, filepath.Join(f.below, port))
	if err != nil {
		return nil, fmt.Errorf("the vswitch does not listen for port %s (in OVSDB, other_config:vhost-sock-dir is %.200q): %w", port, f.below, err)
	}
	return socket, nil
}

// link makes the vswitch's sockets visible to the pod, in server mode. It says which
// links it made. One may be missing because the pod's folder was emptied, or because the
// vswitch was restarted and listens at another socket of the same name.
func (d *Delegate) link(ctx context.Context, ports []*port) (made []string, err error) {
	ports = slices.DeleteFunc(slices.Clone(ports), func(p *port) bool { return p.Mode != modeServer })
	if len(ports) == 0 {
		return nil, nil
	}
	f, err := d.socketFolder(ctx, ports[0].OVSDB)
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		link, err := p.link(ctx, f)
		if err != nil {
			return made, p.errorf("%w", err)
		}
		made = append(made, link...)
	}
	return made, nil
}

// link links the port's socket, unless it is linked.
func (p *port) link(ctx context.Context, f socketFolder) (made []string, err error) {
	origin, err := f.open(p.Port)
	if err != nil {
		return nil, err
	}
	defer origin.Close()
	if linked, err := p.Linked(origin, p.File); err != nil || linked {
		return nil, err
	}
	if err := delegates.Step(ctx, "%s: link the socket to %s", p.IfName, p.Socket); err != nil {
		return nil, err
	}
	made = []string{fmt.Sprintf("link %s to the socket of port %s", p.Place(p.File), p.Port)}
	return made, p.LinkSocket(origin, p.File, p.network.dialect.Key("vhost.socketFile"))
}

// openSockets opens the vswitch's sockets whose links in volumes are about to be removed:
// the vswitch listens at each until it has acted on the removal of the port, and only by
// it the link can be told from a socket of somebody else.
func (d *Delegate) openSockets(ctx context.Context, ports []*port) error {
	ports = slices.DeleteFunc(slices.Clone(ports), func(p *port) bool { return p.Mode != modeServer || p.Own })
	if len(ports) == 0 || !strings.HasPrefix(ports[0].OVSDB, "unix:") {
		return nil
	}
	f, err := d.socketFolder(ctx, ports[0].OVSDB)
	if err != nil {
		return err
	}
	for _, p := range ports {
		p.socket, _ = f.open(p.Port) // no socket: the vswitch does not listen any more
	}
	return nil
}

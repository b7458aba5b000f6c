package ovsdpdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// socketFolder is where the vswitch has its sockets of server mode, each under the name
// of its port: its run folder, or a folder below that.
type socketFolder struct{ run, below string }

// socketFolder reads the folder.
func (d *Delegate) socketFolder(ctx context.Context, address string) (socketFolder, error) {
	if runFolder(address) == "" {
		return socketFolder{}, errors.New(`key "vhost.mode": server needs "ovsdb" to be unix:PATH, as the sockets are beside it`)
	}
	results, err := d.db.transact(ctx, address, selectSocketFolder())
	if err != nil {
		return socketFolder{}, err
	}
	f, _ := folderOf(address, results[0].Rows)
	return f, nil
}

func selectSocketFolder() ovsdb.Operation {
	return selectRows("Open_vSwitch", anyRow(), "other_config")
}

// folderOf reads the folder from other_config:vhost-sock-dir.
func folderOf(address string, vswitches []ovsdb.Row) (f socketFolder, ok bool) {
	if f.run = runFolder(address); f.run == "" {
		return f, false
	}
	if len(vswitches) > 0 {
		f.below = sockDir(vswitches[0])
	}
	return f, true
}

// sockDir is vhost-sock-dir of a row of Open_vSwitch. A slash at its beginning has no meaning for
// ovs-vswitchd.
func sockDir(vswitch ovsdb.Row) string {
	return strings.TrimLeft(strMap(vswitch, "other_config")["vhost-sock-dir"], "/")
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

// checkSocket compares the pod's socket with the one that the vswitch listens at, in server
// mode.
func (d *Delegate) checkSocket(ctx context.Context, p *port) error {
	if p.Mode != modeServer {
		return nil
	}
	f, err := d.socketFolder(ctx, p.OVSDB)
	if err != nil {
		return err
	}
	origin, err := f.open(p.Port)
	if err != nil {
		return err
	}
	defer origin.Close()
	linked, err := p.Linked(origin, p.File)
	if err == nil && !linked {
		err = fmt.Errorf("%s is not the socket of port %s that the vswitch listens at", p.Place(p.File), p.Port)
	}
	return err
}

// removeStale removes the socket of a port that nobody listens at: a vswitch that was killed
// leaves it, and the next one cannot listen there. The name is the attachment's own.
func (f socketFolder) removeStale(p *port) error {
	return shareddir.RemoveStale(f.run, filepath.Join(f.below, p.Port))
}

// reopen has ovs-vswitchd open a port again that it could not open because of a socket of the
// former one. Other ports that are not open have another reason, which CHECK reports.
func (d *Delegate) reopen(ctx context.Context, p *port) (made []string, err error) {
	f, err := d.socketFolder(ctx, p.OVSDB)
	if err != nil {
		return nil, err
	}
	origin, err := f.open(p.Port)
	if err != nil {
		return nil, nil //nolint:nilerr // no socket is in its way
	}
	listened := shareddir.Listens(origin)
	_ = origin.Close()
	if listened {
		return nil, nil
	}
	if err := delegates.Step(ctx, "%s: remove the socket of a former ovs-vswitchd, and open port %s", p.IfName, p.Port); err != nil {
		return nil, err
	}
	if err := f.removeStale(p); err != nil {
		return nil, err
	}
	if _, err := d.db.transact(ctx, p.OVSDB, nextConfig()); err != nil {
		return nil, err
	}
	_, err = d.db.transactWithin(ctx, openTimeout+openMargin, p.OVSDB,
		wait("Interface", equal("name", p.Port), openTimeout, ovsdb.WaitConditionNotEqual, ovsdb.Row{"ofport": -1}))
	if refusal(err, answerTimedOut) != nil {
		err = vswitchdUnavailable(p.OVSDB, fmt.Errorf("it did not open port %s within %s", p.Port, openTimeout))
	}
	return []string{"socket of port " + p.Port}, err
}

// openSockets opens the vswitch's sockets whose links in volumes are about to be removed:
// the vswitch listens at each until it has acted on the removal of the port, and only by
// it the link can be told from a socket of somebody else.
func (f socketFolder) openSockets(ports []*port) {
	for _, p := range ports {
		if p.Mode == modeServer && !p.Own {
			p.socket, _ = f.open(p.Port) // no socket: the vswitch does not listen any more
		}
	}
}

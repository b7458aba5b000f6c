package ovsdpdk

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/endpoint"
)

var (
	errNoVswitchd = errors.New("nobody listens at its control socket")
	errNoDPDK     = errors.New("it has not initialised DPDK: set other_config:dpdk-init=true in Open_vSwitch and see ovs-vswitchd's log")
)

// health is the last report of a watch.
type health struct{ err error }

// alive returns why the ovs-vswitchd behind an OVSDB does not work. It knows from the watch of
// the OVSDB; without one it asks at the control socket.
func (d *Delegate) alive(ctx context.Context, address string) error {
	if known, ok := d.health.Load(address); ok {
		return known.(health).err
	}
	c, err := dialControl(address)
	if c == nil {
		if err != nil {
			err = vswitchdUnavailable(address, err)
		}
		return err
	}
	defer c.Close(endpoint.ErrClosed)
	bounded, cancel := context.WithTimeout(ctx, endpoint.ShortWait)
	defer cancel()
	if _, err := c.call(bounded, "version"); err != nil && ctx.Err() == nil {
		return vswitchdUnavailable(address, endpoint.SilentError{Limit: endpoint.ShortWait})
	}
	return ctx.Err()
}

// dialControl connects to the control socket of ovs-vswitchd (ovs-appctl(8)): its messages are
// those of OVSDB. ovs-vswitchd has it in its run folder, under a name with its process ID; the
// folder is OVSDB's on every distribution. The connection is nil without an error where
// no such socket is in the folder: it may be elsewhere.
func dialControl(address string) (*conn, error) {
	run := runFolder(address)
	if run == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(run)
	if err != nil {
		return nil, nil //nolint:nilerr // there is no OVSDB either, which is reported
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "ovs-vswitchd.") || !strings.HasSuffix(e.Name(), ".ctl") {
			continue
		}
		err = errNoVswitchd
		if stream, errDial := net.Dial("unix", filepath.Join(run, e.Name())); errDial == nil {
			return newConn(stream, nil), nil
		}
	}
	return nil, err
}

package ovsdpdk

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/shareddir"
)

// Bounds of what is read about a process, in bytes.
const (
	maxPID    = 32
	maxStatus = 1 << 20 // /proc/PID/status names every group
)

// vswitchdUser is whom ovs-vswitchd runs as, nil for root: packages start it as openvswitch,
// with the group hugetlbfs. Its pid file is beside OVSDB's socket (ovs-vswitchd(8)). Without
// one, or where it names another process, ovsdb-server's user is taken: they are started with
// the same option --user. Behind TCP nothing can be known.
func (d *Delegate) vswitchdUser(ctx context.Context, address string) (*shareddir.User, error) {
	path := socketPath(address)
	if path == "" {
		return nil, nil
	}
	u := processUser(filepath.Join(filepath.Dir(path), "ovs-vswitchd.pid"))
	if u == nil {
		c, err := d.db.pool.Get(ctx, address)
		if err != nil {
			return nil, err
		}
		if u, err = c.peer(); err != nil {
			return nil, fmt.Errorf("user of ovsdb-server at %s: %w", path, err)
		}
	}
	if u.UID == 0 {
		return nil, nil
	}
	return u, nil
}

// connectingUser is vswitchdUser where the vswitch connects to the pod's socket, else nil.
func (n *network) connectingUser(ctx context.Context) (*shareddir.User, error) {
	if n.Vhost.Mode != modeClient {
		return nil, nil
	}
	return n.d.vswitchdUser(ctx, n.OVSDB)
}

// peer is whom the server runs as (SO_PEERCRED, unix(7)).
func (c *conn) peer() (*shareddir.User, error) {
	stream, ok := c.stream.(*net.UnixConn)
	if !ok {
		return &shareddir.User{}, nil
	}
	raw, err := stream.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var errCred error
	if err := raw.Control(func(fd uintptr) { cred, errCred = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	if errCred != nil {
		return nil, errCred
	}
	return &shareddir.User{UID: int(cred.Uid), GIDs: []int{int(cred.Gid)}}, nil
}

// processUser is whom the ovs-vswitchd runs as that a pid file names, nil if none does.
func processUser(pidFile string) *shareddir.User {
	text, err := file.ReadRegular(pidFile, maxPID)
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 1 {
		return nil
	}
	status, err := file.ReadRegular(fmt.Sprintf("/proc/%d/status", pid), maxStatus)
	if err != nil {
		return nil
	}
	return statusUser(string(status))
}

// statusUser reads /proc/PID/status of an ovs-vswitchd (proc_pid_status(5)).
func statusUser(status string) *shareddir.User {
	fields := map[string][]string{}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.Fields(value)
	}
	name, uids, gids := fields["Name"], fields["Uid"], fields["Gid"]
	if len(name) == 0 || !strings.HasPrefix(name[0], "ovs-vswitchd") || len(uids) != 4 || len(gids) != 4 {
		return nil
	}
	numbers := make([]int, 0, 2+len(fields["Groups"]))
	for _, text := range append([]string{uids[1], gids[1]}, fields["Groups"]...) { // effective
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil
		}
		numbers = append(numbers, n)
	}
	return &shareddir.User{UID: numbers[0], GIDs: numbers[1:]}
}

// Package podnet is a pod's network namespace: its identity, its links and routes, and their
// comparison with a recorded result.
package podnet

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ID identifies a network namespace beyond its path and its inode number,
// both of which may be reused: "device:inode:cookie", "" when there is none at
// the path. The cookie (SO_NETNS_COOKIE, socket(7), Linux 5.14) is never
// reused while the node is up; it is 0 on older kernels.
func ID(path string) string {
	if path == "" {
		return ""
	}
	namespace, err := ns.GetNS(path)
	if err != nil {
		return ""
	}
	defer namespace.Close()
	var st unix.Stat_t
	if unix.Fstat(int(namespace.Fd()), &st) != nil {
		return ""
	}
	cookie, err := cookie(namespace)
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d", st.Dev, st.Ino, cookie)
}

// Live picks the first of the paths that leads to the namespace with the ID, "" when none
// does. A path that now leads to another pod's namespace is not used.
func Live(id string, paths ...string) string {
	for _, path := range paths {
		if now := ID(path); now != "" && (now == id || id == "") {
			return path
		}
	}
	return ""
}

// Search is a path of the namespace with an ID, "" when neither a process nor a file of ip-netns(8)
// has it. Processes of another PID namespace are not seen.
func Search(id string) string {
	for _, pattern := range []string{"/run/netns/*", "/proc/[0-9]*/ns/net"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil && strings.HasPrefix(id, fmt.Sprintf("%d:%d:", st.Dev, st.Ino)) && ID(path) == id {
				return path
			}
		}
	}
	return ""
}

// cookie reads the cookie from a socket in the namespace.
func cookie(namespace ns.NetNS) (uint64, error) {
	inside, err := nl.GetNetlinkSocketAt(foreign(netns.NsHandle(namespace.Fd())), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer inside.Close()
	return unix.GetsockoptUint64(inside.GetFd(), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// foreign is the handle, or none for the process' own namespace: without privileges no other
// one can be entered, and the own one need not be.
func foreign(handle netns.NsHandle) netns.NsHandle {
	var st, own unix.Stat_t
	if err := errors.Join(unix.Fstat(int(handle), &st), unix.Stat("/proc/thread-self/ns/net", &own)); err == nil && own.Dev == st.Dev && own.Ino == st.Ino {
		return netns.None()
	}
	return handle
}

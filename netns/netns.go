// Package netns tells network namespaces apart: pods come and go, and their
// paths and inode numbers are used again.
package netns

import (
	"errors"
	"fmt"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ID identifies a network namespace beyond its path and its inode number,
// both of which are used again: "device:inode:cookie", "" when there is none at
// the path. The cookie (SO_NETNS_COOKIE, socket(7), Linux 5.14) is never used
// again while the node is up; it is 0 on older kernels.
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
	inside, err := nl.GetNetlinkSocketAt(netns.NsHandle(namespace.Fd()), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return ""
	}
	defer inside.Close()
	cookie, err := unix.GetsockoptUint64(inside.GetFd(), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d", st.Dev, st.Ino, cookie)
}

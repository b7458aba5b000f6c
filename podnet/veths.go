package podnet

import (
	"errors"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veths are the node's ends of a pod's veths that are there, by the names and the MACs that a
// result has of links outside of a sandbox. The kernel removes them with the pod's network
// namespace, unless another process has it open: VPP does, of a pod with an abstract socket.
// A veth whose other end is in the same namespace is none of a pod's.
func Veths(r *types100.Result) (names []string) {
	if r == nil {
		return nil
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" || i.Mac == "" {
			continue
		}
		link, err := netlink.LinkByName(i.Name)
		if err != nil || link.Type() != "veth" {
			continue
		}
		if a := link.Attrs(); a.NetNsID >= 0 && strings.EqualFold(a.HardwareAddr.String(), i.Mac) {
			names = append(names, i.Name)
		}
	}
	return names
}

// RemoveLink removes a link of the node. One that has gone meanwhile is no error.
func RemoveLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

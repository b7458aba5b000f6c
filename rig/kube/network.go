package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// serviceIP is the address of the Service kubernetes, the first of the range.
const (
	serviceRange = "10.96.0.0/24"
	serviceIP    = "10.96.0.1"
)

// link is the pair of links between the machine and its node.
type link struct {
	name          string // of the machine's end; the other is eth0
	machine, node string // addresses
}

// connect links the node to the machine, over a name and a network that are free.
func (c *Cluster) connect(ctx context.Context) error {
	l, err := freeLink()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(c.node.holder.PID())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link the node: add %s: %w", l.name, err)
	}
	c.link = l
	addr, err := netlink.ParseAddr(l.machine + "/30")
	if err == nil {
		err = netlink.AddrAdd(veth, addr)
	}
	if err == nil {
		err = netlink.LinkSetUp(veth)
	}
	if err != nil {
		return fmt.Errorf("link the node: set %s up: %w", l.name, err)
	}
	for _, cmd := range []string{
		"ip addr add " + l.node + "/30 dev eth0",
		"ip link set eth0 up",
		"ip route add default via " + l.machine, // kubelet wants one for the address of its node
	} {
		if _, err := c.NodeExec(ctx, strings.Fields(cmd)...); err != nil {
			return fmt.Errorf("link the node: %w", err)
		}
	}
	return nil
}

// serve stands in for kube-proxy for the one Service that pods need: what goes to
// the Service kubernetes reaches the API server. The machine needs no route to the
// pods, as what leaves the node has the node's address.
func (c *Cluster) serve(ctx context.Context) error {
	for _, rule := range []string{
		"PREROUTING -d " + serviceIP + " -p tcp --dport 443 -j DNAT --to-destination " + c.address(),
		"OUTPUT -d " + serviceIP + " -p tcp --dport 443 -j DNAT --to-destination " + c.address(),
		"POSTROUTING -o eth0 -j MASQUERADE",
	} {
		argv := append([]string{"iptables", "-w", "-t", "nat", "-A"}, strings.Fields(rule)...)
		if _, err := c.NodeExec(ctx, argv...); err != nil {
			return fmt.Errorf("lead pods to the API server: %w", err)
		}
	}
	return nil
}

// freeLink finds a name and a network that the machine does not use.
func freeLink() (*link, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("link the node: list routes: %w", err)
	}
	used := func(network *net.IPNet) bool {
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			if ones, _ := r.Dst.Mask.Size(); ones > 0 && (r.Dst.Contains(network.IP) || network.Contains(r.Dst.IP)) {
				return true
			}
		}
		return false
	}
	for n := range 100 {
		_, network, err := net.ParseCIDR(fmt.Sprintf("10.231.%d.0/30", 77+n))
		if err != nil {
			return nil, err
		}
		l := &link{
			name:    fmt.Sprintf("plexus-kube%d", n),
			machine: fmt.Sprintf("10.231.%d.1", 77+n),
			node:    fmt.Sprintf("10.231.%d.2", 77+n),
		}
		if _, err := netlink.LinkByName(l.name); err == nil || used(network) {
			continue
		}
		return l, nil
	}
	return nil, errors.New("link the node: all of 10.231.77.0 to 10.231.176.0 is used by this machine's routes")
}

// remove removes the pair, which goes with the node's namespace too, but later.
func (l *link) remove(ctx context.Context) error {
	return poll(ctx, "the node's link is gone", func(context.Context) (bool, error, error) {
		end, err := netlink.LinkByName(l.name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return true, nil, nil
		}
		if err == nil {
			err = netlink.LinkDel(end)
		}
		return false, err, nil
	})
}

// freePort finds a port of an address on which nothing listens. It searches below
// those that the kernel gives to connections, so that it stays free while what has
// it restarts.
func freePort(ip string, from int) (int, error) {
	var last error
	for port := from; port < from+100; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port))
		if err == nil {
			return port, l.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port of %s: %w", ip, last)
}

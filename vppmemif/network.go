package vppmemif

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/lock"
)

// vtrPush1 is a VLAN tag rewrite (l2_vtr.h): what comes from the pod gets a tag,
// what goes to it loses one.
const vtrPush1 = 1

// lockTimeout is how long another process may keep a bridge domain: it waits for VPP
// itself, replyTimeout at most.
const lockTimeout = 5 * time.Second

// tries bounds how often an id of a bridge domain is looked for.
const tries = 64

// held are the bridge domains that attachments join. None goes with its last member
// meanwhile.
type held struct {
	*session
	leave []func()
	asked *begun                    // for which domains there are
	known []*l2.BridgeDomainDetails // as VPP has answered
	stale bool
	ids   map[wanted]uint32
}

// wanted names a bridge domain.
type wanted struct {
	tag string
	id  uint32
}

// take takes hold of the domains that attachments will join, until VPP has answered all, and
// asks which there are. Everybody takes them in the same order.
func (h *held) take(ctx context.Context, all []*wiring) error {
	var tags []string
	for _, w := range all {
		if w.c.BridgeDomain != nil && !w.have.joined {
			tags = append(tags, w.st.DomainTag)
		}
	}
	slices.Sort(tags)
	for _, tag := range slices.Compact(tags) {
		leave, err := h.lockDomain(ctx, tag)
		if err != nil {
			return err
		}
		h.leave = append(h.leave, leave)
	}
	if len(tags) == 0 {
		return nil
	}
	var err error
	h.asked, err = h.askDomains(ctx)
	return err
}

func (h *held) release() {
	if h.asked != nil {
		h.asked.end()
	}
	for _, leave := range h.leave {
		leave()
	}
}

// look lists the domains that there are.
func (h *held) look(ctx context.Context) (err error) {
	switch {
	case h.asked != nil:
		h.known, err = h.readDomains(ctx, h.asked)
		h.asked.end()
		h.asked = nil
	case h.stale:
		h.known, err = h.domains(ctx)
	}
	h.stale = false
	return err
}

// ensure finds the bridge domain of an attachment or makes it. One with a name is found by
// its tag; it gets the id that its name has, or the next one that is free.
func (h *held) ensure(ctx context.Context, w *wiring) (uint32, error) {
	b, st := w.c.BridgeDomain, w.st
	want := wanted{st.DomainTag, b.ID}
	if id, ok := h.ids[want]; ok {
		return id, nil
	}
	id := st.Domain
	for range tries {
		if err := h.look(ctx); err != nil {
			return 0, err
		}
		taken := false
		for _, d := range h.known {
			if st.isDomain(b, d) {
				if h.ids == nil {
					h.ids = map[wanted]uint32{}
				}
				h.ids[want] = d.BdID
				return d.BdID, nil
			}
			taken = taken || d.BdID == id
		}
		if taken {
			id = id%maxBridgeDomain + 1
			continue
		}
		on := func(p *bool) bool { return p == nil || *p }
		_, err := call(ctx, h.session, func(ctx context.Context) (*l2.BridgeDomainAddDelV2Reply, error) {
			return l2.NewServiceClient(h.conn).BridgeDomainAddDelV2(ctx, &l2.BridgeDomainAddDelV2{
				IsAdd: true, BdID: id, Flood: on(b.Flood), UuFlood: on(b.Flood), Forward: true, Learn: on(b.Learn), ArpTerm: b.ARPTermination, BdTag: st.DomainTag,
			})
		})
		if err != nil && !answered(err, codeBDExists) {
			return 0, fmt.Errorf("make bridge domain %d: %w", id, err)
		}
		if err == nil {
			w.made = append(w.made, fmt.Sprintf("bridge domain %d", id))
		}
		h.stale = true // somebody may have made one of that id, or of that name, meanwhile
	}
	return 0, fmt.Errorf("bridge domain %s: no id is free near %d", b.Name, st.Domain)
}

// lockDomain keeps a domain from going with its last member while another one
// joins: joining a domain that is not there makes one, which nobody would own.
func (s *session) lockDomain(ctx context.Context, tag string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	return lock.Take(ctx, "bridge-domain-"+digest(s.vpp.socket, tag), "bridge domain "+tag)
}

// isDomain tells whether a bridge domain is the attachment's.
func (s *state) isDomain(b *BridgeDomain, d *l2.BridgeDomainDetails) bool {
	return d.BdTag == s.DomainTag || b.ID != 0 && d.BdID == b.ID
}

// join makes the interface a member of its bridge domain, with the domain's tag.
func (w *wiring) join(ctx context.Context) error {
	if !w.have.joined {
		if err := w.enter(ctx); err != nil {
			return err
		}
	}
	vlan := w.c.VLAN
	if vlan == 0 || w.have.joined && w.have.vlan() == vlan {
		return nil
	}
	if err := w.step(ctx, "rewrite to vlan %d", vlan); err != nil {
		return err
	}
	return w.send(ctx, fmt.Sprintf("rewrite to vlan %d", vlan), fmt.Sprintf("vlan %d", vlan), &l2.L2InterfaceVlanTagRewrite{SwIfIndex: w.index, VtrOp: vtrPush1, PushDot1q: 1, Tag1: uint32(vlan)})
}

// enter joins, and has the domain made if need be.
func (w *wiring) enter(ctx context.Context) error {
	if err := w.step(ctx, "join bridge domain %s", w.st.DomainTag); err != nil {
		return err
	}
	domain, err := w.held.ensure(ctx, w)
	if err != nil {
		return err
	}
	return w.send(ctx, fmt.Sprintf("join bridge domain %d", domain), fmt.Sprintf("membership of bridge domain %d", domain), &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: w.index, BdID: domain, Enable: true})
}

// addressesOf are the addresses of the vswitch's side.
func (c *Config) addressesOf(ipam *types100.Result) []string {
	addresses := slices.Clone(c.Addresses)
	if !c.gateways || ipam == nil {
		return addresses
	}
	for _, ip := range ipam.IPs {
		if ip.Gateway != nil {
			ones, _ := ip.Address.Mask.Size()
			addresses = append(addresses, fmt.Sprintf("%s/%d", ip.Gateway, ones))
		}
	}
	return addresses
}

// route puts the interface into its vrf and gives it addresses and routes.
func (w *wiring) route(ctx context.Context) error {
	for family, table := range w.have.tables {
		if table == w.c.VRF {
			continue
		}
		if err := w.enterTable(ctx, family == 1); err != nil {
			return err
		}
	}
	for _, text := range w.c.addressesOf(w.a.IPAM) {
		if w.have.hasAddress(text) {
			continue
		}
		if err := w.step(ctx, "add address %s", text); err != nil {
			return err
		}
		if err := w.setAddress(ctx, text, true); err != nil {
			return fmt.Errorf("add address %s: %w", text, err)
		}
		w.mended("address %s", text)
	}
	for i, r := range w.c.Routes {
		if w.have.routed(i) {
			continue
		}
		if err := w.step(ctx, "add route %s", r.Dst); err != nil {
			return err
		}
		if err := w.setRoute(ctx, w.c.VRF, r, w.index, true); err != nil {
			return fmt.Errorf("add route %s: %w", r.Dst, err)
		}
		w.mended("route %s", r.Dst)
	}
	return nil
}

// enterTable puts the interface into the table of a family. It must have no
// address of the family then (VPP's fib_api.c, -105): one of another table is of
// no use.
func (w *wiring) enterTable(ctx context.Context, six bool) error {
	if err := w.step(ctx, "join vrf %d", w.c.VRF); err != nil {
		return err
	}
	for _, p := range w.have.addresses {
		if p.Addr().Is6() != six {
			continue
		}
		if err := w.setAddress(ctx, p.String(), false); err != nil {
			return fmt.Errorf("delete address %s of another vrf: %w", p, err)
		}
	}
	w.have.addresses = slices.DeleteFunc(w.have.addresses, func(p netip.Prefix) bool { return p.Addr().Is6() == six })
	if _, err := call(ctx, w.session, func(ctx context.Context) (*interfaces.SwInterfaceSetTableReply, error) {
		return interfaces.NewServiceClient(w.conn).SwInterfaceSetTable(ctx, &interfaces.SwInterfaceSetTable{SwIfIndex: w.index, IsIPv6: six, VrfID: w.c.VRF})
	}); err != nil {
		return fmt.Errorf("join vrf %d (is there such a table, for both families?): %w", w.c.VRF, err)
	}
	w.mended("vrf %d", w.c.VRF)
	return nil
}

func (w *wiring) setAddress(ctx context.Context, text string, add bool) error {
	prefix, err := ip_types.ParseAddressWithPrefix(text)
	if err != nil {
		return err
	}
	_, err = call(ctx, w.session, func(ctx context.Context) (*interfaces.SwInterfaceAddDelAddressReply, error) {
		return interfaces.NewServiceClient(w.conn).SwInterfaceAddDelAddress(ctx, &interfaces.SwInterfaceAddDelAddress{SwIfIndex: w.index, IsAdd: add, Prefix: prefix})
	})
	return err
}

// pathOf is a route's path through an interface.
func pathOf(vrf uint32, r Route, index interface_types.InterfaceIndex) (fib_types.FibPath, error) {
	path := fib_types.FibPath{SwIfIndex: uint32(index), TableID: vrf, Weight: 1, Proto: fib_types.FIB_API_PATH_NH_PROTO_IP4}
	dst, err := netip.ParsePrefix(r.Dst)
	if err != nil {
		return path, err
	}
	if dst.Addr().Is6() {
		path.Proto = fib_types.FIB_API_PATH_NH_PROTO_IP6
	}
	if r.GW != "" {
		gw, err := ip_types.ParseAddress(r.GW)
		if err != nil {
			return path, err
		}
		path.Nh.Address = gw.Un
	}
	return path, nil
}

func (s *session) setRoute(ctx context.Context, vrf uint32, r Route, index interface_types.InterfaceIndex, add bool) error {
	prefix, err := ip_types.ParsePrefix(r.Dst)
	if err != nil {
		return err
	}
	path, err := pathOf(vrf, r, index)
	if err != nil {
		return err
	}
	_, err = call(ctx, s, func(ctx context.Context) (*ip.IPRouteAddDelReply, error) {
		return ip.NewServiceClient(s.conn).IPRouteAddDel(ctx, &ip.IPRouteAddDel{
			IsAdd: add, IsMultipath: true, Route: ip.IPRoute{TableID: vrf, Prefix: prefix, NPaths: 1, Paths: []fib_types.FibPath{path}},
		})
	})
	return err
}

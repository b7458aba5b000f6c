package standin_test

import (
	"net/netip"
	"testing"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// Tag rewrites of the API.
const (
	push1       = 1
	pop1        = 3
	translate11 = 5
)

func (r *rig) rewrite(i index, op, tag uint32) {
	r.t.Helper()
	r.do(&l2.L2InterfaceVlanTagRewrite{SwIfIndex: i, VtrOp: op, PushDot1q: 1, Tag1: tag}, &l2.L2InterfaceVlanTagRewriteReply{})
}

// vlan makes a sub-interface that is up.
func (r *rig) vlan(i index, id uint32) index {
	r.t.Helper()
	reply := &interfaces.CreateVlanSubifReply{}
	r.do(&interfaces.CreateVlanSubif{SwIfIndex: i, VlanID: id}, reply)
	r.up(reply.SwIfIndex)
	return reply.SwIfIndex
}

// An access port tags what comes in and untags what goes out; a trunk sees tags.
func TestPush(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	access, trunk := r.server0(r.path("access")), r.server0(r.path("trunk"))
	r.join(access, 1)
	r.join(trunk, 1)
	r.rewrite(access, push1, 100)
	a, b := r.peer(r.path("access"), memif.Options{}), r.peer(r.path("trunk"), memif.Options{})
	r.transfer(a, b, 1000, memif.Traffic{})
	r.transfer(b, a, 1000, memif.Traffic{Tags: []uint16{100}})
	if err := b.Send(t.Context(), 10, memif.Traffic{To: a.MAC()}); err != nil { // no tag to take: dropped
		t.Fatal(err)
	}
	r.transfer(b, a, 1, memif.Traffic{Tags: []uint16{100, 7}})
	r.clean(b, "1000 frames, 1000 tagged 100")
	r.clean(a, "1001 frames, 1 tagged 7")
	r.refused(int32(api.INVALID_VLAN_TAG_COUNT), &l2.L2InterfaceVlanTagRewrite{SwIfIndex: trunk, VtrOp: pop1}, &l2.L2InterfaceVlanTagRewriteReply{})
	r.refused(int32(api.INVALID_VALUE), &l2.L2InterfaceVlanTagRewrite{SwIfIndex: trunk, VtrOp: 9}, &l2.L2InterfaceVlanTagRewriteReply{})
}

// The VLANs of a trunk are in different bridge domains.
func TestPop(t *testing.T) {
	r := newRig(t, standin.Options{})
	trunk := r.server0(r.path("trunk"))
	p := r.peer(r.path("trunk"), memif.Options{})
	var pods []*memif.Peer
	for _, id := range []uint32{10, 20} {
		r.addBridge(id)
		sub := r.vlan(trunk, id)
		r.join(sub, id)
		r.rewrite(sub, pop1, 0)
		file := r.path("pod" + string(rune('0'+id/10)))
		r.join(r.server0(file), id)
		pods = append(pods, r.peer(file, memif.Options{}))
	}
	r.transfer(p, pods[0], 1000, memif.Traffic{Tags: []uint16{10}})
	r.transfer(p, pods[1], 1000, memif.Traffic{Tags: []uint16{20}, To: broadcast})
	r.transfer(pods[0], p, 1000, memif.Traffic{})
	r.transfer(pods[1], p, 1000, memif.Traffic{})
	for _, tags := range [][]uint16{nil, {30}} { // of no VLAN
		if err := p.Send(t.Context(), 10, memif.Traffic{Tags: tags, To: broadcast}); err != nil {
			t.Fatal(err)
		}
	}
	r.clean(p, "2000 frames, 1000 tagged 10, 1000 tagged 20")
	r.clean(pods[0], "1000 frames")
	r.clean(pods[1], "1000 frames")
}

func TestTranslate(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	sub := r.vlan(r.server0(r.path("a")), 10)
	r.join(sub, 1)
	r.rewrite(sub, translate11, 200)
	r.join(r.server0(r.path("b")), 1)
	a, b := r.peer(r.path("a"), memif.Options{}), r.peer(r.path("b"), memif.Options{})
	r.transfer(a, b, 100, memif.Traffic{Tags: []uint16{10}})
	r.transfer(b, a, 100, memif.Traffic{Tags: []uint16{200}})
	r.clean(b, "100 frames, 100 tagged 200")
	r.clean(a, "100 frames, 100 tagged 10")
}

func TestPingVLAN(t *testing.T) {
	r := newRig(t, standin.Options{})
	sub := r.vlan(r.server0(r.path("a")), 10)
	r.address(sub, "10.0.0.1/24")
	p := r.peer(r.path("a"), memif.Options{})
	if _, err := p.Ping(t.Context(), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"), 10); err != nil {
		t.Error(err)
	}
}

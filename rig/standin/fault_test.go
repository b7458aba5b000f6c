package standin_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memclnt"
	binmemif "go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/binapi/vhost_user"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

func addBridge(id uint32) *l2.BridgeDomainAddDelV2 {
	return &l2.BridgeDomainAddDelV2{BdID: id, IsAdd: true}
}

func TestRefuse(t *testing.T) {
	const name = "bridge_domain_add_del_v2"
	r := newRig(t, standin.Options{Faults: []standin.Fault{
		{Message: name, Occurrence: 2, Retval: -9}, {Message: name, Occurrence: 3, Act: true, Retval: -10},
	}})
	for _, code := range []int32{0, -9, -10, 0} {
		reply := &l2.BridgeDomainAddDelV2Reply{}
		r.refused(code, addBridge(uint32(r.server.Count(name)+1)), reply)
	}
	for id, there := range map[string]bool{"1": true, "2": false, "3": true, "4": true} {
		if strings.Contains(r.server.State(), "bridge-domain "+id+" ") != there {
			t.Errorf("bridge domain %s is there: %t:\n%s", id, !there, r.server.State())
		}
	}
	if err := r.server.SetFaults(standin.Fault{Message: "memif_dump"}); err == nil {
		t.Error("a dump can be refused")
	}
	if err := r.server.SetFaults(standin.Fault{Message: "x"}); err == nil {
		t.Error("what is no message can be refused")
	}
	if m := r.server.Messages(); m[0].Name != "sockclnt_create" || m[0].Client != "govppsock" || m[1].Name != name {
		t.Errorf("messages: %+v", m)
	}
}

func TestSilenceAndCut(t *testing.T) {
	for name, c := range map[string]struct {
		fault standin.Fault
		acts  bool
	}{
		"silent":         {standin.Fault{Ending: standin.Silence}, false},
		"silent, acting": {standin.Fault{Ending: standin.Silence, Act: true}, true},
		"cut":            {standin.Fault{Ending: standin.Cut}, false},
		"cut, acting":    {standin.Fault{Ending: standin.Cut, Act: true}, true},
		"dying":          {standin.Fault{Ending: standin.Die}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.fault.Message = "bridge_domain_add_del_v2"
			r := newRig(t, standin.Options{Faults: []standin.Fault{c.fault}})
			r.ch.SetReplyTimeout(300 * time.Millisecond)
			err := r.ch.SendRequest(addBridge(3)).ReceiveReply(&l2.BridgeDomainAddDelV2Reply{})
			var code api.VPPApiError
			if err == nil || errors.As(err, &code) {
				t.Errorf("answer: %v", err)
			}
			if got := strings.Contains(r.server.State(), "bridge-domain 3 "); got != c.acts {
				t.Errorf("it has acted: %t", got)
			}
			if c.fault.Ending == standin.Die {
				<-r.server.Done()
			}
		})
	}
}

// After a restart everything is lost, and a client of before is connected again.
func TestRestart(t *testing.T) {
	r := newRig(t, standin.Options{})
	empty := r.server.State()
	r.addBridge(1)
	r.join(r.server0(r.path("a")), 1)
	p := r.peer(r.path("a"), memif.Options{})
	r.server.Close()
	if err := p.WaitNoLink(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(r.path("a")); err != nil {
		t.Errorf("the socket file has not stayed: %v", err)
	}
	var err error
	if r.server, err = standin.Start(t.Context(), r.dir, standin.Options{RuntimeDir: r.path("run")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.server.Close)
	if got := r.server.State(); got != empty {
		t.Errorf("state after restart:\n%s", got)
	}
	r.conn, r.ch = connect(t, r.server.Socket())
	r.server0(r.path("a")) // over the stale socket
	if err := p.WaitLink(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProcess(t *testing.T) {
	program := filepath.Join(t.TempDir(), "serve")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./serve").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	var states [2]string
	for n := range states {
		p, err := standin.StartProcess(t.Context(), program, dir, "-runtime-dir", dir, "-crc", "show_version=")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		if states[n], err = p.State(); err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, dir: dir}
		r.conn, r.ch = connect(t, p.Socket())
		r.addBridge(1)
		r.join(r.server0(r.path("a")), 1)
		peer := r.peer(r.path("a"), memif.Options{})
		if text, err := p.State(); err != nil || text == states[n] {
			t.Errorf("state is as in the beginning (%v):\n%s", err, text)
		}
		p.Kill()
		if err := peer.WaitNoLink(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if states[0] != states[1] {
		t.Errorf("state after a kill:\n%sbefore:\n%s", states[1], states[0])
	}
}

func TestEvents(t *testing.T) {
	r := newRig(t, standin.Options{})
	events := make(chan api.Message, 100)
	sub, err := r.ch.SubscribeNotification(events, &interfaces.SwInterfaceEvent{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	want := &interfaces.WantInterfaceEvents{EnableDisable: 1, PID: 42}
	r.do(want, &interfaces.WantInterfaceEventsReply{})
	r.refused(int32(api.INVALID_REGISTRATION), want, &interfaces.WantInterfaceEventsReply{})
	i := r.server0(r.path("a"))
	p := r.peer(r.path("a"), memif.Options{})
	next := func(flags interface_types.IfStatusFlags, deleted bool) {
		t.Helper()
		select {
		case m := <-events:
			e := m.(*interfaces.SwInterfaceEvent)
			if e.SwIfIndex != i || e.Flags != flags || e.Deleted != deleted || e.PID != 42 {
				t.Errorf("event %+v, want flags %d, deleted %t", e, flags, deleted)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no event")
		}
	}
	next(0, false)
	next(1, false)
	next(3, false)
	p.Close()
	next(1, false)
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	next(0, true)
}

func TestVhostAndTap(t *testing.T) {
	r := newRig(t, standin.Options{})
	before := r.server.State()
	vhost := &vhost_user.CreateVhostUserIfV2{IsServer: true, SockFilename: r.path("v"), Tag: "vt"}
	created := &vhost_user.CreateVhostUserIfV2Reply{}
	r.do(vhost, created)
	r.refused(int32(api.IF_ALREADY_EXISTS), vhost, &vhost_user.CreateVhostUserIfV2Reply{})
	tap := &tapv2.TapCreateV3{ID: unset, UseRandomMac: true, HostIfNameSet: true, HostIfName: "tap-x", Tag: "tt"}
	made := &tapv2.TapCreateV3Reply{}
	r.do(tap, made)
	r.refused(int32(api.INVALID_INTERFACE), &tapv2.TapCreateV3{ID: 0}, &tapv2.TapCreateV3Reply{})
	all := dump[vhost_user.SwInterfaceVhostUserDetails](r, &vhost_user.SwInterfaceVhostUserDump{SwIfIndex: index(unset)})
	if len(all) != 1 || all[0].SockFilename != r.path("v") || all[0].SwIfIndex != created.SwIfIndex || !all[0].IsServer {
		t.Errorf("vhost-user interfaces: %+v", all)
	}
	taps := dump[tapv2.SwInterfaceTapV2Details](r, &tapv2.SwInterfaceTapV2Dump{SwIfIndex: index(unset)})
	if len(taps) != 1 || taps[0].HostIfName != "tap-x" || taps[0].DevName != "tap0" || taps[0].SwIfIndex != uint32(made.SwIfIndex) {
		t.Errorf("taps: %+v", taps)
	}
	r.addBridge(1)
	r.join(created.SwIfIndex, 1)
	if text := r.server.State(); !strings.Contains(text, "members=[vt]") {
		t.Errorf("state:\n%s", text)
	}
	r.do(&vhost_user.DeleteVhostUserIf{SwIfIndex: created.SwIfIndex}, &vhost_user.DeleteVhostUserIfReply{})
	r.do(&tapv2.TapDeleteV2{SwIfIndex: made.SwIfIndex}, &tapv2.TapDeleteV2Reply{})
	r.do(&l2.BridgeDomainAddDelV2{BdID: 1}, &l2.BridgeDomainAddDelV2Reply{})
	if after := r.server.State(); after != before {
		t.Errorf("state afterwards:\n%sbefore:\n%s", after, before)
	}
	ping := &memclnt.ControlPingReply{}
	r.do(&memclnt.ControlPing{}, ping)
	if ping.VpePID != uint32(os.Getpid()) {
		t.Errorf("ping: %+v", ping)
	}
}

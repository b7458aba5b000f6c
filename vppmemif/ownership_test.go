package vppmemif

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
)

// A DEL without record follows an ADD that Prepare refused. The attachment that
// has the socket is another pod's.
func TestRefusedDelLeavesOthersSocket(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	keys := map[string]any{"socket": map[string]any{"file": "m.sock"}}
	volume := filepath.Join(r.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	a, b := shared(r.attachment(sandboxA, keys), volume), shared(r.attachment(sandboxB, keys), volume)
	mustAttach(t, d, a)
	before := r.world()
	_, err := d.prepare(bounded(t), b)
	wantError(t, err, "m.sock", "is used by", "socket.file")
	mustDel(t, d, b, nil)
	same(t, before, r.world())
}

// As before, and the memif was made by hand.
func TestRefusedDelLeavesForeignMemif(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	volume := filepath.Join(r.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	r.admin().memif(filepath.Join(volume, "m.sock"))
	a := shared(r.attachment(sandboxA, map[string]any{"socket": map[string]any{"file": "m.sock"}}), volume)
	before := r.world()
	_, err := d.prepare(bounded(t), a)
	wantError(t, err, "is used by")
	mustDel(t, d, a, nil)
	same(t, before, r.world())
}

// Somebody uses the attachment's socket for a memif of their own, with a tag.
func TestForeignMemifOnOurSocket(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	_ = raw
	// The pod puts a file of its own beside the socket; the record is lost.
	s := stateOf(t, raw)
	before := strings.Count(r.State(), "kind=memif")
	if err := os.WriteFile(filepath.Join(s.Dir, "pid"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := d.del(bounded(t), a, nil)
	if n := strings.Count(r.State(), "kind=memif"); err == nil && n == before {
		t.Errorf("Del without state says success and leaves:\n%s", r.State())
	}
}

// On DEL the network namespace may be gone and its path empty (CNI 1.1.0, DEL).
func TestAbstractWithoutNetns(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, map[string]any{"socket": map[string]any{"abstract": true}})
	a.Netns = newPod(t)
	before := r.world()
	mustAttach(t, d, a)
	a.Netns = ""
	mustDel(t, d, a, nil)
	same(t, before, r.world())
}

// One request that its runtime gives up does not end the others'.
func TestCancelledLeavesOthers(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a, b := r.attachment(sandboxA, nil), r.attachment(sandboxB, nil)
	rawA, err := d.prepare(bounded(t), a)
	if err != nil {
		t.Fatal(err)
	}
	rawB, err := d.prepare(bounded(t), b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	var once sync.Once
	gone, inCreate, proceed := make(chan error), make(chan bool), make(chan bool)
	r.onMessage(func(m standin.Message) {
		if m.Name == "memif_create_v2" {
			once.Do(func() { close(inCreate); <-proceed })
		}
	})
	done := make(chan error)
	go func() { _, err := add(bounded(t), d, b, rawB); done <- err }()
	<-inCreate // b waits for VPP's answer, on the connection they share
	go func() { _, err := add(ctx, d, a, rawA); gone <- err }()
	cancel()
	if err := <-gone; err == nil {
		t.Error("a request without time succeeds")
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Errorf("the other request: %v", err)
	}
}

// A message that is never sent may differ.
func TestUnusedMessage(t *testing.T) {
	r, d := newRig(t, standin.Options{CRC: map[string]string{"ip_table_add_del": "deadbeef"}}), newDelegate(t)
	mustAttach(t, d, r.attachment(sandboxA, nil))
	if r.Count("ip_table_add_del") > 0 {
		t.Error("it is sent")
	}
}

// A message that is used and that VPP does not speak is named, with VPP's
// version if it tells one.
func TestMessageDiffers(t *testing.T) {
	for _, message := range []string{"control_ping", "memif_create_v2"} {
		r := newRig(t, standin.Options{Version: "23.02-x", CRC: map[string]string{message: "deadbeef"}})
		_, err := newDelegate(t).prepare(bounded(t), r.attachment(sandboxA, nil))
		wantError(t, err, message, "does not speak", "23.02-x")
	}
}

// parse takes what cannot be or means something else.
func TestParseRefusesMore(t *testing.T) {
	long := strings.Repeat("x", 251)
	for keys, says := range map[string]string{
		`"socket": {"file": "../x"}`:                               `"socket.file"`,
		`"socket": {"file": "a/b"}`:                                `"socket.file"`,
		`"socket": {"file": ".."}`:                                 `"socket.file"`,
		`"socket": {"file": "` + long + `"}`:                       `"socket.file"`,
		`"socket": {"file": "a\u0000b"}`:                           `"socket.file"`,
		`"socket": {"file": "a,netns_name=x"}`:                     "", // of a folder: a name as any
		`"socket": {"abstract": true, "file": "a,b"}`:              `"socket.file"`,
		`"socket": {"abstract": true, "file": "a=b"}`:              `"socket.file"`,
		`"socket": {"abstract": true, "file": "a\u0000b"}`:         `"socket.file"`,
		`"socket": {"dir": "/"}`:                                   `"socket.dir"`,
		`"socket": {"dir": "/a\u0000b"}`:                           `"socket.dir"`,
		`"secret": "a\u0000b"`:                                     `"secret"`,
		`"bridgeDomain": {"name": "a\u0000b"}`:                     `"bridgeDomain.name"`,
		`"routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]`:       `"routes[0].gw"`,
		`"routes": [{"dst": "fd00::/8", "gw": "10.0.0.1"}]`:        `"routes[0].gw"`,
		`"routes": [{"dst": "fd00::/8", "gw": "::ffff:10.0.0.1"}]`: `"routes[0].gw"`,
		`"routes": [{"dst": "::ffff:10.0.0.0/104"}]`:               `"routes[0].dst"`,
		`"addresses": ["::ffff:10.0.0.1/120"]`:                     `"addresses[0]"`,
	} {
		_, _, err := parse("n", []byte("{"+keys+"}"))
		if says == "" {
			if err != nil {
				t.Errorf("%s: %v", keys, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s is accepted", keys)
		} else {
			wantError(t, err, says)
		}
	}
}

// A state that would make Del remove what is another's.
func TestTamperedState(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	raw := mustAttach(t, d, r.attachment(sandboxA, nil))
	for what, change := range map[string]func(*state){
		"tag of another":     func(s *state) { s.Tag = tag(testOwner, sandboxB, "net1") },
		"no tag of plexus":   func(s *state) { s.Tag = "x" },
		"socket elsewhere":   func(s *state) { s.Socket = "/run/other.sock" },
		"api not absolute":   func(s *state) { s.API = "x" },
		"link of another":    func(s *state) { s.Link = "/run/plexus/short/memif-0123" },
		"configuration file": func(s *state) { s.Config = "x" },
		"domain of another":  func(s *state) { s.DomainTag = "other" },
		"abstract elsewhere": func(s *state) { s.Abstract = "x" },
	} {
		s := stateOf(t, raw)
		change(s)
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(&delegates.Attachment{Owner: testOwner, Sandbox: sandboxA, IfName: "net1", State: data}); err == nil {
			t.Errorf("%s is accepted: %s", what, data)
		}
	}
}

// A sweep leaves nothing: neither the folder that was made, nor the short link.
func TestSweepFolder(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, nil)
	before := r.world()
	mustAttach(t, d, a)
	if err := r.sweep(d, func(string, string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	same(t, before, r.world())
}

// What is on our socket with somebody else's tag stays, and Del goes through.
func TestTaggedByOthersOnOurSocket(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	other := r.admin()
	sockets := r.socketIDs(d)
	other.second(sockets[stateOf(t, raw).Socket], 9, "other")
	mustDel(t, d, a, raw)
	if !strings.Contains(r.State(), "interface other kind=memif") {
		t.Errorf("it is gone:\n%s", r.State())
	}
	if err := r.sweep(d, func(string, string) bool { return false }); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	// Its listener goes on.
	conn, err := net.Dial("unixpacket", stateOf(t, raw).Socket)
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}

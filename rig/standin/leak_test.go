package standin_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.fd.io/govpp/binapi/l2"
	binmemif "go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// A stand-in that is closed leaves no open file, whatever it was doing.
func TestCloseLeavesNothing(t *testing.T) {
	files := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := 0
	for round := range 4 {
		dir := t.TempDir()
		s, err := standin.Start(t.Context(), dir, standin.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, dir: dir, server: s}
		conn, ch := connect(t, s.Socket())
		r.conn, r.ch = conn, ch
		r.addBridge(1)
		var peers []*memif.Peer
		for _, name := range []string{"a", "b", "c"} {
			r.join(r.server0(filepath.Join(dir, name)), 1)
			peers = append(peers, r.peer(filepath.Join(dir, name), memif.Options{}))
		}
		r.transfer(peers[0], peers[1], 100, memif.Traffic{})
		flood := make(chan error)
		go func() { flood <- peers[2].Send(t.Context(), 1000, memif.Traffic{To: broadcast}) }()
		if err := <-flood; err != nil {
			t.Fatal(err)
		}
		conn.Disconnect()
		s.Close()
		for _, p := range peers {
			p.Close()
		}
		// The first round opens what the runtime keeps.
		if round == 0 {
			before = files()
			continue
		}
		for deadline := time.Now().Add(10 * time.Second); files() > before; {
			if time.Now().After(deadline) {
				t.Fatalf("%d files are open, after the first round %d", files(), before)
			}
		}
	}
}

// Interfaces and bridge domains that come and go leave the state as it was, and
// the peers of others undisturbed.
func TestChurn(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	for _, name := range []string{"a", "b"} {
		r.join(r.server0(r.path(name)), 1)
	}
	a, b := r.peer(r.path("a"), memif.Options{}), r.peer(r.path("b"), memif.Options{})
	before := r.server.State()
	done := make(chan error, 1)
	go func() {
		_, err := memif.Transfer(t.Context(), a, b, 20_000, memif.Traffic{})
		done <- err
	}()
	for range 50 {
		id := r.addSocket(r.path("c"))
		i, code := r.create(&binmemif.MemifCreateV2{SocketID: id})
		if code != 0 {
			t.Fatal(code)
		}
		r.up(i)
		r.addBridge(2)
		r.join(i, 2)
		c := r.peer(r.path("c"), memif.Options{})
		if err := c.Send(t.Context(), 10, memif.Traffic{}); err != nil {
			t.Fatal(err)
		}
		r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
		r.do(&l2.BridgeDomainAddDelV2{BdID: 2}, &l2.BridgeDomainAddDelV2Reply{})
		r.do(&binmemif.MemifSocketFilenameAddDelV2{SocketID: id}, &binmemif.MemifSocketFilenameAddDelV2Reply{})
		c.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.clean(b, "20000 frames")
	if after := r.server.State(); after != before {
		t.Errorf("state afterwards:\n%sbefore:\n%s", after, before)
	}
}

package vppmemif

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// foreign makes objects of another client.
func (r *rig) foreign() {
	r.t.Helper()
	by := r.admin()
	by.memif(filepath.Join(r.dir, "theirs.sock"))
	by.domain(12, "theirs")
}

// VPP restarts between ADD and DEL; its numbers repeat and are somebody else's
// then.
func TestRestartBeforeDel(t *testing.T) {
	for _, stateless := range []bool{false, true} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		a := r.attachment(sandboxA, named("blue"))
		raw := mustAttach(t, d, a)
		r.restart()
		r.foreign()
		before := r.State()
		wantError(t, d.check(bounded(t), a, raw), "gone", "restarted")
		state := raw
		if stateless {
			state = nil
		}
		mustDel(t, d, a, state)
		mustDel(t, d, a, state)
		same(t, before, r.State())
		if _, err := os.Lstat(stateOf(t, raw).Dir); !os.IsNotExist(err) {
			t.Errorf("the folder stays: %v", err)
		}
		raw = mustAttach(t, d, a)
		linkUp(t, stateOf(t, raw).Socket, memif.Options{})
		mustDel(t, d, a, raw)
		same(t, before, r.State())
	}
}

// The second attachment gets the numbers that the first one had.
func TestRestartBetweenTwo(t *testing.T) {
	for _, keys := range []map[string]any{nil, named("blue"), {"bridgeDomain": map[string]any{"id": 12}}} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		a, b := r.attachment(sandboxA, keys), r.attachment(sandboxB, keys)
		first := mustAttach(t, d, a)
		r.restart()
		second := mustAttach(t, d, b)
		before := r.State()
		mustDel(t, d, a, first)
		same(t, before, r.State())
		if err := d.check(bounded(t), b, second); err != nil {
			t.Error(err)
		}
		linkUp(t, stateOf(t, second).Socket, memif.Options{})
	}
}

// VPP dies in the middle of ADD, at each of its messages.
func TestRestartWithinAdd(t *testing.T) {
	t.Parallel()
	for _, message := range []string{"memif_socket_filename_add_del_v2", "memif_create_v2", "sw_interface_tag_add_del", "bridge_domain_add_del_v2",
		"sw_interface_set_l2_bridge", "sw_interface_set_flags"} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			a := r.attachment(sandboxA, named("blue"))
			raw, err := d.prepare(bounded(t), a)
			if err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			hit := make(chan bool)
			r.onMessage(func(m standin.Message) {
				if m.Name == message {
					once.Do(func() { close(hit) })
				}
			})
			r.faults(standin.Fault{Message: message, Ending: standin.Die})
			_, err = add(bounded(t), d, a, raw)
			wantError(t, err, "VPP at")
			<-hit
			r.restart()
			r.foreign()
			before := r.State()
			mustDel(t, d, a, raw)
			same(t, before, r.State())
			raw = mustAttach(t, d, a)
			linkUp(t, stateOf(t, raw).Socket, memif.Options{})
		})
	}
}

// A VPP that does not run has nothing; the folder goes nevertheless.
func TestNotRunning(t *testing.T) {
	for _, file := range []string{"left", "gone"} {
		for _, known := range []bool{false, true} { // to the delegate
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			a := r.attachment(sandboxA, named("blue"))
			raw := mustAttach(t, d, a)
			r.Close()
			if file == "gone" {
				if err := os.Remove(r.Socket()); err != nil {
					t.Fatal(err)
				}
			}
			if !known {
				d = newDelegate(t)
			}
			wantError(t, d.check(bounded(t), a, raw), "unreachable")
			mustDel(t, d, a, raw)
			mustDel(t, d, a, nil)
			if entries, err := os.ReadDir(r.dir); err != nil || len(entries) > 0 {
				t.Errorf("left: %v %v", entries, err)
			}
			_, err := d.prepare(bounded(t), a)
			wantError(t, err, r.Socket(), "is vpp running")
			var temporary interface{ Temporary() bool }
			if !asTemporary(err, &temporary) {
				t.Errorf("not temporary: %v", err)
			}
			r.start(standin.Options{})
			mustAttach(t, d, a)
		}
	}
}

func asTemporary(err error, to *interface{ Temporary() bool }) bool {
	found, ok := err.(interface{ Temporary() bool })
	*to = found
	return ok && found.Temporary()
}

// VPP cannot listen; when it can, the same attachment has a real listener.
func TestListenFailure(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, s *state) (mend func()){
		"somebody listens": func(t *testing.T, s *state) func() {
			l, err := net.Listen("unixpacket", s.Socket)
			if err != nil {
				t.Fatal(err)
			}
			return func() { l.Close() }
		},
		"regular file": func(t *testing.T, s *state) func() {
			if err := os.WriteFile(s.Socket, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			return func() { _ = os.Remove(s.Socket) }
		},
		"folder deleted": func(t *testing.T, s *state) func() {
			if err := os.RemoveAll(s.Dir); err != nil {
				t.Fatal(err)
			}
			return func() {}
		},
		"folder replaced": func(t *testing.T, s *state) func() {
			if err := os.RemoveAll(s.Dir); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.Dir, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			return func() { _ = os.Remove(s.Dir) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			before := r.world()
			a := r.attachment(sandboxA, named("blue"))
			raw, err := d.prepare(bounded(t), a)
			if err != nil {
				t.Fatal(err)
			}
			s := stateOf(t, raw)
			mend := func() {}
			r.onMessage(func(m standin.Message) {
				if m.Name == "memif_create_v2" {
					mend = spoil(t, s)
				}
			})
			_, err = add(bounded(t), d, a, raw)
			wantError(t, err, s.Socket, "may VPP write")
			r.onMessage(func(standin.Message) {})
			mend()
			mustDel(t, d, a, raw)
			same(t, before, r.world())
			raw = mustAttach(t, d, a)
			linkUp(t, s.Socket, memif.Options{})
			mustDel(t, d, a, raw)
			same(t, before, r.world())
		})
	}
}

// A real peer on each kind of socket.
func TestPeers(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	before := r.world()
	var all []json.RawMessage
	abstract := r.attachment(sandboxA, map[string]any{"socket": map[string]any{"abstract": true}, "secret": strings.Repeat("s", maxSecret)})
	abstract.Netns = newPod(t)
	all = append(all, mustAttach(t, d, abstract))
	linkUp(t, stateOf(t, all[0]).Socket, memif.Options{Secret: strings.Repeat("s", maxSecret)})
	client := r.attachment(sandboxB, map[string]any{"role": "client"})
	all = append(all, mustAttach(t, d, client))
	linkUp(t, stateOf(t, all[1]).Socket, memif.Options{Server: true})
	long := shared(r.attachment(strings.Repeat("c", 64), nil), filepath.Join(r.dir, strings.Repeat("l", 120)))
	all = append(all, mustAttach(t, d, long))
	linkUp(t, stateOf(t, all[2]).Socket, memif.Options{})
	mustDel(t, d, abstract, all[0])
	mustDel(t, d, client, all[1])
	if s := stateOf(t, all[2]); s.Link == "" {
		t.Errorf("no short path: %+v", s)
	}
	mustDel(t, d, long, all[2])
	same(t, before, r.world())
}

// A VPP that dies has the kernel send away whom it let wait, and the end of a
// connection may be seen before nobody can come any more. DEL asks once more then,
// and finds that there is no VPP.
func TestDyingAPISocket(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *net.UnixListener) error{
		"before it accepts": func(t *testing.T, l *net.UnixListener) error {
			waitFor(t, l)
			return nil
		},
		"after": func(t *testing.T, l *net.UnixListener) error {
			waitFor(t, l)
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			return conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			a := r.attachment(sandboxA, nil)
			raw := mustAttach(t, d, a)
			r.Close()
			d.Close() // as another process
			socket := filepath.Join(r.vpp, standin.SocketName)
			if err := os.Remove(socket); err != nil {
				t.Fatal(err)
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.SetUnlinkOnClose(false)
			done := make(chan error, 1)
			go func() { done <- d.del(bounded(t), a, raw) }()
			if err := end(t, l); err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// waitFor returns when somebody waits to be accepted.
func waitFor(t *testing.T, l *net.UnixListener) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 10_000)
		for err == unix.EINTR {
			n, err = unix.Poll(fds, 10_000)
		}
		if n != 1 {
			t.Errorf("nobody came: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// addresses is a network n of host-local, and its folder.
type addresses struct {
	t      *testing.T
	base   string
	folder string
}

func newAddresses(t *testing.T) *addresses {
	base := t.TempDir()
	a := &addresses{t, base, filepath.Join(base, "n")}
	if err := os.Mkdir(a.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *addresses) config() string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n", "type": "builtin", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.9.0.0/29"}], [{"subnet": "fd00::/120"}]]}}`, a.base)
}

func (a *addresses) of(sandbox string) *hostLocal {
	a.t.Helper()
	h, err := newHostLocal(&delegates.Attachment{Sandbox: sandbox, IfName: "net1", Bounds: conf.Bounds{}.ForOwn()}, []byte(a.config()), nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return h
}

func (a *addresses) mustAdd(sandbox string) {
	a.t.Helper()
	if r, err := a.of(sandbox).add(a.t.Context()); err != nil || len(r.IPs) != 2 {
		a.t.Fatalf("%v, %v", r, err)
	}
}

func (a *addresses) write(name, text string) string {
	a.t.Helper()
	file := filepath.Join(a.folder, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// files are the addresses that are reserved.
func (a *addresses) files() string {
	a.t.Helper()
	entries, err := os.ReadDir(a.folder)
	if err != nil {
		a.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != addressLock && !strings.HasPrefix(e.Name(), lastReserved) {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// An address whose file is empty is of a process that was killed while it reserved it:
// it is given away again. One with an owner is not.
func TestHostLocalAfterAKill(t *testing.T) {
	a := newAddresses(t)
	first := a.write("10.9.0.2", "")
	a.mustAdd("one")
	if data, err := os.ReadFile(first); err != nil || string(data) != "one\r\nnet1" {
		t.Errorf("%q, %v", data, err)
	}
	a.mustAdd("two")
	if got := a.files(); got != "10.9.0.2 10.9.0.3 fd00::2 fd00::3" {
		t.Error(got)
	}
	if _, err := a.of("one").add(t.Context()); err == nil || !strings.Contains(err.Error(), "duplicate allocation") {
		t.Errorf("a second address for one: %v", err)
	}
	if err := a.of("one").check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := a.of("one").del(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := a.files(); got != "10.9.0.3 fd00::3" {
		t.Error(got)
	}
	if err := a.of("one").check(t.Context()); err == nil || !strings.Contains(err.Error(), "no address is reserved for net1 of sandbox one") {
		t.Error(err)
	}
	if last, err := os.ReadFile(filepath.Join(a.folder, "last_reserved_ip.0")); err != nil || string(last) != "10.9.0.3" {
		t.Errorf("%q, %v", last, err)
	}
	a.mustAdd("three") // the search goes on behind the last one
	if got := a.files(); got != "10.9.0.3 10.9.0.4 fd00::3 fd00::4" {
		t.Error(got)
	}
}

// host-local's own store and plexus read each other's files, and take the same lock.
func TestHostLocalBesideItsExecutable(t *testing.T) {
	a := newAddresses(t)
	a.mustAdd("ours")
	store, err := disk.New("n", a.base)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if ips := store.GetByID("ours", "net1"); len(ips) != 2 {
		t.Errorf("host-local finds %v", ips)
	}
	a.write("10.9.0.5", "ours")         // the old form counts when there is no other
	a.write("10.9.0.6", "old")          // without the interface
	a.write("10.9.0.1", "ours\r\nnet2") // of another interface
	for _, sandbox := range []string{"ours", "old"} {
		if err := a.of(sandbox).del(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.files(); got != "10.9.0.1 10.9.0.5" {
		t.Error(got)
	}
	if err := store.Lock(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var coded *delegates.Error
	if err := a.of("ours").del(ctx); !errors.As(err, &coded) || coded.Code != 11 || !strings.Contains(err.Error(), a.folder) {
		t.Errorf("while the executable has the lock: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- a.of("ours").del(t.Context()) }()
	if err := store.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := a.files(); got != "10.9.0.1" {
		t.Error(got)
	}
	if err := store.Lock(); err != nil { // what gave up has left no lock
		t.Error(err)
	}
}

// asNobody calls do as a user without rights to the files of this one, when this one is root.
func asNobody(t *testing.T, do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Getuid() == 0 {
		before, err := unix.SetfsuidRetUid(65534)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(before) }()
	}
	do()
}

// What cannot be read or removed in the folder of addresses is an error of DEL, with the
// file's name, and hides nothing else.
func TestHostLocalDelFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root has a file that cannot be removed")
	}
	open := func(t *testing.T) *addresses {
		a := newAddresses(t)
		for dir := a.folder; dir != filepath.Dir(os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		a.mustAdd("one")
		for _, name := range []string{"10.9.0.2", "fd00::2", "lock"} {
			if err := os.Chmod(filepath.Join(a.folder, name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return a
	}
	t.Run("read", func(t *testing.T) {
		a := open(t)
		if err := os.Chmod(filepath.Join(a.folder, "10.9.0.2"), 0); err != nil {
			t.Fatal(err)
		}
		asNobody(t, func() {
			if err := a.of("one").del(t.Context()); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "10.9.0.2") {
				t.Errorf("DEL: %v", err)
			}
		})
		if got := a.files(); got != "10.9.0.2" {
			t.Errorf("left: %s", got)
		}
	})
	t.Run("unlink", func(t *testing.T) {
		a := open(t)
		if err := os.Chmod(a.folder, 0o555); err != nil {
			t.Fatal(err)
		}
		asNobody(t, func() {
			err := a.of("one").del(t.Context())
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "10.9.0.2") || !strings.Contains(err.Error(), "fd00::2") {
				t.Errorf("DEL: %v", err)
			}
		})
	})
	t.Run("list", func(t *testing.T) {
		a := open(t)
		if err := os.Chmod(a.folder, 0o311); err != nil {
			t.Fatal(err)
		}
		asNobody(t, func() {
			if err := a.of("one").del(t.Context()); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("DEL: %v", err)
			}
		})
	})
}

// A link that somebody has planted in the folder, or in place of it, leads nowhere: what it
// points to is not written, truncated, read or removed.
func TestHostLocalFollowsNothing(t *testing.T) {
	outside := func(t *testing.T) (dir, file string) {
		dir = t.TempDir()
		file = filepath.Join(dir, "passwd")
		if err := os.WriteFile(file, []byte("one\r\nnet1"), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir, file
	}
	same := func(t *testing.T, dir, file string) {
		t.Helper()
		data, err := os.ReadFile(file)
		entries, errDir := os.ReadDir(dir)
		if err != nil || errDir != nil || string(data) != "one\r\nnet1" || len(entries) != 1 {
			t.Errorf("outside: %q, %v, %v, %v", data, entries, err, errDir)
		}
	}
	for _, name := range []string{"last_reserved_ip.0", "last_reserved_ip.1", "lock", "10.9.0.2", "10.9.0.3", "fd00::2", "other"} {
		for how, link := range map[string]func(string, string) error{"symbolic": os.Symlink, "hard": os.Link} {
			t.Run(how+" "+name, func(t *testing.T) {
				a := newAddresses(t)
				dir, file := outside(t)
				if err := link(file, filepath.Join(a.folder, name)); err != nil {
					t.Skip(err)
				}
				if how == "hard" && !strings.HasPrefix(name, "last") && name != "lock" {
					t.Skip("a second name of a file is a file")
				}
				a.mustAdd("two")
				if err := a.of("two").check(t.Context()); err != nil {
					t.Error(err)
				}
				for _, sandbox := range []string{"two", "one"} {
					if err := a.of(sandbox).del(t.Context()); err != nil {
						t.Error(err)
					}
				}
				same(t, dir, file)
			})
		}
	}
	t.Run("a FIFO", func(t *testing.T) {
		a := newAddresses(t)
		for _, name := range []string{"10.9.0.4", "last_reserved_ip.0"} {
			if err := unix.Mkfifo(filepath.Join(a.folder, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a.mustAdd("one")
		if err := a.of("one").del(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("the folder", func(t *testing.T) {
		a := newAddresses(t)
		dir, file := outside(t)
		if err := errors.Join(os.Remove(a.folder), os.Symlink(dir, a.folder)); err != nil {
			t.Fatal(err)
		}
		_, err := a.of("one").add(t.Context())
		for _, err := range []error{err, a.of("one").del(t.Context()), a.of("one").check(t.Context())} {
			if err == nil || !strings.Contains(err.Error(), a.folder) || !strings.Contains(err.Error(), "symbolic link") {
				t.Error(err)
			}
		}
		same(t, dir, file)
	})
	t.Run("a folder below the base", func(t *testing.T) {
		a := newAddresses(t)
		dir, file := outside(t)
		if err := os.Symlink(dir, filepath.Join(a.base, "team")); err != nil {
			t.Fatal(err)
		}
		h := a.of("one")
		h.config.DataDir, h.a.Bounds = filepath.Join(a.base, "team"), conf.Bounds{IPAMDirs: []string{a.base}}
		if _, err := h.add(t.Context()); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Error(err)
		}
		if err := h.del(t.Context()); err == nil {
			t.Error("DEL followed the link")
		}
		same(t, dir, file)
	})
}

// GC releases the addresses of sandboxes that nobody knows, once for each folder, and
// nothing else.
func TestReleaseAddresses(t *testing.T) {
	a := newAddresses(t)
	a.mustAdd("gone")
	a.mustAdd("runs")
	a.write("10.9.0.4", "")
	a.write("10.9.0.5", "a note of the operator's")
	a.write("10.9.0.6", "reserved")
	a.write("notes", "gone\r\nnet1")
	of := &Runner{Delegates: map[string]delegates.Delegate{"builtin": fakeDelegate{}}, DataDir: t.TempDir()}
	list := func(typ string) *Chain {
		d := conf.Definition{Config: []byte(strings.Replace(a.config(), `"builtin"`, `"`+typ+`"`, 1))}
		l, err := d.ParseList("")
		if err != nil {
			t.Fatal(err)
		}
		c, err := of.Chain(Request{Network: conf.Network{Name: l.Name, List: *l, OfNode: true}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	seen := map[string]bool{}
	keep := func(sandbox string) bool { return sandbox == "runs" }
	if err := list("bridge").CollectAddresses(t.Context(), seen, keep); err != nil {
		t.Fatal(err)
	}
	if got := a.files(); !strings.Contains(got, "10.9.0.2") {
		t.Errorf("of an executable: %s", got)
	}
	steps := 0
	ctx := delegates.WithSteps(t.Context(), func(string) error { steps++; return nil })
	for range 2 {
		if err := list("builtin").CollectAddresses(ctx, seen, keep); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.files(); got != "10.9.0.3 10.9.0.5 10.9.0.6 fd00::3 notes" || steps != 3 {
		t.Errorf("left: %s, %d steps", got, steps)
	}
}

// ADD refuses a folder or a file that the node does not allow, and reserves nothing.
func TestIPAMBounds(t *testing.T) {
	a := newAddresses(t)
	h := a.of("one")
	h.a.Bounds = conf.Bounds{}
	var refused *conf.Refusal
	if _, err := h.add(t.Context()); !errors.As(err, &refused) || !strings.Contains(err.Error(), `"ipamDirs"`) || a.files() != "" {
		t.Errorf("ADD: %v, %s", err, a.files())
	}
	h.a.Bounds, h.config.ResolvConf = conf.Bounds{IPAMDirs: []string{a.base}}, "/etc/shadow"
	if _, err := h.add(t.Context()); !errors.As(err, &refused) || !strings.Contains(err.Error(), `"resolvConfs"`) || a.files() != "" {
		t.Errorf("ADD: %v, %s", err, a.files())
	}
}

// Only words that are what a directive wants come out of a resolver configuration.
func TestResolvConf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\nnameserver 192.0.2.1\nnameserver fe80::1%secret\nnameserver root:x:0\nnameserver 2001:db8::1\n"+
		"domain s3cr3t/word=\ndomain example.org\nsearch a.example.org $6$salt$hash . -x b_c.example.\noptions ndots:5 edns0 $1$x "+strings.Repeat("o", 65)+"\nroot:$6$hash\nsearch\n", 0o644)
	dns, err := readResolvConf(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(dns.Nameservers, dns.Domain, dns.Search, dns.Options); got != "[192.0.2.1 2001:db8::1]example.org[a.example.org . b_c.example.] [ndots:5 edns0]" {
		t.Error(got)
	}
	refused := func(what, says string) {
		t.Helper()
		if dns, err := readResolvConf(file); err == nil || !strings.Contains(err.Error(), says) || len(dns.Search) > 0 {
			t.Errorf("%s: %v, %v", what, dns, err)
		}
	}
	write("search secret\n", 0o600)
	refused("a file of root's", "not for every user to read")
	write(strings.Repeat("search a\n", maxResolvConf/9+1), 0o644)
	refused("a long file", "more than 65536 bytes")
	if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o644)); err != nil {
		t.Fatal(err)
	}
	refused("a FIFO", "no regular file")
	file = dir
	refused("a folder", "no regular file")
	file = filepath.Join(dir, "none")
	refused("no file", "no such file")
}

// fakeDelegate is a built-in that does nothing.
type fakeDelegate struct{ delegates.Base }

// Parse is delegates.Delegate.
func (fakeDelegate) Parse(string, []byte) (delegates.Network, []string, error) {
	return delegates.BaseNetwork{}, nil, nil
}

// Attach is delegates.Delegate.
func (fakeDelegate) Attach(context.Context, []*delegates.Attachment) error { return nil }

// Detach is delegates.Delegate.
func (fakeDelegate) Detach(_ context.Context, all []*delegates.Attachment) []error {
	return make([]error, len(all))
}

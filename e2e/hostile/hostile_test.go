package hostile

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// hostileAsked says that all tries of the hostile-tenant tests are wanted: make hostile.
const hostileAsked = "PLEXUS_HOSTILE"

// triesOf is how many tries a test makes: a few in make test, many in make hostile.
func triesOf(few, many int) int {
	if os.Getenv(hostileAsked) == "" {
		return few
	}
	return many
}

// hostileRandom is a repeatable source of hostile words. The seed is printed.
func hostileRandom(t *testing.T) *rand.Rand {
	const seed = 16
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// hostTree is a folder of files that belong to the node. No tenant may have them
// opened, read or changed.
type hostTree struct {
	dir    string
	secret string // content of each file
	events int    // inotify(7)
	before string
}

// newHostTree makes the files, with a socket, links and an empty folder, and watches
// all folders.
func newHostTree(t testing.TB) *hostTree {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "host")
	must.Do(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &hostTree{dir: dir, secret: "the-node's-own-secret"}
	for _, file := range []string{"kubelet/config.yaml", "kubelet/passwd", "kubelet/configData-x.json", "elsewhere/volume/config.yaml", "elsewhere/volume/tree/file", "kubelet/theirs/10.0.0.1", "resolv.conf", "last_reserved_ip.0", "x.json"} {
		must.Do(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o750))
		must.Do(t, os.WriteFile(filepath.Join(dir, file), []byte("nameserver 192.0.2.1\nsearch "+h.secret+"\n"), 0o640))
	}
	must.Do(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	for _, name := range []string{"kubelet/containerd.sock", "elsewhere/volume/containerd.sock", "db.sock"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
		must.Do(t, err)
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { _ = l.Close() })
	}
	must.Do(t, os.Symlink(filepath.Join(dir, "kubelet"), filepath.Join(dir, "link")))
	must.Do(t, os.Symlink("kubelet/config.yaml", filepath.Join(dir, "filelink")))
	h.before = h.look(t)
	h.watch(t)
	return h
}

// look is the tree as text: modes, owners, numbers, times and contents.
func (h *hostTree) look(t testing.TB) string {
	t.Helper()
	var text strings.Builder
	must.Do(t, filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&text, "%s %d:%d inode %d links %d changed %d.%09d", info.Mode(), st.Uid, st.Gid, st.Ino, st.Nlink, st.Ctim.Sec, st.Ctim.Nsec)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, " %x", sha256.Sum256(data))
		}
		fmt.Fprintln(&text, " "+path)
		return nil
	}))
	return text.String()
}

// watch has the kernel tell of each file that is opened, read or changed.
func (h *hostTree) watch(t testing.TB) {
	t.Helper()
	var err error
	h.events, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must.Do(t, err)
	t.Cleanup(func() { _ = unix.Close(h.events) })
	must.Do(t, filepath.WalkDir(h.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_, err = unix.InotifyAddWatch(h.events, path, unix.IN_ALL_EVENTS)
		}
		return err
	}))
	h.told(t) // what the walk itself has opened
}

// told is what the kernel has told since the last time.
func (h *hostTree) told(t testing.TB) (all []string) {
	t.Helper()
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(h.events, buffer)
		if err != nil {
			if err != unix.EAGAIN {
				t.Fatal(err)
			}
			return all
		}
		for at := 0; at < n; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&buffer[at]))
			name := buffer[at+unix.SizeofInotifyEvent:][:e.Len]
			all = append(all, fmt.Sprintf("event %#x in folder %d: %q", e.Mask, e.Wd, strings.TrimRight(string(name), "\x00")))
			at += unix.SizeofInotifyEvent + int(e.Len)
		}
	}
}

// untouched wants that nothing was opened, read or changed since the tree was made,
// or since the last call. what names the try.
func (h *hostTree) untouched(t testing.TB, what string) {
	t.Helper()
	h.judge(t, what, h.told(t))
}

// passedThrough wants that nothing was read or changed: folders may have been opened and
// closed, on the way of a hostPath that the pod itself has.
func (h *hostTree) passedThrough(t testing.TB, what string) {
	t.Helper()
	h.judge(t, what, slices.DeleteFunc(h.told(t), func(event string) bool {
		return strings.HasPrefix(event, fmt.Sprintf("event %#x ", unix.IN_OPEN|unix.IN_ISDIR)) || strings.HasPrefix(event, fmt.Sprintf("event %#x ", unix.IN_CLOSE_NOWRITE|unix.IN_ISDIR))
	}))
}

func (h *hostTree) judge(t testing.TB, what string, told []string) {
	t.Helper()
	if len(told) > 0 {
		t.Errorf("%s: the node's files were touched: %.2000q", what, told)
		site.SameWorld(t, h.before, h.look(t))
		h.before = h.look(t)
		h.told(t)
	}
}

// same compares the whole tree with what it was.
func (h *hostTree) same(t testing.TB) {
	t.Helper()
	h.untouched(t, "in the end")
	site.SameWorld(t, h.before, h.look(t))
	h.told(t)
}

// tenantKeys are the keys of the table in docs/security.md that others than the node
// set: what they are of, and their names.
func tenantKeys(t testing.TB) (all [][2]string) {
	t.Helper()
	_, rest, _ := strings.Cut(must.ReadFile(t, filepath.Join(must.Root(t), "docs/security.md")), "| key | who sets it | what bounds it |\n")
	code := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(line, "|")
		of, _, ok := strings.Cut(cells[1], "`")
		if who := strings.TrimSpace(cells[2]); !ok || who == "node" || who == "the device plugin" {
			continue // no tenant's
		}
		of = strings.TrimPrefix(strings.TrimSpace(of), "ipam ")
		keys, _, _ := strings.Cut(cells[1], " of a ") // "`name` of a network"
		for _, key := range code.FindAllStringSubmatch(keys, -1) {
			all = append(all, [2]string{of, key[1]})
		}
	}
	if len(all) < 50 {
		t.Fatalf("docs/security.md has only %d keys of tenants", len(all))
	}
	return all
}

// The tree notices a file that is only read.
func TestHostTreeNotices(t *testing.T) {
	h := newHostTree(t)
	h.same(t)
	must.ReadFile(t, filepath.Join(h.dir, "link", "passwd"))
	if len(h.told(t)) == 0 {
		t.Error("reading is not noticed")
	}
	if _, err := node.Tree(h.dir); err != nil || len(h.told(t)) == 0 {
		t.Errorf("listing is not noticed: %v", err)
	}
}

package shareddir

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The own folder of a recorded attachment goes with all that the pod has put there, and
// nothing that the pod has linked or that was mounted there goes with it.
func TestClearOwn(t *testing.T) {
	host := victim(t)
	base := tempDir(t)
	u, err := choose(wish(base), nil)
	must(t, err)
	must(t, u.Make())
	socketAt(t, u.Place("sock"))
	socketAt(t, u.Place("two"))
	must(t, u.WriteFile(u.Config, nil))
	two := u
	two.File, two.Config = "two", ConfigFile(sandbox, "net2")
	clear(t, &u, true, two)
	if exists(u.Place("sock")) || exists(u.Place(u.Config)) || !exists(u.Place("two")) {
		t.Error("want the one socket removed and the other kept")
	}
	write(t, u.Dir+"/left/by/the/pod")
	must(t, os.Symlink(host, u.Dir+"/left/link"))
	must(t, os.Symlink(host, u.Dir+"/link"))
	must(t, unix.Mkfifo(u.Dir+"/fifo", 0o600))
	must(t, os.Link(host+"/empty/../file", u.Dir+"/hard"))
	for range 2 {
		if log := clear(t, &two, true); log != "" || exists(u.Dir) || !exists(base) {
			t.Errorf("the folder exists: %v, its base: %v; %s", exists(u.Dir), exists(base), log)
		}
	}
}

// What a pod nests is removed however deep it is, and however many files it has.
func TestClearDeep(t *testing.T) {
	base := tempDir(t)
	u, err := choose(wish(base), nil)
	must(t, err)
	must(t, u.Make())
	for i := range 2000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/file%d", u.Dir, i), nil, 0o600))
	}
	write(t, u.Dir+"/.plexus-removes-3") // names that the removal itself would use
	write(t, u.Dir+"/.plexus-removes-5/x/y/z")
	at, err := os.Open(u.Dir)
	must(t, err)
	name := strings.Repeat("d", 200)
	for range 600 { // 120,000 bytes: no path is so long
		must(t, unix.Mkdirat(int(at.Fd()), name, 0o755))
		fd, err := unix.Openat(int(at.Fd()), name, unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, at.Close())
		at = os.NewFile(uintptr(fd), name)
	}
	must(t, at.Close())
	if log := clear(t, &u, true); log != "" || exists(u.Dir) {
		t.Errorf("the folder is left: %v; %s", exists(u.Dir), log)
	}
}

// Without a record only the names that plexus gives go, and the folder if it is empty.
func TestClearByMark(t *testing.T) {
	base := tempDir(t)
	for _, left := range []string{"", "custom.sock", "file", ConfigFile(sandbox, "net2"), "tree/file"} {
		u, ok := Marked(base, sandbox[:24], "net1", Short(sandbox)+"-net1", "")
		if !ok {
			t.Fatal("the mark leads to nothing")
		}
		u.Perm = 0o750
		must(t, u.Make())
		socketAt(t, u.Place(u.File))
		must(t, u.WriteFile(u.Config, nil))
		switch left {
		case "":
		case "custom.sock":
			socketAt(t, u.Place(left))
		default:
			write(t, u.Place(left))
		}
		clear(t, &u, false)
		if exists(u.Place(u.File)) || exists(u.Place(u.Config)) || exists(u.Dir) != (left != "") || left != "" && !exists(u.Place(left)) {
			t.Errorf("left %q: the folder exists: %v\n%s", left, exists(u.Dir), tree(t, base))
		}
		must(t, os.RemoveAll(u.Dir))
	}
	// Files and links at its names are not sockets.
	u, _ := Marked(base, sandbox, "net1", "f", "")
	write(t, u.Place("f"))
	before := tree(t, base)
	clear(t, &u, false)
	if after := tree(t, base); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	for _, name := range []string{"", "../f", "a/b"} {
		if u, ok := Marked("/base", sandbox, "net1", name, ""); ok {
			t.Errorf("a socket %q is taken: %+v", name, u)
		}
	}
	if u, ok := Marked("base", sandbox, "net1", "f", ""); ok {
		t.Errorf("a relative base is taken: %+v", u)
	}
}

// A use that a datapath invents keeps things, and removes nothing more.
func TestOthersOnlyKeep(t *testing.T) {
	host := victim(t)
	base := tempDir(t)
	was := 1000
	u, err := choose(wish(base), nil)
	must(t, err)
	must(t, u.Make())
	socketAt(t, u.Place("sock"))
	lie := Use{Folder: Folder{Dir: u.Dir, Own: true, Made: true, FormerGID: &was, Link: host + "/file"}, File: "sock", Config: u.Config}
	elsewhere := lie
	elsewhere.Dir = host
	clear(t, &u, true, lie, elsewhere)
	if !exists(u.Place("sock")) {
		t.Error("a socket that another uses is gone")
	}
	clear(t, &u, true, elsewhere)
	if exists(u.Dir) {
		t.Error("the folder is left")
	}
}

// In a pod's hostPath nothing goes but the attachment's own files: no socket that
// somebody listens at, no file at a socket's name, no folder that was there before.
func TestClearVolume(t *testing.T) {
	dir := tempDir(t)
	u, err := choose(wish(dir), podWith(dir))
	must(t, err)
	must(t, u.Make())
	write(t, dir+"/data")
	socketAt(t, dir+"/the-pods-own")
	before := tree(t, dir)
	socketAt(t, dir+"/sock")
	must(t, u.WriteFile(u.Config, nil))
	for range 2 {
		clear(t, &u, true)
		if after := tree(t, dir); after != before {
			t.Errorf("before:\n%safter:\n%s", before, after)
		}
	}
	listenAt(t, dir+"/sock")
	clear(t, &u, true)
	if !exists(dir + "/sock") {
		t.Error("a socket that somebody listens at is gone")
	}
	listenAt(t, dir+"/vhu1")
	origin, err := OpenSocket(dir, "vhu1")
	must(t, err)
	defer origin.Close()
	must(t, u.Clear(Clearing{Recorded: true, Origin: origin}))
	if !exists(dir + "/sock") {
		t.Error("a socket that somebody else listens at is gone")
	}
	must(t, os.Remove(dir+"/sock"))
	must(t, u.LinkSocket(origin, "sock", "file"))
	must(t, u.Clear(Clearing{Recorded: true, Origin: origin}))
	if exists(dir + "/sock") {
		t.Error("the link to the vswitch's socket is left while the vswitch still listens")
	}
	write(t, dir+"/sock")
	clear(t, &u, true)
	if !exists(dir + "/sock") {
		t.Error("a file at the socket's name is gone")
	}
}

// A folder that plexus made stays when the pod has put something there; the group of a
// hostPath, which a former plexus has recorded, is not given back.
func TestClearMade(t *testing.T) {
	for _, left := range []bool{true, false} {
		dir := tempDir(t)
		u, err := choose(wish(dir), podWith(dir+"/volume"))
		must(t, err)
		must(t, u.Make())
		if left {
			write(t, u.Place("data"))
		}
		for range 2 {
			clear(t, &u, true)
			if exists(u.Dir) != left {
				t.Errorf("the pod left something: %v, the folder is left: %v", left, exists(u.Dir))
			}
		}
	}
	host := victim(t)
	was := 12345
	u := Use{Folder: Folder{Dir: host, GID: -1, FormerGID: &was}, File: "none"}
	if log := clear(t, &u, true); !strings.Contains(log, "not given back") {
		t.Errorf("Clear warns %q", log)
	}
	if log := clear(t, &u, false); log != "" {
		t.Errorf("Clear without a record warns %q", log)
	}
}

// What is mounted in an own folder, or on it, is told and left alone.
func TestClearStopsAtMounts(t *testing.T) {
	needRoot(t)
	host := victim(t)
	base := tempDir(t)
	u, err := choose(wish(base), nil)
	must(t, err)
	must(t, u.Make())
	write(t, u.Dir+"/file")
	for _, at := range []string{"/mounted", "/deep/er"} {
		must(t, os.MkdirAll(u.Dir+at, 0o755))
		must(t, unix.Mount(host, u.Dir+at, "", unix.MS_BIND, ""))
	}
	log := clear(t, &u, true)
	if strings.Count(log, "level=WARN") != 2 || !strings.Contains(log, u.Dir+"/mounted") || exists(u.Dir+"/file") || !exists(u.Dir+"/mounted/file") {
		t.Errorf("Clear warns %q\n%s", log, tree(t, u.Dir))
	}
	must(t, unix.Unmount(u.Dir+"/mounted", unix.MNT_DETACH))
	must(t, unix.Unmount(u.Dir+"/deep/er", unix.MNT_DETACH))
	must(t, unix.Mount(host, u.Dir, "", unix.MS_BIND, ""))
	log = clear(t, &u, true)
	must(t, unix.Unmount(u.Dir, unix.MNT_DETACH))
	if !strings.Contains(log, "mounted") {
		t.Errorf("Clear warns %q", log)
	}
	if log := clear(t, &u, true); log != "" || exists(u.Dir) {
		t.Errorf("the folder is left: %v; %s", exists(u.Dir), log)
	}
}

// Errors that are no matter of links are no warnings: DEL is tried again.
func TestClearErrors(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("SKIPPED: root may enter any folder: run it as another user")
	}
	base := tempDir(t)
	u, err := choose(wish(base), nil)
	must(t, err)
	must(t, u.Make())
	socketAt(t, u.Place("sock"))
	must(t, os.Chmod(u.Dir, 0))
	defer os.Chmod(u.Dir, 0o700)
	wantError(t, u.Clear(Clearing{Recorded: true}), u.Dir, "permission denied")
}

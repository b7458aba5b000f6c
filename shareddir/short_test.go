package shareddir

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// longVolume is a volume that needs a short path.
func longVolume(t *testing.T) Use {
	t.Helper()
	u, err := choose(wish("/run/base"), podWith(tempDir(t)+"/"+strings.Repeat("x", MaxSocketPath)))
	must(t, err)
	if u.Link == "" {
		t.Fatal("no short path is chosen")
	}
	return u
}

// leads reports whether the short path is a mount of the folder, once.
func leads(t testing.TB, u *Use) bool {
	t.Helper()
	a, b := inode(t, u.Link), inode(t, u.Dir)
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	must(t, err)
	return a.Ino == b.Ino && a.Dev == b.Dev && strings.Count(string(mounts), " "+u.Link+" ") == 1
}

// The short path is a mount of the folder. It is made once and goes with the attachment.
func TestShortPath(t *testing.T) {
	ownNode(t)
	u := longVolume(t)
	for range 2 {
		must(t, u.Make())
		must(t, u.Check(false, "sock"))
		if !leads(t, &u) {
			t.Error("the short path does not lead to the folder")
		}
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(u.Link, &fs))
	if want := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC); fs.Flags&want != want {
		t.Errorf("flags of the mount: %x, want nosuid, nodev, noexec", fs.Flags)
	}
	listenAt(t, u.Link+"/open") // as a vswitch that still has it
	clear(t, &u, true)
	if exists(u.Link) {
		t.Error("the short path is left")
	}
}

// What is in its way is named. A mount that leads elsewhere is taken away: the pod's folder was
// made anew.
func TestShortPathBlocked(t *testing.T) {
	ownNode(t)
	u := longVolume(t)
	must(t, u.Make())
	must(t, os.Rename(u.Dir, filepath.Dir(u.Dir)+"/former"))
	must(t, os.Mkdir(u.Dir, 0o755))
	wantError(t, u.Check(false, "sock"), "short path", "gone or changed")
	if gone, err := u.Missing(""); err != nil || len(gone) != 1 || gone[0] != "short path "+u.Link {
		t.Errorf("missing: %q, %v", gone, err)
	}
	must(t, u.Make())
	if !leads(t, &u) {
		t.Error("the short path leads to the former folder")
	}
	must(t, os.Remove(u.Dir)) // as the kubelet does: the mount does not keep it
	clear(t, &u, true)
	if exists(u.Link) {
		t.Error("the short path of a folder that is gone is left")
	}
	must(t, os.Symlink("/elsewhere", u.Link))
	wantError(t, u.Make(), "short path of "+u.Dir, u.Link, "exists")
	must(t, os.RemoveAll(ShortLinks))
	write(t, ShortLinks)
	wantError(t, u.Make(), "short path of "+u.Dir, ShortLinks)
	must(t, os.Remove(ShortLinks))
	must(t, os.MkdirAll(u.Link+"/x", 0o755))
	wantError(t, u.Clear(Clearing{Recorded: true}), "short path", u.Link)
}

// A symbolic link that a former version has made is right, and is removed; one that is gone
// becomes a mount.
func TestShortPathOfFormerVersion(t *testing.T) {
	ownNode(t)
	u := longVolume(t)
	must(t, os.Mkdir(u.Dir, 0o755))
	must(t, os.MkdirAll(ShortLinks, 0o755))
	must(t, os.Symlink(u.Dir, u.Link))
	must(t, u.Make())
	must(t, u.Check(false, "sock"))
	if at, err := os.Readlink(u.Link); err != nil || at != u.Dir {
		t.Errorf("the link leads to %q, %v", at, err)
	}
	clear(t, &u, true)
	if exists(u.Link) {
		t.Error("the link is left")
	}
	must(t, u.Make())
	if !leads(t, &u) {
		t.Error("the short path does not lead to the folder")
	}
	clear(t, &u, true)
}

// connects tries to connect to a socket as a user without capabilities, in another process.
func connects(t *testing.T, u User, socket string) bool {
	t.Helper()
	groups := make([]uint32, len(u.GIDs))
	for i, gid := range u.GIDs {
		groups[i] = uint32(gid)
	}
	p, err := os.StartProcess("/usr/bin/test", []string{"test", "-w", socket}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: groups[0], Groups: groups},
	}})
	must(t, err)
	state, err := p.Wait()
	must(t, err)
	return state.Success()
}

// A vswitch that is not root reaches the folder by its short path, whatever is above the
// folder; a local user does not.
func TestShortPathIsTheVswitchs(t *testing.T) {
	ownNode(t)
	must(t, os.Mkdir("/run/plexus", 0o700))
	must(t, os.Mkdir("/run/closed", 0o700))
	must(t, os.Mkdir("/run/closed/volume", 0o755))
	switch1, switch2 := User{UID: 4711, GIDs: []int{4712, 4713}}, User{UID: 4721, GIDs: []int{4722}}
	use := func(name string, user *User) Use {
		w := wish("/run/base")
		w.User = user
		u, err := choose(w, podWith("/run/closed/"+name))
		must(t, err)
		must(t, u.Make())
		return u
	}
	u := use("volume", &switch1)
	listenAt(t, u.Place("sock"))
	must(t, os.Chmod(u.Place("sock"), 0o777))
	if !connects(t, switch1, u.Path("sock")) {
		t.Errorf("the vswitch cannot connect: %s", tree(t, "/run/plexus"))
	}
	if connects(t, switch2, u.Path("sock")) {
		t.Error("a local user can connect")
	}
	own, err := Choose(Options{Base: "/run/closed", User: &switch1}, attachmentOf(nil), "sock", "vhu3")
	must(t, err)
	must(t, own.Make())
	listenAt(t, own.Place("sock"))
	must(t, os.Chmod(own.Place("sock"), 0o777))
	if !connects(t, switch1, own.Path("sock")) || connects(t, switch2, own.Path("sock")) {
		t.Errorf("a folder of the sandbox's own: %s", tree(t, "/run/closed"))
	}
	must(t, os.Mkdir("/run/closed/other", 0o755))
	w := wish("/run/base")
	w.User = &switch2
	other, err := Choose(w, attachmentOf(podWith("/run/closed/other")), "sock", "vhu2")
	must(t, err)
	must(t, other.Make())
	if !connects(t, switch2, u.Path("sock")) || !connects(t, switch1, u.Path("sock")) {
		t.Errorf("with two vswitches: %s", tree(t, "/run/plexus"))
	}
	for _, f := range []Folder{own, other, u.Folder} {
		must(t, (&Use{Folder: f, File: "sock"}).Clear(Clearing{Recorded: true}))
		if exists(f.Link) {
			t.Errorf("%s is left", f.Link)
		}
	}
}

// What the vswitch's user cannot enter or connect to is refused before anything is changed.
func TestClosedForTheVswitch(t *testing.T) {
	ownNode(t)
	must(t, os.Mkdir("/run/volume", 0o700))
	w := wish("/run/base")
	w.User = &User{UID: 4711, GIDs: []int{4712}}
	_, err := choose(w, podWith("/run/volume"))
	wantError(t, err, "default/p", "/run/volume", "closed for the vswitch", "4711", "chmod o+x")
	must(t, os.Chown("/run/volume", 0, 4712))
	must(t, os.Chmod("/run/volume", 0o710))
	_, err = choose(w, podWith("/run/volume"))
	must(t, err)
	w.Group = "4713"
	_, err = choose(w, nil)
	wantError(t, err, `"vhost.group"`, "4713", "4711")
}

package shareddir

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

func TestMakeOwn(t *testing.T) {
	base := tempDir(t) + "/not/there"
	group, gid := anyGroup(t)
	w := wish(base)
	w.Group = group
	u, err := choose(w, nil)
	must(t, err)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for range 2 { // a second ADD of the same finds it
		must(t, u.Make())
		if st := inode(t, u.Dir); st.Mode&0o7777 != 0o2770 || int(st.Gid) != gid {
			t.Errorf("mode %o group %d, want 2770 and %d", st.Mode, st.Gid, gid)
		}
	}
}

// A volume that is there keeps its mode and group; one that plexus makes gets those
// that were asked for.
func TestMakeVolume(t *testing.T) {
	dir := tempDir(t)
	group, gid := anyGroup(t)
	must(t, os.Mkdir(dir+"/there", 0o711))
	before := tree(t, dir)
	u, err := choose(wish(dir), podWith(dir+"/there"))
	must(t, err)
	must(t, u.Make())
	clear(t, &u, true)
	if after := tree(t, dir); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	w := wish(dir)
	w.Group = group
	u, err = choose(w, podWith(dir+"/new"))
	must(t, err)
	must(t, u.Make())
	if st := inode(t, u.Dir); st.Mode&0o7777 != 0o2770 || int(st.Gid) != gid {
		t.Errorf("mode %o group %d, want 2770 and %d", st.Mode, st.Gid, gid)
	}
	clear(t, &u, true)
	if exists(u.Dir) {
		t.Error("the folder that plexus made is left")
	}
}

// A hostPath that comes into being between the choice and Make is somebody else's: it
// gets no other group.
func TestMakeRefusesGroupOfAnothersFolder(t *testing.T) {
	dir := tempDir(t)
	w := wish(dir)
	w.Group, _ = anyGroup(t)
	u, err := choose(w, podWith(dir+"/volume"))
	must(t, err)
	must(t, os.Mkdir(u.Dir, 0o700))
	if os.Getuid() != 0 {
		u.GID++
	}
	before := tree(t, dir)
	wantError(t, u.Make(), u.Dir, "somebody else")
	if after := tree(t, dir); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// Nothing is made above a hostPath.
func TestMakeOfHostPathMakesNoParents(t *testing.T) {
	dir := tempDir(t)
	must(t, os.Mkdir(dir+"/above", 0o755))
	u, err := choose(wish(dir), podWith(dir+"/above/volume"))
	must(t, err)
	must(t, os.Remove(dir+"/above"))
	if err := u.Make(); err == nil || exists(dir+"/above") {
		t.Errorf("Make: %v; the folder above exists: %v", err, exists(dir+"/above"))
	}
}

// A pod that shares the folder of another one, which plexus has made: it goes with the
// last of them, and may have a group.
func TestMadeFolderGoesWithTheLast(t *testing.T) {
	needRoot(t)
	dir := tempDir(t)
	w := wish(dir)
	w.Group, _ = anyGroup(t)
	first, err := choose(w, podWith(dir+"/volume"))
	must(t, err)
	must(t, first.Make())
	second, err := choose(w, podWith(dir+"/volume"))
	must(t, err)
	if second.Made {
		t.Error("the second pod says that it makes the folder")
	}
	must(t, second.Make())
	second.File = "other"
	clear(t, &first, true, second)
	if !exists(second.Dir) {
		t.Fatal("the folder is gone under the second pod")
	}
	clear(t, &second, true)
	if exists(second.Dir) {
		t.Error("the folder is left")
	}
}

// What the pod plants at the folder's place, after the choice, is not followed.
func TestFolderReplacedByLink(t *testing.T) {
	host := victim(t)
	_, gid := anyGroup(t)
	was := 0
	for _, own := range []bool{true, false} {
		dir := tempDir(t)
		u := Use{Folder: Folder{Dir: dir + "/" + ownName, Own: own, Made: !own, GID: gid, Perm: 0o777, FormerGID: &was}, File: "sock", Config: ConfigFile(sandbox, "net1")}
		must(t, os.Symlink(host, u.Dir))
		socketAt(t, dir+"/origin")
		origin, err := OpenSocket(dir, "origin")
		must(t, err)
		defer origin.Close()
		wantError(t, u.Make(), u.Dir, "symbolic link")
		wantError(t, u.Check(true, "sock"), u.Dir, "symbolic link")
		wantError(t, u.LinkSocket(origin, "other", "file"), u.Dir, "symbolic link")
		wantError(t, u.WriteFile("new", nil), u.Dir, "symbolic link")
		_, err = u.Missing(u.Config)
		wantError(t, err, u.Dir, "symbolic link")
		if u.Listened("sock") {
			t.Error("a socket behind a link is seen")
		}
		for _, recorded := range []bool{true, false} {
			if log := clear(t, &u, recorded); !strings.Contains(log, u.Dir) || !strings.Contains(log, "level=WARN") || !exists(u.Dir) {
				t.Errorf("own %v: Clear warns %q; the link is there: %v", own, log, exists(u.Dir))
			}
		}
		if err := os.Remove(u.Dir); err != nil {
			t.Fatal(err)
		}
		write(t, u.Dir) // a file, now
		if log := clear(t, &u, true); !strings.Contains(log, "no folder") || !exists(u.Dir) {
			t.Errorf("own %v: Clear warns %q", own, log)
		}
	}
}

// A file or a link at the configuration's name is replaced, and nothing else is.
func TestWriteFile(t *testing.T) {
	host := victim(t)
	dir := tempDir(t)
	u, err := choose(wish(dir), podWith(dir))
	must(t, err)
	place := dir + "/" + u.Config
	for name, plant := range map[string]func(){
		"nothing":          func() {},
		"a file":           func() { write(t, place) },
		"a link":           func() { must(t, os.Symlink(host+"/file", place)) },
		"a dangling link":  func() { must(t, os.Symlink(host+"/new", place)) },
		"a link to folder": func() { must(t, os.Symlink(host, place)) },
		"a hard link":      func() { write(t, dir+"/pods"); must(t, os.Link(dir+"/pods", place)) },
	} {
		plant()
		if err := u.WriteFile(u.Config, []byte("{}")); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if st := inode(t, place); st.Mode != unix.S_IFREG|0o644 || st.Nlink != 1 {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
		clear(t, &u, true)
		if exists(place) {
			t.Errorf("%s: the configuration is left", name)
		}
	}
	if data, err := os.ReadFile(dir + "/pods"); err != nil || string(data) != "somebody's" {
		t.Errorf("the other name of a hard link: %q, %v", data, err)
	}
	for name, plant := range map[string]func(){
		"a folder": func() { write(t, place+"/deep/er") },
		"a fifo":   func() { must(t, unix.Mkfifo(place, 0o600)) },
		"a socket": func() { socketAt(t, place) },
	} {
		plant()
		before := tree(t, dir)
		wantError(t, u.WriteFile(u.Config, nil), place, "no regular file")
		if log := clear(t, &u, true); !strings.Contains(log, place) {
			t.Errorf("%s: Clear warns %q", name, log)
		}
		if after := tree(t, dir); after != before {
			t.Errorf("%s: before:\n%safter:\n%s", name, before, after)
		}
		must(t, os.RemoveAll(place))
	}
}

// A path that is too long for a socket is reached by a short one.
func TestShortPathIsChosen(t *testing.T) {
	base := tempDir(t)
	longest := base + "/" + strings.Repeat("x", MaxSocketPath-len(base)-len("//sock"))
	u, err := choose(wish(base), podWith(longest))
	if err != nil || u.Link != "" || len(u.Path("sock")) != MaxSocketPath {
		t.Fatalf("%d bytes fit: link %q, %v", len(u.Path("sock")), u.Link, err)
	}
	u, err = choose(wish(base), podWith(longest+"x"))
	if err != nil || u.Link != ShortLinks+"/"+unique || u.Path("sock") != u.Link+"/sock" {
		t.Fatalf("%d bytes do not fit: link %q, %v", MaxSocketPath+1, u.Link, err)
	}
	w := wish(base)
	w.MaxPath = MaxSocketPath + 1
	if u, err := choose(w, podWith(longest+"x")); err != nil || u.Link != "" {
		t.Errorf("%d bytes fit where the vswitch takes them: link %q, %v", w.MaxPath, u.Link, err)
	}
}

// A file of the node may want the folders above a hostPath made.
func TestMakeAbove(t *testing.T) {
	dir := tempDir(t)
	pod := podWith(dir + "/a/b/volume")
	pod.Volumes[0].Create = true
	u, err := choose(wish(dir), pod)
	must(t, err)
	if !u.Above || exists(dir+"/a") {
		t.Fatalf("chosen %+v", u.Folder)
	}
	must(t, u.Make())
	if !exists(u.Dir) {
		t.Errorf("%s is not made", u.Dir)
	}
	clear(t, &u, true)
	if exists(u.Dir) || !exists(dir+"/a/b") {
		t.Errorf("left: %s", tree(t, dir))
	}
	must(t, os.RemoveAll(dir+"/a/b"))
	write(t, dir+"/a/b")
	wantError(t, u.Make(), dir+"/a/b", "is no folder")
	must(t, os.Remove(dir+"/a/b"))
	must(t, os.Symlink("/", dir+"/a/b"))
	wantError(t, u.Make(), dir+"/a/b", "symbolic link")
}

// A folder that this user may not write to is an error that names it.
func TestMakeWithoutPermission(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("SKIPPED: root may write to any folder: run it as another user")
	}
	base := tempDir(t)
	must(t, os.Chmod(base, 0o500))
	for name, pod := range map[string]*conf.Pod{"own": nil, "volume": podWith(base + "/volume"), "above": podWith(base + "/a/volume")} {
		if name == "above" {
			pod.Volumes[0].Create = true
		}
		u, err := choose(wish(base), pod)
		must(t, err)
		if err := u.Make(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Chmod(base, 0))
	_, err := choose(wish(base), nil)
	wantError(t, err, "socket folder", base, "permission denied")
	must(t, os.Chmod(base, 0o700))
}

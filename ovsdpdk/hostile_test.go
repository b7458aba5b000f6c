package ovsdpdk

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

const victimText = "of the host"

// newVictim is a file of the host that a pod would like to see changed.
func newVictim(t *testing.T) string {
	path := tempDir(t) + "/victim"
	write(t, path, victimText)
	t.Cleanup(func() {
		text, err := os.ReadFile(path)
		if err != nil || string(text) != victimText || modeOf(t, path) != 0o600 || gidOf(t, path) != 0 {
			t.Errorf("the host's file was touched: %q mode %o group %d, %v", text, modeOf(t, path), gidOf(t, path), err)
		}
	})
	return path
}

// A folder of the sandbox's own that holds other things is not taken: it would
// be removed one day.
func TestForeignContentRefused(t *testing.T) {
	dir := tempDir(t)
	own := dir + "/0123456789ab"
	choose := func() error {
		_, err := chooseFolder(&Config{Vhost: Vhost{SocketDir: dir}}, conf.Attachment{Sandbox: sandbox}, "sock", "vhu1")
		return err
	}
	write(t, own+"/configData-0123456789ab-net1.json", "left by a crash")
	socketAt(t, own+"/left-by-a-crash")
	if err := choose(); err != nil {
		t.Errorf("what plexus leaves is no hindrance: %v", err)
	}
	for _, foreign := range []string{"notes.txt", "folder/file"} {
		write(t, own+"/"+foreign, "")
		top, _, _ := strings.Cut(foreign, "/")
		wantError(t, choose(), own, top, "socketDir")
		if err := os.RemoveAll(own + "/" + top); err != nil {
			t.Fatal(err)
		}
	}
	symlink(t, "/etc/passwd", own+"/link")
	wantError(t, choose(), own, "link")
}

// What stands at the folder's place and is no folder is refused.
func TestNoFolderRefused(t *testing.T) {
	dir := tempDir(t)
	write(t, dir+"/file", "")
	symlink(t, tempDir(t), dir+"/link")
	symlink(t, dir+"/nowhere", dir+"/dangling")
	for _, name := range []string{"file", "link", "dangling"} {
		path := dir + "/" + name
		_, err := chooseFolder(&Config{}, conf.Attachment{Sandbox: sandbox, Pod: podWith(path)}, "sock", "vhu1")
		wantError(t, err, path, "no folder")
		_, err = chooseFolder(&Config{Vhost: Vhost{SocketDir: dir}}, conf.Attachment{Sandbox: name}, "sock", "vhu1")
		wantError(t, err, path, "no folder")
	}
}

// A link that comes to the folder's place after the choice is not followed.
func TestFolderReplaced(t *testing.T) {
	_, gid := anyGroup(t)
	elsewhere := tempDir(t)
	socketAt(t, elsewhere+"/sock")
	was := 0
	for _, own := range []bool{true, false} {
		f := folder{Dir: tempDir(t) + "/folder", Own: own, GID: gid, Perm: 0o777, Was: &was}
		symlink(t, elsewhere, f.Dir)
		wantError(t, f.Make(), f.Dir, "symbolic link")
		wantError(t, f.Check(false, "sock"), f.Dir, "symbolic link")
		wantError(t, f.LinkSocket(elsewhere+"/sock", "other"), f.Dir, "symbolic link")
		_ = f.Clear(nil, true, "sock", "")
		if modeOf(t, elsewhere) != 0o755 || gidOf(t, elsewhere) != 0 || !exists(elsewhere+"/sock") || exists(elsewhere+"/other") {
			t.Error("a link at the folder's place was followed")
		}
	}
}

// A link that the pod plants at the socket's name is neither followed nor is
// its target touched.
func TestPlantedSocket(t *testing.T) {
	_, gid := anyGroup(t)
	for _, own := range []bool{true, false} {
		path := newVictim(t)
		f := folder{Dir: tempDir(t) + "/folder", Own: own, GID: gid, Perm: 0o770}
		if err := f.Make(); err != nil {
			t.Fatal(err)
		}
		symlink(t, path, f.Dir+"/sock")
		wantError(t, f.Check(true, "sock"), "no socket")
		origin := tempDir(t) + "/vhu1"
		socketAt(t, origin)
		if err := f.LinkSocket(origin, "sock"); err != nil {
			t.Fatal(err)
		}
		var a, b unix.Stat_t
		if unix.Lstat(origin, &a) != nil || unix.Lstat(f.Dir+"/sock", &b) != nil || a.Ino != b.Ino {
			t.Error("the pod does not see the vswitch's socket itself")
		}
		if gidOf(t, f.Dir+"/sock") != gid || modeOf(t, f.Dir+"/sock") != 0o660 {
			t.Errorf("the socket has group %d mode %o", gidOf(t, f.Dir+"/sock"), modeOf(t, f.Dir+"/sock"))
		}
		if err := os.Remove(f.Dir + "/sock"); err != nil {
			t.Fatal(err)
		}
		symlink(t, path, f.Dir+"/sock")
		if err := f.Clear(nil, true, "sock", ""); err != nil {
			t.Error(err)
		}
		if own == exists(f.Dir) {
			t.Errorf("own %v: the folder exists: %v", own, exists(f.Dir))
		}
	}
}

// A socket of the host is not removed through a link either.
func TestPlantedLinkToSocket(t *testing.T) {
	host := tempDir(t)
	socketAt(t, host+"/db.sock")
	f := folder{Dir: tempDir(t), GID: -1}
	symlink(t, host+"/db.sock", f.Dir+"/sock")
	if err := f.Clear(nil, true, "sock", ""); err != nil {
		t.Error(err)
	}
	if !exists(host + "/db.sock") {
		t.Error("the host's socket is gone")
	}
}

// The same at the configuration's name: it is written beside, not through.
func TestPlantedConfiguration(t *testing.T) {
	path := newVictim(t)
	const name = "configData-0123456789ab-net1.json"
	f := folder{Dir: tempDir(t), GID: -1}
	symlink(t, path, f.Dir+"/"+name)
	err := f.WriteFile(name, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(f.Dir + "/" + name)
	if err != nil || !st.Mode().IsRegular() || st.Mode().Perm() != 0o644 {
		t.Errorf("the configuration: %v %v", st.Mode(), err)
	}
	if err := os.Remove(f.Dir + "/" + name); err != nil {
		t.Fatal(err)
	}
	symlink(t, path, f.Dir+"/"+name)
	for range 2 {
		if err := f.Clear(nil, true, "sock", name); err != nil {
			t.Error(err)
		}
	}
	if exists(f.Dir + "/" + name) {
		t.Error("what stands at the configuration's name is left")
	}
}

// A socket on another file system cannot be linked; the error says what to do.
func TestLinkSocketAcross(t *testing.T) {
	f := folder{Dir: tempDir(t), GID: -1}
	other := tempDir(t) + "/mnt"
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	socketAt(t, other+"/vhu1")
	wantError(t, f.LinkSocket(other+"/vhu1", "sock"), other+"/vhu1", f.Dir, "different file systems", "client")
	wantError(t, f.LinkSocket(other+"/none", "sock"), other+"/none", f.Dir)
}

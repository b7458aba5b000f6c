package ovsdpdk

import (
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/e2e/node"
	"github.com/plexus-cni/plexus/shareddir"
)

// anyGroup is a group of this machine that is not root's.
func anyGroup(t testing.TB) (name string, gid int) {
	t.Helper()
	g, err := user.LookupGroupId("1")
	if err != nil {
		t.Fatal(err)
	}
	gid, err = strconv.Atoi(g.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return g.Name, gid
}

func gidOf(t testing.TB, path string) int {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(st.Sys().(*syscall.Stat_t).Gid)
}

func modeOf(t testing.TB, path string) fs.FileMode {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode().Perm()
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t testing.TB, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

// socketAt leaves a socket that nobody listens at, as a dead application does.
func socketAt(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

const sandbox = "0123456789abcdef"

func podWith(dir string) *conf.Pod {
	return &conf.Pod{Namespace: "default", Name: "p", Volumes: []conf.Volume{{Name: conf.SharedDir, HostPath: dir}}}
}

func TestChooseFolder(t *testing.T) {
	dir := tempDir(t)
	group, gid := anyGroup(t)
	for _, c := range []struct {
		name  string
		vhost Vhost
		pod   *conf.Pod
		want  folder
	}{
		{"the sandbox's own", Vhost{SocketDir: dir}, nil, folder{Dir: dir + "/0123456789ab", Own: true, GID: -1, Perm: 0o750}},
		{"with a group", Vhost{SocketDir: dir, Group: group}, nil, folder{Dir: dir + "/0123456789ab", Own: true, GID: gid, Perm: 0o770}},
		{"with permissions", Vhost{SocketDir: dir, Group: group, Permissions: "0711"}, nil, folder{Dir: dir + "/0123456789ab", Own: true, GID: gid, Perm: 0o711}},
		{"the pod's volume", Vhost{SocketDir: dir}, podWith(dir + "/volume/"), folder{Dir: dir + "/volume", Made: true, GID: -1, Perm: 0o750}},
		{"another volume alone", Vhost{SocketDir: dir}, &conf.Pod{Volumes: []conf.Volume{{Name: "data", HostPath: "/x"}}}, folder{Dir: dir + "/0123456789ab", Own: true, GID: -1, Perm: 0o750}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chooseFolder(&Config{Vhost: c.vhost}, conf.Attachment{Sandbox: sandbox, Pod: c.pod}, "sock", "vhu1")
			if err != nil || got != c.want {
				t.Errorf("%+v, want %+v (%v)", got, c.want, err)
			}
			if got.Path("sock") != got.Dir+"/sock" {
				t.Errorf("socket at %s", got.Path("sock"))
			}
		})
	}
	if got, err := chooseFolder(&Config{Vhost: Vhost{SocketDir: dir}}, conf.Attachment{Sandbox: "abc"}, "s", "v"); err != nil || got.Dir != dir+"/abc" {
		t.Errorf("a short container ID: %s, %v", got.Dir, err)
	}
}

func TestChooseFolderRefuses(t *testing.T) {
	_, err := chooseFolder(&Config{Vhost: Vhost{SocketDir: "/run/x", Group: "no-such-group"}}, conf.Attachment{Sandbox: sandbox}, "s", "v")
	wantError(t, err, `"vhost.group"`, "no-such-group")
	for _, dir := range []string{"/", "relative", "/..", "//"} {
		_, err := chooseFolder(&Config{}, conf.Attachment{Sandbox: sandbox, Pod: podWith(dir)}, "s", "v")
		wantError(t, err, "default/p", conf.SharedDir, "absolute path below /")
	}
}

// A path that is too long for a socket is reached by a short link, which is
// made and removed with the folder.
func TestShortLink(t *testing.T) {
	if err := os.MkdirAll(shortLinkDir, 0o755); err != nil {
		t.Fatal(err)
	}
	base := tempDir(t)
	longest := base + "/" + strings.Repeat("x", maxSocketPath-len(base)-len("//sock"))
	f, err := chooseFolder(&Config{}, conf.Attachment{Sandbox: sandbox, Pod: podWith(longest)}, "sock", "vhu1")
	if err != nil || f.Link != "" || len(f.Path("sock")) != maxSocketPath {
		t.Fatalf("%d bytes fit: link %q, %v", len(f.Path("sock")), f.Link, err)
	}
	f, err = chooseFolder(&Config{}, conf.Attachment{Sandbox: sandbox, Pod: podWith(longest + "x")}, "sock", "vhu1")
	if err != nil || f.Link != shortLinkDir+"/vhu1" || f.Path("sock") != f.Link+"/sock" {
		t.Fatalf("%d bytes do not fit: link %q, %v", maxSocketPath+1, f.Link, err)
	}
	before, err := node.Tree(shortLinkDir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second ADD of the same finds it
		if err := f.Make(); err != nil {
			t.Fatal(err)
		}
	}
	if to, err := os.Readlink(f.Link); err != nil || to != f.Dir {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if err := f.Check(false, "sock"); err != nil {
		t.Error(err)
	}
	socketAt(t, f.Path("sock"))
	if !exists(filepath.Join(f.Dir, "sock")) {
		t.Error("a socket made through the link is not in the folder")
	}
	if err := os.Remove(f.Link); err != nil {
		t.Fatal(err)
	}
	wantError(t, f.Check(false, "sock"), f.Link, "gone")
	symlink(t, base, f.Link)
	wantError(t, f.Check(false, "sock"), f.Link, "changed")
	wantError(t, f.Make(), f.Link)
	for range 2 {
		if err := f.Clear(nil, true, "sock", ""); err != nil {
			t.Fatal(err)
		}
	}
	after, err := node.Tree(shortLinkDir)
	if err != nil {
		t.Fatal(err)
	}
	sameWorld(t, before, after)
	if exists(filepath.Join(f.Dir, "sock")) {
		t.Error("the socket is left")
	}
	name := strings.Repeat("x", maxSocketPath-len(shortLinkDir)-len("/vhu1/")+1)
	_, err = chooseFolder(&Config{}, conf.Attachment{Sandbox: sandbox, Pod: podWith(longest)}, name, "vhu1")
	wantError(t, err, "108 bytes", "at most 107", "socketFile")
}

// The sandbox's own folder comes with its first port and goes with its last.
func TestOwnFolder(t *testing.T) {
	group, gid := anyGroup(t)
	base := tempDir(t)
	f := folder{Dir: base + "/vhost/sandbox", Own: true, GID: gid, Perm: 0o770}
	if err := f.Make(); err != nil {
		t.Fatal(err)
	}
	if modeOf(t, f.Dir) != 0o770 || gidOf(t, f.Dir) != gid {
		t.Errorf("mode %o group %d, want 770 and %s", modeOf(t, f.Dir), gidOf(t, f.Dir), group)
	}
	socketAt(t, f.Dir+"/one")
	socketAt(t, f.Dir+"/two")
	if err := f.Clear([]shareddir.Use{{Folder: f, File: "two"}}, true, "one", ""); err != nil {
		t.Fatal(err)
	}
	if exists(f.Dir+"/one") || !exists(f.Dir+"/two") {
		t.Error("want the one socket removed and the other kept")
	}
	write(t, f.Dir+"/left/by/the/pod", "x")
	for range 2 {
		if err := f.Clear([]shareddir.Use{{Folder: folder{Dir: f.Dir + "x"}, File: "two"}, {Folder: folder{Dir: base}, File: "two"}}, true, "two", ""); err != nil {
			t.Fatal(err)
		}
		if exists(f.Dir) || !exists(base+"/vhost") {
			t.Error("want the sandbox's folder gone and socketDir left")
		}
	}
}

// The pod's volume is the pod's: it stays, with what is in it, and gets its
// group back.
func TestVolume(t *testing.T) {
	group, gid := anyGroup(t)
	dir := tempDir(t) + "/volume"
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, -1, gid+1); err != nil {
		t.Fatal(err)
	}
	f, err := chooseFolder(&Config{Vhost: Vhost{Group: group}}, conf.Attachment{Sandbox: sandbox, Pod: podWith(dir)}, "sock", "vhu1")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Make(); err != nil {
		t.Fatal(err)
	}
	if modeOf(t, dir) != 0o711 || gidOf(t, dir) != gid {
		t.Errorf("mode %o group %d, want the mode as it was and group %d", modeOf(t, dir), gidOf(t, dir), gid)
	}
	socketAt(t, dir+"/sock")
	socketAt(t, dir+"/the-pods-own")
	write(t, dir+"/data", "x")
	for range 2 {
		if err := f.Clear(nil, true, "sock", ""); err != nil {
			t.Fatal(err)
		}
	}
	if gidOf(t, dir) != gid+1 || exists(dir+"/sock") || !exists(dir+"/the-pods-own") || !exists(dir+"/data") {
		t.Errorf("group %d, want %d; and our socket alone gone", gidOf(t, dir), gid+1)
	}
	write(t, dir+"/sock", "the pod's file")
	if err := f.Clear(nil, true, "sock", ""); err != nil || !exists(dir+"/sock") {
		t.Errorf("a file at the socket's name is the pod's: %v", err)
	}
}

// A volume whose folder was missing is made, and removed unless the pod has put
// something there.
func TestMissingVolume(t *testing.T) {
	for _, left := range []bool{false, true} {
		dir := tempDir(t) + "/volume"
		f, err := chooseFolder(&Config{}, conf.Attachment{Sandbox: sandbox, Pod: podWith(dir)}, "sock", "vhu1")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Make(); err != nil {
			t.Fatal(err)
		}
		socketAt(t, dir+"/sock")
		if left {
			write(t, dir+"/data", "x")
		}
		for range 2 {
			if err := f.Clear(nil, true, "sock", ""); err != nil {
				t.Fatal(err)
			}
			if exists(dir) != left || exists(dir+"/sock") {
				t.Errorf("the pod left something: %v, the folder is left: %v", left, exists(dir))
			}
		}
	}
}

func TestFolderCheck(t *testing.T) {
	f := folder{Dir: tempDir(t) + "/own", Own: true, GID: -1, Perm: 0o750}
	wantError(t, f.Check(false, "sock"), f.Dir, "gone")
	if err := f.Make(); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(false, "sock"); err != nil {
		t.Errorf("the pod makes the socket when it likes: %v", err)
	}
	wantError(t, f.Check(true, "sock"), f.Dir+"/sock", "gone")
	write(t, f.Dir+"/sock", "")
	wantError(t, f.Check(true, "sock"), f.Dir+"/sock", "no socket")
	if err := os.Remove(f.Dir + "/sock"); err != nil {
		t.Fatal(err)
	}
	socketAt(t, f.Dir+"/sock")
	if err := f.Check(true, "sock"); err != nil {
		t.Error(err)
	}
}

package shareddir

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// awaitConnects waits until a user may connect to a socket.
func awaitConnects(t *testing.T, u User, socket string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !connects(t, u, socket); {
		if time.Now().After(end) {
			t.Fatalf("%v may not connect to %s: %+v", u, socket, inode(t, socket))
		}
	}
}

// podsSocket is a socket that a pod of another user makes, with the usual umask.
func podsSocket(t testing.TB, path string) {
	t.Helper()
	runtime.LockOSThread() // the file system's user and group are the thread's
	defer runtime.UnlockOSThread()
	become := func(id int) {
		_, errGroup := unix.SetfsgidRetGid(id)
		_, errUser := unix.SetfsuidRetUid(id)
		must(t, errors.Join(errGroup, errUser))
	}
	become(1000)
	defer become(0)
	socketAt(t, path)
}

// A socket that the pod makes after ADD, and makes again, is granted to the vswitch; another
// file in its place and another socket are not, nor after Drop.
func TestGrants(t *testing.T) {
	needRoot(t)
	dir, vswitch := tempDir(t), User{UID: 4711, GIDs: []int{4712}}
	must(t, os.Chmod(dir, 0o777))
	u := Use{Folder: Folder{Dir: dir, GID: -1, User: &vswitch}, File: "sock"}
	g := NewGrants(slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(g.Close)
	podsSocket(t, dir+"/sock") // before
	must(t, g.Keep(u))
	awaitConnects(t, vswitch, dir+"/sock")
	must(t, g.Keep(u)) // twice is once
	for range 3 {
		podsSocket(t, dir+"/new")
		must(t, os.Rename(dir+"/new", dir+"/sock"))
		awaitConnects(t, vswitch, dir+"/sock")
	}
	host := victim(t)
	for _, plant := range []func(){
		func() { must(t, os.Symlink(host+"/sock", dir+"/sock")) },
		func() { must(t, os.Link(host+"/file", dir+"/sock")) },
		func() { must(t, os.Mkdir(dir+"/sock", 0o700)) },
	} {
		must(t, os.Remove(dir+"/sock"))
		before := tree(t, host)
		if plant(); before == "" {
			t.Fatal("no victim")
		}
		must(t, u.grant())
		must(t, os.Remove(dir+"/sock"))
		podsSocket(t, dir+"/sock")
		awaitConnects(t, vswitch, dir+"/sock")
	}
	podsSocket(t, dir+"/other")
	g.Drop(u)
	must(t, os.Remove(dir+"/sock"))
	podsSocket(t, dir+"/sock")
	other := u
	other.File = "third"
	must(t, g.Keep(other)) // events are in order: when this one is granted, the former ones were read
	podsSocket(t, filepath.Join(dir, "third"))
	awaitConnects(t, vswitch, filepath.Join(dir, "third"))
	for _, name := range []string{"sock", "other"} {
		if connects(t, vswitch, filepath.Join(dir, name)) {
			t.Errorf("%s is granted", name)
		}
	}
	must(t, os.RemoveAll(dir)) // as the kubelet does with an emptyDir
	must(t, os.Mkdir(dir, 0o777))
	must(t, os.Chmod(dir, 0o777))
	must(t, g.Keep(u))
	podsSocket(t, dir+"/sock")
	awaitConnects(t, vswitch, dir+"/sock")
}

// The vswitch's socket is as open as the folder that it is linked into.
func TestLinkedSocketIsAsOpenAsTheFolder(t *testing.T) {
	needRoot(t)
	pod, member, stranger := User{UID: 1000, GIDs: []int{1000}}, User{UID: 1001, GIDs: []int{1001, 2000}}, User{UID: 1002, GIDs: []int{1002}}
	for name, c := range map[string]struct {
		mode     uint32
		uid, gid int
		group    int // of the configuration
		may      []User
	}{
		"an emptyDir":                   {0o777, 0, 0, -1, []User{pod, member, stranger}},
		"an emptyDir with fsGroup":      {0o2777, 0, 2000, -1, []User{member}},
		"a hostPath of the pod's user":  {0o755, 1000, 1000, -1, []User{pod}},
		"a hostPath of the pod's group": {0o775, 0, 2000, -1, []User{member}},
		"root's":                        {0o755, 0, 0, -1, nil},
		"an emptyDir, with a group":     {0o777, 0, 0, 2000, []User{member}},
	} {
		dir, run := tempDir(t), tempDir(t)
		must(t, os.Chown(dir, c.uid, c.gid))
		must(t, os.Chmod(dir, os.FileMode(c.mode&0o777)|modeOfTest(c.mode)))
		socketAt(t, run+"/vhu1")
		origin, err := OpenSocket(run, "vhu1")
		must(t, err)
		f := Folder{Dir: dir, GID: c.group}
		must(t, f.LinkSocket(origin, "sock", "file"))
		_ = origin.Close()
		for _, u := range []User{pod, member, stranger} {
			want := false
			for _, m := range c.may {
				want = want || m.UID == u.UID
			}
			if got := connects(t, u, run+"/vhu1"); got != want {
				t.Errorf("%s: %v may connect: %v, want %v", name, &u, got, want)
			}
		}
	}
}

func modeOfTest(mode uint32) os.FileMode {
	if mode&0o2000 != 0 {
		return os.ModeSetgid
	}
	return 0
}

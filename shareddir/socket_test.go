package shareddir

import (
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Only a socket that nobody listens at is replaced by the vswitch's.
func TestLinkSocket(t *testing.T) {
	host := victim(t)
	group, gid := anyGroup(t)
	run := tempDir(t)
	socketAt(t, run+"/vhu1")
	w := wish(run + "/base")
	w.Group = group
	u, err := choose(w, nil)
	must(t, err)
	must(t, u.Make())
	place := u.Place("sock")
	origin, err := OpenSocket(run, "vhu1")
	must(t, err)
	defer origin.Close()
	for name, plant := range map[string]func(){
		"nothing":        func() {},
		"a stale socket": func() { socketAt(t, place) },
		"itself":         func() { must(t, os.Link(run+"/vhu1", place)) },
	} {
		plant()
		if err := u.LinkSocket(origin, "sock", "vhost.socketFile"); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if st := inode(t, place); st.Ino != inode(t, run+"/vhu1").Ino || int(st.Gid) != gid || st.Mode != unix.S_IFSOCK|0o660 {
			t.Errorf("%s: group %d mode %o, or another socket", name, st.Gid, st.Mode)
		}
		if linked, err := u.Linked(origin, "sock"); err != nil || !linked {
			t.Errorf("%s: linked %v, %v", name, linked, err)
		}
		must(t, u.Check(true, "sock"))
		must(t, os.Remove(place))
	}
	wantError(t, u.Check(true, "sock"), place, "gone")
	for name, plant := range map[string]func(){
		"a file":           func() { write(t, place) },
		"a link to a file": func() { must(t, os.Symlink(host+"/file", place)) },
		"a link to socket": func() { must(t, os.Symlink(host+"/sock", place)) },
		"a folder":         func() { must(t, os.Mkdir(place, 0o755)) },
		"a fifo":           func() { must(t, unix.Mkfifo(place, 0o600)) },
	} {
		plant()
		before := tree(t, u.Dir)
		wantError(t, u.LinkSocket(origin, "sock", "vhost.socketFile"), place, "no socket", `"vhost.socketFile"`)
		wantError(t, u.Check(true, "sock"), place, "no socket")
		wantError(t, u.Vacant("sock", "vhost.socketFile", false), place, "no socket", `"vhost.socketFile"`)
		if after := tree(t, u.Dir); after != before {
			t.Errorf("%s: before:\n%safter:\n%s", name, before, after)
		}
		must(t, os.RemoveAll(place))
	}
	listenAt(t, place)
	if !u.Listened("sock") {
		t.Error("a listener is not noticed")
	}
	wantError(t, u.Vacant("sock", "vhost.socketFile", true), place, "listens", `"vhost.socketFile"`)
	must(t, u.LinkSocket(origin, "sock", "vhost.socketFile")) // in an own folder all is plexus'
	volume := tempDir(t)
	if u, err = choose(wish(run), podWith(volume)); err != nil {
		t.Fatal(err)
	}
	listenAt(t, volume+"/sock")
	wantError(t, u.LinkSocket(origin, "sock", "vhost.socketFile"), volume+"/sock", "listens", `"vhost.socketFile"`)
}

// What OVSDB says of the vswitch's sockets leads to nothing outside of its run folder,
// and to nothing but a socket.
func TestOpenSocket(t *testing.T) {
	host := victim(t)
	run := tempDir(t)
	must(t, os.Mkdir(run+"/sub", 0o755))
	socketAt(t, run+"/sub/vhu1")
	write(t, run+"/file")
	must(t, os.Symlink(host, run+"/link"))
	must(t, os.Symlink("sub", run+"/inside"))
	must(t, os.Symlink(host+"/sock", run+"/vhu1"))
	for path, says := range map[string]string{
		"../victim/sock": "below", "/etc/passwd": "below", "": "below", "..": "below",
		"link/sock": "symbolic", "inside/vhu1": "symbolic", "vhu1": "no socket",
		"file": "no socket", "sub": "no socket", "none": "no such file", "sub/none": "no such file",
	} {
		f, err := OpenSocket(run, path)
		if err == nil {
			t.Errorf("%q is opened", path)
			f.Close()
			continue
		}
		wantError(t, err, says)
	}
	f, err := OpenSocket(run, "sub/vhu1")
	must(t, err)
	f.Close()
}

// A socket that is swapped after it was opened is not the one that the pod gets.
func TestLinkSocketLinksWhatWasOpened(t *testing.T) {
	host := victim(t)
	run := tempDir(t)
	socketAt(t, run+"/vhu1")
	origin, err := OpenSocket(run, "vhu1")
	must(t, err)
	defer origin.Close()
	must(t, os.Rename(run+"/vhu1", run+"/moved"))
	must(t, os.Symlink(host+"/file", run+"/vhu1"))
	u, err := choose(wish(run+"/base"), nil)
	must(t, err)
	must(t, u.Make())
	must(t, u.LinkSocket(origin, "sock", "file"))
	if inode(t, u.Place("sock")).Ino != inode(t, run+"/moved").Ino {
		t.Error("the pod has another file than the socket that was opened")
	}
}

// A socket on another file system cannot be linked; the error says what to do.
func TestLinkSocketAcross(t *testing.T) {
	needRoot(t)
	mounted := tempDir(t)
	must(t, unix.Mount("tmpfs", mounted, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mounted, unix.MNT_DETACH)) })
	socketAt(t, mounted+"/vhu1")
	origin, err := OpenSocket(mounted, "vhu1")
	must(t, err)
	defer origin.Close()
	u, err := choose(wish(tempDir(t)), nil)
	must(t, err)
	must(t, u.Make())
	wantError(t, u.LinkSocket(origin, "sock", "file"), mounted+"/vhu1", u.Dir, "different file systems", "client")
}

// A listener of whatever kind is noticed, and does not hear of it.
func TestListened(t *testing.T) {
	dir := tempDir(t)
	u, err := choose(wish(dir), podWith(dir))
	must(t, err)
	for _, network := range []string{"unix", "unixpacket", "unixgram"} {
		addr := &net.UnixAddr{Name: dir + "/" + network, Net: network}
		if network == "unixgram" {
			c, err := net.ListenUnixgram(network, addr)
			must(t, err)
			defer c.Close()
		} else {
			l, err := net.ListenUnix(network, addr)
			must(t, err)
			defer l.Close()
			raw, err := l.SyscallConn()
			must(t, err)
			defer func() {
				must(t, raw.Control(func(fd uintptr) {
					if _, _, err := unix.Accept4(int(fd), unix.SOCK_CLOEXEC); !errors.Is(err, unix.EAGAIN) {
						t.Errorf("%s: the listener has a connection, %v", network, err)
					}
				}))
			}()
		}
		if !u.Listened(network) {
			t.Errorf("%s: the listener is not noticed", network)
		}
	}
	socketAt(t, dir+"/stale")
	write(t, dir+"/file")
	must(t, os.Symlink("unix", dir+"/link"))
	for _, name := range []string{"stale", "file", "link", "none"} {
		if u.Listened(name) {
			t.Errorf("%s: it counts as a listener", name)
		}
	}
}

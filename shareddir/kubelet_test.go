package shareddir

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// ownNode gives the test, which needs root, a /run and a /var/lib of its own. Subtests do
// not see them: they run in other threads.
func ownNode(t *testing.T) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread() // and never unlocked: the thread, with its mounts, ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, place := range []string{"/run", "/var/lib"} {
		must(t, unix.Mount("tmpfs", place, "tmpfs", 0, "mode=755"))
	}
}

// podWithEmptyDir has its shared-dir in the folder of the kubelet.
func podWithEmptyDir() *conf.Pod {
	return &conf.Pod{
		Namespace: "default", Name: "p", UID: "7b9a3c7e-0d5f-4c6b-9e1d-2f8a6b5c4d3e",
		Volumes: []conf.Volume{{Name: conf.SharedDir}},
	}
}

// An emptyDir that the kubelet has made gets the group, and the setgid bit that gives it to
// sockets; both are as before when the last attachment leaves it.
func TestEmptyDir(t *testing.T) {
	ownNode(t)
	pod := podWithEmptyDir()
	dir := pod.HostDir(conf.SharedDir)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.Chmod(dir, 0o777))
	before := tree(t, "/var/lib/kubelet")
	w := wish("/run/base")
	group, gid := anyGroup(t)
	w.Group = group
	first, err := choose(w, pod)
	must(t, err)
	if first.Own || first.Made || first.FormerGID == nil || *first.FormerGID != 0 || first.Dir != dir {
		t.Fatalf("chosen %+v", first.Folder)
	}
	must(t, first.Make())
	if st := inode(t, dir); int(st.Gid) != gid || st.Mode&0o7777 != 0o2777 {
		t.Errorf("group %d mode %o", st.Gid, st.Mode)
	}
	second := first
	second.File, second.Config = "two", ConfigFile(sandbox, "net2")
	clear(t, &first, true, second)
	if st := inode(t, dir); int(st.Gid) != gid {
		t.Errorf("another attachment uses it, and it has group %d", st.Gid)
	}
	clear(t, &second, true)
	if after := tree(t, "/var/lib/kubelet"); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// Permissions of the configuration are those of an emptyDir too, while it is used.
func TestEmptyDirWithPermissions(t *testing.T) {
	ownNode(t)
	pod := podWithEmptyDir()
	dir := pod.HostDir(conf.SharedDir)
	must(t, os.MkdirAll(dir, 0o755))
	before := tree(t, "/var/lib/kubelet")
	w := wish("/run/base")
	w.Permissions = "2750"
	u, err := choose(w, pod)
	must(t, err)
	must(t, u.Make())
	if st := inode(t, dir); st.Mode&0o7777 != 0o2750 {
		t.Errorf("mode %o", st.Mode)
	}
	clear(t, &u, true)
	if after := tree(t, "/var/lib/kubelet"); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// Two networks that want an emptyDir otherwise: the second is refused, whether it was prepared
// before the first was attached or after it. What was before comes back with the last.
func TestEmptyDirForTwo(t *testing.T) {
	ownNode(t)
	pod := podWithEmptyDir()
	must(t, os.MkdirAll(pod.HostDir(conf.SharedDir), 0o755))
	before := tree(t, "/var/lib/kubelet")
	w, other := wish("/run/base"), wish("/run/base")
	w.Group, other.Group = "4711", "4712"
	first, err := choose(w, pod)
	must(t, err)
	late, err := choose(other, pod)
	must(t, err)
	must(t, first.Make())
	wantError(t, late.Make(), "another network of the pod", "4711", "4712", "the same")
	_, err = choose(other, pod)
	wantError(t, err, `"vhost.group"`, "another network of the pod", "4711", "4712")
	other.Group, other.Permissions = "", "0700"
	_, err = choose(other, pod)
	wantError(t, err, `"vhost.permissions"`, "another network of the pod")
	second, err := choose(w, pod)
	must(t, err)
	must(t, second.Make())
	clear(t, &first, true, second)
	clear(t, &second, true)
	if after := tree(t, "/var/lib/kubelet"); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// A hostPath that has what is asked for is taken as it is.
func TestHostPathAsAskedFor(t *testing.T) {
	ownNode(t)
	dir := tempDir(t)
	must(t, os.Chown(dir, 0, 4711))
	must(t, os.Chmod(dir, 0o770|os.ModeSetgid))
	before := tree(t, dir)
	w := wish("/run/base")
	w.Group, w.Permissions = "4711", "2770"
	u, err := choose(w, podWith(dir))
	must(t, err)
	must(t, u.Make())
	clear(t, &u, true)
	if after := tree(t, dir); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

// An emptyDir that the kubelet has not made is refused, and no folder is made: its pod would not
// see it.
func TestEmptyDirThatIsMissing(t *testing.T) {
	ownNode(t)
	pod := podWithEmptyDir()
	for range 2 {
		dir := pod.HostDir(conf.SharedDir)
		_, err := choose(wish("/run/base"), pod)
		wantError(t, err, "default/p", dir, "kubeletDir")
		u := Use{Folder: Folder{Dir: dir, EmptyDir: true, Made: true, GID: -1, Perm: 0o750}, File: "sock"}
		if err := u.Make(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Make: %v", err)
		}
		if left, err := os.ReadDir("/var/lib"); err != nil || len(left) > 0 {
			t.Errorf("made: %v, %v", left, err)
		}
		pod.KubeletDir = "/var/lib/k0s/kubelet"
	}
}

// The kubelet's folder may be a link of the node. No other one is followed.
func TestKubeletDirThatIsALink(t *testing.T) {
	ownNode(t)
	pod := podWithEmptyDir()
	dir := pod.HostDir(conf.SharedDir)
	place := "/run/disk" + strings.TrimPrefix(dir, "/var/lib/kubelet")
	must(t, os.MkdirAll(place, 0o755))
	must(t, os.Symlink("/run/disk", "/var/lib/kubelet"))
	u, err := choose(wish("/run/base"), pod)
	must(t, err)
	must(t, u.Make())
	must(t, u.WriteFile(u.Config, nil))
	if !exists(place + "/" + u.Config) {
		t.Errorf("nothing is written into %s", place)
	}
	must(t, os.RemoveAll("/run/disk/pods"))
	must(t, os.Mkdir("/run/victim", 0o755))
	must(t, os.Symlink("/run/victim", "/run/disk/pods"))
	wantError(t, u.Make(), "/run/disk/pods is a symbolic link")
	if entries, err := os.ReadDir("/run/victim"); err != nil || len(entries) > 0 {
		t.Errorf("behind the link is %v, %v", entries, err)
	}
}

package ovsdpdk

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/shareddir"
)

// The user is that of the ovs-vswitchd beside OVSDB's socket, and of no other process.
func TestStatusUser(t *testing.T) {
	const status = "Name:\tovs-vswitchd-dp\nUmask:\t0002\nUid:\t0\t998\t998\t998\nGid:\t0\t997\t997\t997\nGroups:\t997 1001 \n"
	want := &shareddir.User{UID: 998, GIDs: []int{997, 997, 1001}}
	if got := statusUser(status); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, other := range []string{"", strings.Replace(status, "ovs-vswitchd-dp", "bash", 1), strings.Replace(status, "998", "x", 1), "Name:\tovs-vswitchd\n", strings.Replace(status, "1001", "x", 1)} {
		if got := statusUser(other); got != nil {
			t.Errorf("%q: %v, want none", other, got)
		}
	}
	dir := tempDir(t)
	for _, text := range []string{"", "x", "-1", "0", fmt.Sprint(os.Getpid()), strings.Repeat("1", 40)} {
		write(t, filepath.Join(dir, "pid"), text)
		if got := processUser(filepath.Join(dir, "pid")); got != nil {
			t.Errorf("pid file %q: %v, want none", text, got)
		}
	}
}

// notRoot makes the rig's vswitch one of another user: a process of that user has the name and
// the pid file of ovs-vswitchd. It has no control socket; the delegate knows that it works.
func (r *rig) notRoot(d *Delegate) *shareddir.User {
	r.t.Helper()
	dir := filepath.Dir(strings.TrimPrefix(r.address, "unix:"))
	data, err := os.ReadFile("/usr/bin/sleep")
	wantErrorNone(r.t, err)
	program := filepath.Join(tempDir(r.t), "ovs-vswitchd")
	wantErrorNone(r.t, os.WriteFile(program, data, 0o755))
	p, err := os.StartProcess(program, []string{"ovs-vswitchd", "infinity"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: 4711, Gid: 4712}, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = p.Kill(); _, _ = p.Wait() })
	write(r.t, filepath.Join(dir, "ovs-vswitchd.pid"), fmt.Sprintln(p.Pid))
	r.t.Cleanup(func() { remove(r.t, filepath.Join(dir, "ovs-vswitchd.pid")) })
	d.health.Store(r.address, health{})
	return &shareddir.User{UID: 4711, GIDs: []int{4712}}
}

// A vswitch that is not root is given a short path, whatever its length, where it connects to
// the pod; DEL leaves nothing. What it cannot enter is refused.
func TestVswitchThatIsNotRoot(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	user := r.notRoot(d)
	wantErrorNone(t, os.Chmod(shortLinkDir, 0o700))
	volume := filepath.Join(r.dir, "volume")
	wantErrorNone(t, os.Mkdir(volume, 0o755))
	withVolume := r.world()
	a := shared(r.attachment(d, sandbox, nil), volume)
	mustAttach(t, d, a)
	s := decoded(t, a.State)
	if s.User == nil || s.User.UID != user.UID || s.User.GIDs[0] != user.GIDs[0] || s.Socket != filepath.Join(shortLinkDir, s.Port, s.File) {
		t.Errorf("state %s, want a short path for %v", a.State, user)
	}
	wantErrorNone(t, a.Network.Check(bounded(t), a))
	removeShort(t, s.Link)
	wantError(t, a.Network.Check(bounded(t), a), "short path", s.Link)
	if made, err := a.Network.Restore(bounded(t), a); err != nil || len(made) != 1 {
		t.Errorf("made %q, %v", made, err)
	}
	wantErrorNone(t, a.Network.Check(bounded(t), a))
	b := r.attachment(d, "own", nil)
	mustAttach(t, d, b)
	mustDetach(t, d, unrecorded(a), b)
	if after := r.world(); strings.ReplaceAll(after, "drwx--x--- "+shortLinkDir, "drwx------ "+shortLinkDir) != withVolume {
		sameWorld(t, withVolume, after)
	}
	wantErrorNone(t, os.Chmod(volume, 0o700))
	_, err := a.Network.Prepare(bounded(t), a)
	wantError(t, err, volume, "closed for the vswitch", "4711")
	remove(t, volume)
	wantErrorNone(t, a.Network.Ready(bounded(t)))
	grouped := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "group": "4799"}})
	wantError(t, grouped.Network.Ready(bounded(t)), `"vhost.group"`, "4799", "4711") // STATUS says it, before a pod does
	server := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "mode": "server"}})
	mustPrepare(t, server)
	if s := decoded(t, server.State); s.Link != "" || s.User != nil {
		t.Errorf("a vswitch that listens needs no short path: %s", server.State)
	}
}

// The short path is made where process 1 sees it, from an agent with mounts and a root of its
// own as well, and is removed from there.
func TestShortPathIsTheNodes(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	r.notRoot(d)
	volume := filepath.Join(r.dir, "volume")
	wantErrorNone(t, os.Mkdir(volume, 0o755))
	a := shared(r.attachment(d, sandbox, nil), volume)
	inContainer := func(do func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			wantErrorNone(t, unix.Unshare(unix.CLONE_NEWNS))
			wantErrorNone(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			do()
		}()
		<-done
	}
	inContainer(func() { mustAttach(t, d, a) })
	s := decoded(t, a.State)
	write(t, volume+"/file", "")
	if !exists(s.Link + "/file") {
		t.Error("the node does not see the folder at its short path")
	}
	inContainer(func() { wantErrorNone(t, a.Network.Check(bounded(t), a)) })
	remove(t, volume+"/file")
	inContainer(func() { mustDetach(t, d, a) })
	if exists(s.Link) {
		t.Error("the short path is left on the node")
	}
}

package vppmemif

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/shareddir"
)

const connectTo = "PLEXUS_TEST_CONNECT"

// TestConnect is what TestSocketOfAGroup executes as another user.
func TestConnect(t *testing.T) {
	socket := os.Getenv(connectTo)
	if socket == "" {
		t.Skip("it is executed by TestSocketOfAGroup")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); {
	case errors.Is(err, unix.EACCES):
		os.Exit(13)
	case err != nil:
		t.Fatal(err)
	}
}

// A process of the group that socket.group names connects to VPP's socket, also after a restart
// of VPP, and one of another group does not.
func TestSocketOfAGroup(t *testing.T) {
	r := newRig(t, standin.Options{})
	d := newDelegate(t)
	keys := named("blue")
	keys["socket"] = map[string]any{"dir": r.dir, "group": "4711"}
	a := r.attachment(sandboxA, keys)
	raw := mustAttach(t, d, a)
	socket := stateOf(t, raw).Socket
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(tempDir(t), "connect") // where others may execute it
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	connect := func(gid uint32) int {
		t.Helper()
		c := exec.CommandContext(bounded(t), program, "-test.run", "^TestConnect$")
		c.Env = append(os.Environ(), connectTo+"="+socket)
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: gid}}
		out, err := c.CombinedOutput()
		var status *exec.ExitError
		if err != nil && !errors.As(err, &status) {
			t.Fatalf("%v: %s", err, out)
		}
		return c.ProcessState.ExitCode()
	}
	for _, when := range []string{"at first", "after a restart of VPP"} {
		if got := connect(4711); got != 0 {
			st, _ := os.Stat(socket)
			folder, _ := os.Stat(filepath.Dir(socket))
			t.Errorf("%s a process of the group does not connect (status %d): socket %v, folder %v", when, got, st.Mode(), folder.Mode())
		}
		if got := connect(4712); got != 13 {
			t.Errorf("%s a process of another group ends with %d, want EACCES", when, got)
		}
		if when == "at first" {
			r.restart()
			r.age()
			if made, err := d.restore(bounded(t), a, raw); err != nil || len(made) == 0 {
				t.Fatalf("restore: %v %v", made, err)
			}
		}
	}
	if st, err := os.Stat(filepath.Join(r.dir, shareddir.OwnName(sandboxA))); err != nil || st.Mode()&os.ModeSetgid == 0 {
		t.Errorf("the folder's mode is %v (%v), want setgid", st.Mode(), err)
	}
	mustDel(t, d, a, raw)
}

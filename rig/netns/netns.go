// Package netns gives tests network namespaces of their own.
package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// New makes a network namespace that is gone when the test has ended, and returns its path.
// It needs CAP_SYS_ADMIN: see AsRoot.
func New(t testing.TB) (path string) {
	t.Helper()
	made, end := make(chan error), make(chan struct{})
	var hold func()
	hold = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // /proc/self is the first thread: it stays where it is
			defer runtime.UnlockOSThread()
			go hold()
			<-end
			return
		}
		path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- unix.Unshare(unix.CLONE_NEWNET)
		<-end // the thread ends with this goroutine, as it is locked to it
	}
	go hold()
	if err := <-made; err != nil {
		close(end)
		t.Fatalf("network namespace: %v", err)
	}
	t.Cleanup(func() { close(end) })
	return path
}

// AsRoot runs a test again, in user, mount and network namespaces where it is root, when the
// user is not root. It reports whether it did: the caller returns then. A test is skipped where
// the kernel allows no such namespaces.
func AsRoot(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return false
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("SKIPPED: it needs root, or a kernel that allows user namespaces: %v", err)
	}
	if err != nil {
		t.Errorf("in a user namespace: %v: %s", err, out)
	}
	return true
}

package plugin

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ended waits for the end of the process whose number a file has, if there is one.
func ended(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err != nil {
		return
	}
	pid := pidIn(t, file)
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	await(t, fmt.Sprintf("the end of process %d", pid), func() bool { return !running(pid) })
}

// running: a zombie has ended.
func running(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

func pidIn(t *testing.T, file string) (pid int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(data), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

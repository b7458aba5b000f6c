package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// syscallFaults are the calls of the kernel that ADD and DEL may make, each with an
// error that it can have. Of close there is only the kill: strace would leave the file
// open, which the kernel does not do.
var syscallFaults = [][2]string{
	{"openat", "EMFILE"}, {"openat", "ENOSPC"}, {"openat2", "EIO"}, {"read", "EIO"}, {"write", "ENOSPC"}, {"pread64", "EIO"}, {"close", ""},
	{"fstat", "EIO"}, {"newfstatat", "EACCES"}, {"statx", "EIO"}, {"getdents64", "EIO"}, {"readlinkat", "EIO"},
	{"mkdirat", "ENOSPC"}, {"unlinkat", "EIO"}, {"unlink", "EIO"}, {"renameat", "EIO"}, {"renameat2", "EIO"}, {"linkat", "ENOSPC"}, {"symlinkat", "ENOSPC"},
	{"fchmodat", "EPERM"}, {"fchmod", "EPERM"}, {"fchown", "EPERM"}, {"fchownat", "EPERM"}, {"fsync", "EIO"}, {"ftruncate", "EIO"}, {"flock", "ENOLCK"}, {"fcntl", "ENOLCK"},
	{"socket", "EMFILE"}, {"connect", "EAGAIN"}, {"bind", "EADDRINUSE"}, {"sendto", "ENOBUFS"}, {"sendmsg", "ENOBUFS"}, {"recvfrom", "ECONNRESET"}, {"recvmsg", "ENOMEM"},
	{"setsockopt", "ENOMEM"}, {"getsockopt", "ENOMEM"}, {"getsockname", "ENOMEM"}, {"pipe2", "EMFILE"}, {"epoll_ctl", "ENOMEM"}, {"epoll_create1", "EMFILE"},
	{"clone", "EAGAIN"}, {"vfork", "EAGAIN"}, {"execve", "ENOMEM"}, {"wait4", "ECHILD"}, {"waitid", "ECHILD"}, {"setns", "EPERM"}, {"unshare", "EPERM"}, {"memfd_create", "EMFILE"},
}

// faultsAsked says that all faults are wanted: make faults.
const faultsAsked = "PLEXUS_FAULTS"

// placesOf are the calls, counted from 1 in each thread, that fail in turn: all of
// the first 25, or in the bounded part of make test a few.
func placesOf(n int) []int {
	if os.Getenv(faultsAsked) == "" {
		return []int{1 + n%4}
	}
	all := make([]int, 25)
	for i := range all {
		all[i] = i + 1
	}
	return all
}

// underStrace makes a request by plexusd, one of whose calls of the kernel fails, or
// is its last. hit says that it came to that.
func underStrace(s *site.Site, r site.Request, call, what string, at int) (hit bool, err error) {
	s.T.Helper()
	if r.IfName == "" {
		r.IfName = "eth0"
	}
	trace := filepath.Join(node.Dir(), "strace")
	// Plugins are let go when they are executed: the faults are plexusd's.
	cmd := exec.Command("strace", "-f", "-b", "execve", "-qq", "-o", trace, "-e", "trace="+call, "-e", "signal=none",
		"-e", fmt.Sprintf("inject=%s:%s:when=%d", call, what, at), filepath.Join(site.BinDir(s.T), "plexusd"), "cni")
	cmd.Env = s.Environ(r)
	cmd.Stdin = bytes.NewReader(s.Conf)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	must.Do(s.T, cmd.Start())
	// A plexusd that does not end is told to say where it stands (strace does not
	// heed the signal), and killed.
	signal := func(after time.Duration, sig syscall.Signal) *time.Timer {
		return time.AfterFunc(after, func() { _ = unix.Kill(-cmd.Process.Pid, sig) })
	}
	quit, kill := signal(time.Minute, unix.SIGQUIT), signal(70*time.Second, unix.SIGKILL)
	err = cmd.Wait()
	kill.Stop()
	// Package syscall waits for a child that it takes for dead where it could not read
	// what became of it; no kernel fails such a read.
	if !quit.Stop() && !strings.Contains(errOut.String(), "syscall.forkExec(") {
		s.T.Errorf("%s %s at %d: plexusd does not end:\n%s", call, what, at, errOut.String())
	}
	if strings.Contains(errOut.String(), "strace:") {
		s.T.Fatalf("strace: %s", errOut.String())
	}
	text, errRead := os.ReadFile(trace)
	if errRead != nil {
		s.T.Fatal(errRead)
	}
	// The runtime of Go ends the process where it cannot do without a call, as a kill does.
	if strings.Contains(errOut.String(), "plexus: panic") || strings.Contains(out.String(), "internal error") {
		s.T.Errorf("%s %s at %d: %s%s", call, what, at, out.String(), errOut.String())
	}
	killed := strings.HasPrefix(what, "signal") && err != nil
	return killed || bytes.Contains(text, []byte("(INJECTED)")), err
}

// Each call of the kernel that ADD and DEL make fails in turn, and is the last one
// before SIGKILL in turn. After a DEL without faults, or two, nothing is left.
func TestSyscallFaults(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is missing: make packages installs it")
	}
	s, p := site.NewThree(t)
	before := s.World(site.OVS(t))
	tried, second, sandbox := 0, 0, ""
	for n, f := range syscallFaults {
		for _, what := range []string{"error=" + f[1], "signal=KILL"} {
			if what == "error=" || what == "signal=KILL" && n > 0 && syscallFaults[n-1][0] == f[0] {
				continue
			}
			for v, verb := range []string{"ADD", "DEL"} {
				if kill := what == "signal=KILL"; os.Getenv(faultsAsked) == "" && kill == ((n+v)%2 == 0) {
					continue // the bounded part has the error in one verb and the kill in the other
				}
				for _, at := range placesOf(n) {
					sandbox = site.SandboxID(30000 + tried) // what one leaves is not the next one's
					if verb == "DEL" {
						s.MustAdd(sandbox, p, "three")
					}
					hit, err := underStrace(s, site.Request{Verb: verb, Sandbox: sandbox, Netns: p.Path(), Pod: "three"}, f[0], what, at)
					where := fmt.Sprintf("%s of %s: %s at %d (%v)", verb, f[0], what, at, err)
					if err := s.Del(sandbox, p, "three"); err != nil {
						second++
						t.Logf("%s: the first DEL: %v", where, err)
						if err := s.Del(sandbox, p, "three"); err != nil {
							t.Errorf("%s: the second DEL: %v", where, err)
						}
					}
					if after := s.World(site.OVS(t)); after != before {
						t.Errorf("%s: left behind", where)
						site.SameWorld(t, before, after)
						before = s.World(site.OVS(t)) // the next ones are measured from here
					}
					if !hit {
						break
					}
					tried++
				}
			}
		}
	}
	t.Logf("%d faults; %d needed a second DEL", tried, second)
	if tried < 30 {
		t.Errorf("only %d faults came to be", tried)
	}
}

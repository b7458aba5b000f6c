// Package node gives a test or a demo a machine of its own: network, mount and
// process namespaces in which it may create interfaces, mount sandboxes and
// start daemons as a Kubernetes node would, without touching the host it runs
// on and without leaving anything behind, however it ends.
//
// A test enters the node in TestMain, a program at the top of main:
//
//	func TestMain(m *testing.M) { os.Exit(node.Main(m)) }
//
//	func main() { node.Enter(); ... }
//
// Three processes of the same binary take part. The outer one, started by the
// user, creates the namespaces and waits. The init is process 1 of the node: it
// prepares the mounts, reaps orphans and passes signals on. The inner one runs
// the test or the program. When the inner process ends the init ends, and with
// it the kernel kills every process left in the node and drops its interfaces,
// mounts and scratch files. When the outer process is killed the init dies too.
//
// The node hides /run of the host behind an empty one and puts TMPDIR there, so
// that t.TempDir too is gone with the node. What is written to /etc stays in the
// node, too. Everything else of the file system is the host's. A VPP of the host
// can take part, see VPPVariable.
package node

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/plexus-cni/plexus/rig/process"
)

// marker is the environment variable that tells a process of this binary which
// of the three it is.
const marker = "PLEXUS_E2E_NODE"

const (
	roleInit   = "init"
	roleInside = "inside"
)

// guestMarker is set in the virtual machine of rig/guest, which is a node of its
// own: nothing needs to be entered.
const guestMarker = "PLEXUS_GUEST"

// scratch holds the files of the node; it lies on the private tmpfs at /run.
const scratch = "/run/plexus-node"

// Main enters the node and runs the tests of m in it. It is all that TestMain
// needs: os.Exit(node.Main(m)).
func Main(m interface{ Run() int }) int {
	Enter()
	return m.Run()
}

// Enter returns in a process that runs inside a node of its own. In the
// processes around it, it does not return: they exit with the status of the
// inner one, 128+n if signal n ended it, or 1 if the node cannot be made. It
// has to be called before anything that must not happen three times. It needs
// root.
func Enter() {
	switch os.Getenv(marker) {
	case roleInside:
	case roleInit:
		os.Exit(exit("init", runInit))
	default:
		os.Exit(exit("outside", runOutside))
	}
}

// Inside tells whether the calling process runs inside a node.
func Inside() bool { return os.Getenv(marker) == roleInside || InGuest() }

// InGuest tells whether the calling process runs in the virtual machine of rig/guest.
func InGuest() bool { return os.Getenv(guestMarker) != "" }

// Dir is a folder that lives in memory and only as long as the node. Its path
// is short, so that unix sockets fit below it.
func Dir() string { return scratch }

func exit(what string, run func() (int, error)) int {
	code, err := run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "node: %s: %v\n", what, err)
		return 1
	}
	return code
}

// runOutside starts the init in new namespaces and waits for it.
func runOutside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("a node needs namespaces, interfaces and mounts: run as root")
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	if os.Getenv(VPPVariable) != "" {
		if err := share(); err != nil {
			return 0, err
		}
		defer unshare()
	}

	// It is in a group of its own: a ^C at the terminal reaches the node once, through here.
	p, err := process.Start(process.Options{
		Name: os.Args[0] + " in new namespaces", Program: "/proc/self/exe", Env: environ(roleInit), Inherit: true,
		Namespaces: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
	}, os.Args...)
	if err != nil {
		return 0, err
	}
	for {
		select {
		case s := <-signals:
			_ = p.Signal(s.(syscall.Signal))
		case <-p.Done():
			return status(p.Status()), nil
		}
	}
}

// forwarded are the signals passed on from the user to the inner process.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP}

// status turns a wait status into an exit status as a shell does.
func status(w syscall.WaitStatus) int {
	if w.Signaled() {
		return 128 + int(w.Signal())
	}
	return w.ExitStatus()
}

// environ is the environment of this process with the role set.
func environ(role string, more ...string) []string {
	env := make([]string, 0, len(os.Environ())+2)
	for _, kv := range os.Environ() {
		if len(kv) <= len(marker) || kv[:len(marker)+1] != marker+"=" {
			env = append(env, kv)
		}
	}
	return append(append(env, marker+"="+role), more...)
}

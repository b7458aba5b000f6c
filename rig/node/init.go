package node

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// runInit is process 1 of the node: it prepares the node, starts the inner
// process, reaps whatever becomes its child, and returns the inner status.
func runInit() (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)

	more := []string{"TMPDIR=" + filepath.Join(scratch, "tmp")}
	var views []view
	if api := os.Getenv(VPPVariable); api != "" {
		var err error
		if views, err = viewsOf(api); err != nil {
			return 0, err
		}
		more = append(more, VPPVariable+"="+insideAPI)
	}
	if err := prepare(views); err != nil {
		return 0, err
	}
	// Not os/exec: its Wait and the reaping below would take each other's
	// children.
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   environ(roleInside, more...),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s inside: %w", os.Args[0], err)
	}
	go func() {
		for s := range signals {
			_ = syscall.Kill(pid, s.(syscall.Signal))
		}
	}()
	for {
		var w syscall.WaitStatus
		got, err := syscall.Wait4(-1, &w, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		case got == pid:
			return status(w), nil
		}
	}
}

// prepare makes the bare namespaces a node: mounts that belong to it alone, but
// for the views of the host, and a loopback that is up.
func prepare(views []view) error {
	const sharedRun = "/run/netns"
	steps := []struct {
		what, source, target, kind string
		flags                      uintptr
		mkdir                      bool
	}{
		{what: "keep mounts private below", target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{what: "mount proc", source: "proc", target: "/proc", kind: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{what: "mount sysfs", source: "sysfs", target: "/sys", kind: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{what: "mount tmpfs", source: "plexus-node", target: "/run", kind: "tmpfs", flags: unix.MS_NOSUID},
		// As iproute2 has it: a sandbox that is unmounted here is unmounted
		// too for the processes that have copied the mounts.
		{what: "bind", source: sharedRun, target: sharedRun, flags: unix.MS_BIND | unix.MS_REC, mkdir: true},
		{what: "share mounts below", target: sharedRun, flags: unix.MS_REC | unix.MS_SHARED},
	}
	for _, s := range steps {
		if s.mkdir {
			if err := os.MkdirAll(s.target, 0o755); err != nil {
				return fmt.Errorf("create folder: %w", err)
			}
		}
		if err := unix.Mount(s.source, s.target, s.kind, s.flags, ""); err != nil {
			return fmt.Errorf("%s %s: %w", s.what, s.target, err)
		}
	}
	for _, v := range views {
		if err := v.attach(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "etc/upper", "etc/work"} {
		if err := os.MkdirAll(filepath.Join(scratch, dir), 0o755); err != nil {
			return fmt.Errorf("create scratch folder: %w", err)
		}
	}
	// The host's settings, and what a test writes beside them.
	etc := fmt.Sprintf("lowerdir=/etc,upperdir=%[1]s/etc/upper,workdir=%[1]s/etc/work", scratch)
	if err := unix.Mount("overlay", "/etc", "overlay", 0, etc); err != nil {
		return fmt.Errorf("mount an overlay at /etc: %w", err)
	}
	return loopbackUp()
}

// loopbackUp sets lo of the current network namespace up.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find link lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set link lo up: %w", err)
	}
	return nil
}

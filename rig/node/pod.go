package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// netnsDir is where sandboxes are mounted, the place iproute2 knows.
const netnsDir = "/run/netns"

// Pod is the sandbox of a pod as a container runtime would make it: a network
// namespace with only lo, which is up, mounted at /run/netns/<name>.
type Pod struct {
	name string
}

// NewPod makes a sandbox. The name has to be new and a single path element.
func NewPod(name string) (*Pod, error) {
	if !Inside() {
		return nil, fmt.Errorf("make pod %s: not inside a node: call node.Enter first", name)
	}
	if name == "" || name != filepath.Base(name) {
		return nil, fmt.Errorf("make pod %q: the name has to be a single path element", name)
	}
	p := &Pod{name: name}
	f, err := os.OpenFile(p.Path(), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make pod %s: create mount point: %w", name, err)
	}
	f.Close()

	done := make(chan error)
	go func() { done <- mountNewNetns(p.Path()) }()
	if err := <-done; err != nil {
		return nil, errors.Join(fmt.Errorf("make pod %s: %w", name, err), os.Remove(p.Path()))
	}
	if err := p.Do(loopbackUp); err != nil {
		return nil, errors.Join(fmt.Errorf("make pod %s: %w", name, err), p.Close())
	}
	return p, nil
}

// mountNewNetns makes a network namespace and mounts it at path. If the thread
// cannot return to the namespace it came from, it stays locked and so is never
// used again.
func mountNewNetns(path string) error {
	runtime.LockOSThread()
	const current = "/proc/thread-self/ns/net"
	home, err := os.Open(current)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open current network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("unshare network namespace: %w", err)
	}
	mountErr := unix.Mount(current, path, "", unix.MS_BIND, "")
	if mountErr != nil {
		mountErr = fmt.Errorf("mount network namespace at %s: %w", path, mountErr)
	}
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(mountErr, fmt.Errorf("return to network namespace: %w", err))
	}
	runtime.UnlockOSThread()
	return mountErr
}

// Name is the name given to NewPod.
func (p *Pod) Name() string { return p.name }

// Path is where the network namespace is mounted, CNI_NETNS of the sandbox.
func (p *Pod) Path() string { return filepath.Join(netnsDir, p.name) }

// Do runs f on a thread that is in the network namespace of the pod. What f
// starts in other goroutines is not.
func (p *Pod) Do(f func() error) error {
	return ns.WithNetNSPath(p.Path(), func(ns.NetNS) error { return f() })
}

// Command prepares a command that will run in the network namespace of the
// pod; cancelling ctx kills it.
func (p *Pod) Command(ctx context.Context, cmd ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + p.Path(), "--"}, cmd...)...)
}

// Exec runs a command in the network namespace of the pod and returns all it
// printed.
func (p *Pod) Exec(ctx context.Context, cmd ...string) (string, error) {
	out, err := p.Command(ctx, cmd...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("pod %s: run %s: %w: %s",
			p.name, strings.Join(cmd, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Snapshot is the network state inside the pod, in the form of the function
// Snapshot and without the list of sandboxes.
func (p *Pod) Snapshot(ctx context.Context) (string, error) {
	var text string
	err := p.Do(func() (err error) {
		text, err = network(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("snapshot of pod %s: %w", p.name, err)
	}
	return text, nil
}

// Close unmounts the network namespace; the kernel drops it and its interfaces
// once no process is left in it. Closing twice is no error.
func (p *Pod) Close() error {
	err := unix.Unmount(p.Path(), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("close pod %s: unmount %s: %w", p.name, p.Path(), err)
	}
	if err := os.Remove(p.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("close pod %s: remove mount point: %w", p.name, err)
	}
	return nil
}

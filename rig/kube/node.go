package kube

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The node as Kubernetes knows it.
const (
	NodeName = "plexus-node"
	NodeUser = "system:node:" + NodeName // who kubelet is to the API server
)

var errNoNode = errors.New("the cluster has no node: Options.ControlPlane is set")

//go:embed node.sh
var nodeScript []byte

// node is a process that holds namespaces: mount, network and process. When it
// ends the kernel ends all that runs in them.
type node struct {
	holder *daemon
	pidfd  int
}

// startNode makes the namespaces and what is mounted in them.
func (c *Cluster) startNode(ctx context.Context) error {
	pause, err := c.program("pause")
	if err != nil {
		return err
	}
	script := c.path("node.sh")
	if err := os.WriteFile(script, nodeScript, 0o755); err != nil {
		return fmt.Errorf("write the node's script: %w", err)
	}
	holder, err := startDaemon("node", c.path("log/node.log"), nil, c.environ(),
		unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWPID, "/bin/sh", script, c.dir, pause)
	if err != nil {
		return err
	}
	c.node = &node{holder: holder, pidfd: -1}
	if c.node.pidfd, err = unix.PidfdOpen(holder.PID(), 0); err != nil {
		return fmt.Errorf("open the node: %w", err)
	}
	return holder.await(ctx, "the node's namespaces are ready", func(context.Context) (bool, error, error) {
		return isFile(c.path("node/ready")), nil, nil
	})
}

// enter brings the calling thread into the node's namespaces, for what it starts;
// the thread is of no other use then.
func (n *node) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the node: %w", err)
	}
	if err := unix.Setns(n.pidfd, unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter the node: %w", err)
	}
	return nil
}

// close ends the node with all that runs in it.
func (n *node) close() {
	n.holder.kill()
	if n.pidfd >= 0 {
		unix.Close(n.pidfd)
	}
}

// NodeIP is the address of the node and of pods with hostNetwork.
func (c *Cluster) NodeIP() string { return c.link.node }

// Netns is the path of the node's network namespace.
func (c *Cluster) Netns() string {
	return filepath.Join("/proc", strconv.Itoa(c.node.holder.PID()), "ns", "net")
}

// NodePath is where the machine sees a path of the node. Sockets can be dialled
// there too.
func (c *Cluster) NodePath(path string) string {
	return filepath.Join("/proc", strconv.Itoa(c.node.holder.PID()), "root", path)
}

// ConfDir is the folder that is /etc/cni/net.d in the node.
func (c *Cluster) ConfDir() string { return c.path("cni/net.d") }

// BinDir is the folder that is /opt/cni/bin in the node.
func (c *Cluster) BinDir() string { return c.path("cni/bin") }

// NodeCommand prepares a command that will run in the node; cancelling ctx kills
// it. It finds Kubernetes' and containerd's programs in its PATH.
func (c *Cluster) NodeCommand(ctx context.Context, cmd ...string) *exec.Cmd {
	if c.node == nil {
		return &exec.Cmd{Args: cmd, Err: errNoNode}
	}
	args := []string{"--target", strconv.Itoa(c.node.holder.PID()), "--mount", "--net", "--pid", "--"}
	n := exec.CommandContext(ctx, "nsenter", append(args, cmd...)...)
	n.Env = c.environ()
	// nsenter waits for the command, which it had to start as a child: both have to
	// be killed.
	n.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	n.Cancel = func() error { return syscall.Kill(-n.Process.Pid, syscall.SIGKILL) }
	return n
}

// NodeExec runs a command in the node and returns what it wrote to stdout; what it
// wrote to stderr too is in the error.
func (c *Cluster) NodeExec(ctx context.Context, cmd ...string) (string, error) {
	out, err := output(c.NodeCommand(ctx, cmd...))
	if err != nil {
		return out, fmt.Errorf("node: run %s: %w", strings.Join(cmd, " "), err)
	}
	return out, nil
}

// output runs a command and returns what it wrote to stdout. What it wrote at all
// is in the error.
func output(cmd *exec.Cmd) (string, error) {
	var out, all bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, &all)
	cmd.Stderr = &all
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, lastLines(all.String(), 20))
	}
	return out.String(), nil
}

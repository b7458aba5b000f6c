package ovs

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/plexus-cni/plexus/rig/process"
)

// RingSize is the number of frames that fit into a queue of a peer. So many
// frames sent to it at once are never lost.
const RingSize = 1024

// PeerOptions choose what a peer is.
type PeerOptions struct {
	// Client makes the peer connect to the socket, for a port of type
	// dpdkvhostuser; else it listens, for one of type dpdkvhostuserclient.
	Client bool
	// Echo makes the peer answer ARP and ICMP echo requests, whatever address
	// they ask for; else it counts and drops what it receives.
	Echo bool
	// MAC is the address of the peer; if nil one is made from the socket path.
	MAC net.HardwareAddr
	// FrameSize is the length of the frames it sends, in bytes without the
	// checksum, 64 if zero.
	FrameSize int
	// Queues is the number of queue pairs, 1 if zero.
	Queues int
	// UID is the user and the group that the peer runs as, without capabilities; 0 is root. Its
	// folder has to be that user's. GID, unless 0, is a further group.
	UID, GID int
	// Log takes what the peer prints; may be nil.
	Log io.Writer
}

// Peer is a process with a virtio network device at the other end of a
// vhost-user socket, as a virtual machine or a pod would have it. It polls core
// 1 all the time, while there is traffic and while there is none, except after
// Idle. It takes commands from one goroutine at a time; others wait.
type Peer struct {
	child   *process.Process
	console *console
	socket  string // to be removed in the end; empty for a client
	files   string // the folder DPDK makes for it
	mac     net.HardwareAddr
	queues  int
}

// StartPeer starts a peer at a socket with its files in dir. It returns when
// the socket accepts connections (or, for a client, when the process runs); the
// device exists once the switch has connected, see WaitLink.
func StartPeer(ctx context.Context, dir, socket string, o PeerOptions) (*Peer, error) {
	if len(socket) >= len(syscall.RawSockaddrUnix{}.Path) {
		return nil, fmt.Errorf("start peer: socket path %s is too long for a unix socket", socket)
	}
	hash := fnv.New32a()
	hash.Write([]byte(socket))
	if o.MAC == nil {
		o.MAC = hash.Sum([]byte{0x02, 0x70}) // locally administered, unicast
	}
	queues := max(o.Queues, 1)
	device := fmt.Sprintf("--vdev=net_virtio_user0,path=%s,mac=%s,queues=%d,queue_size=%d", socket, o.MAC, queues, RingSize)
	if !o.Client {
		device += ",server=1"
	}
	mode := "rxonly"
	if o.Echo {
		mode = "icmpecho"
	}
	prefix := fmt.Sprintf("peer-%x", hash.Sum32())
	p := &Peer{mac: o.MAC, queues: queues, console: newConsole(o.Log), files: filepath.Join(dir, "dpdk", prefix)}
	argv := []string{
		// Line by line, for the answers to be seen when they are given.
		"stdbuf", "-oL",
		"dpdk-testpmd", "-l", "0,1", "--no-pci", "--no-telemetry", "--no-huge", "--no-shconf",
		"--iova-mode=va", "-m", "128", "--file-prefix=" + prefix, device, "--",
		"--no-mlockall", "--interactive", "--auto-start", "--no-flush-rx", "--forward-mode=" + mode,
		"--total-num-mbufs=8192", fmt.Sprintf("--rxd=%d", RingSize), fmt.Sprintf("--txd=%d", RingSize),
		fmt.Sprintf("--rxq=%d", queues), fmt.Sprintf("--txq=%d", queues),
	}
	if o.FrameSize != 0 {
		argv = append(argv, fmt.Sprintf("--txpkts=%d", o.FrameSize))
	}
	if o.UID != 0 {
		id := strconv.Itoa(o.UID)
		groups := "--clear-groups"
		if o.GID != 0 {
			groups = fmt.Sprintf("--groups=%d", o.GID)
		}
		argv = append([]string{"setpriv", "--reuid=" + id, "--regid=" + id, groups, "--inh-caps=-all", "--bounding-set=-all"}, argv...)
	}
	child, err := start("peer "+filepath.Base(socket), p.console, dir, []string{"RUNTIME_DIRECTORY=" + dir}, true, argv...)
	if err != nil {
		return nil, err
	}
	p.child = child
	if o.Client {
		return p, nil
	}
	p.socket = socket
	err = process.Poll(ctx, "the peer listens at "+socket, func() (bool, error) {
		// Not by connecting: the first connection is the switch's.
		return p.console.contains("waiting for client connection"), child.Ended()
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// MAC is the address of the peer.
func (p *Peer) MAC() net.HardwareAddr { return p.mac }

// PID is the process id of the peer.
func (p *Peer) PID() int { return p.child.PID() }

// WaitLink returns when the switch has connected and the link of the device is
// up, also after it has been down.
func (p *Peer) WaitLink(ctx context.Context) error {
	return process.Poll(ctx, "the link of "+p.child.Name()+" is up", func() (bool, error) {
		out, err := p.command(ctx, "show port info 0")
		return strings.Contains(out, "Link status: up"), err
	})
}

// Idle stops the peer polling. What it is sent meanwhile waits in its ring and
// is counted after Listen.
func (p *Peer) Idle(ctx context.Context) error {
	_, err := p.command(ctx, "stop")
	return err
}

// Listen makes an idle peer receive again.
func (p *Peer) Listen(ctx context.Context) error {
	_, err := p.command(ctx, "start")
	return err
}

// command gives a command to the peer and returns what it answers.
func (p *Peer) command(ctx context.Context, line string) (string, error) {
	ctx, cancel := process.Limited(ctx)
	defer cancel()
	out, err := p.console.command(ctx, p.child, line)
	if err != nil {
		return "", fmt.Errorf("tell %s %q: %w", p.child.Name(), line, err)
	}
	return out, nil
}

// Stop ends the peer and removes its files. Stopping twice is no error.
func (p *Peer) Stop() error {
	if p.child.Ended() == nil && p.console.prompted() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		// It does not answer to this one: it ends.
		_, _ = p.console.command(ctx, p.child, "quit")
	}
	p.child.Kill()
	if err := os.RemoveAll(p.files); err != nil {
		return fmt.Errorf("stop peer: remove its files: %w", err)
	}
	os.Remove(filepath.Dir(p.files)) // if it is empty now
	if p.socket != "" {
		if err := os.Remove(p.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("stop peer: remove its socket: %w", err)
		}
	}
	return nil
}

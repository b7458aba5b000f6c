package memif

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/plexus-cni/plexus/rig/process"
)

// Testpmd is a peer of another make: dpdk-testpmd with the driver net_memif. It counts what it receives, and floods what it sends to an address
// nobody has. It polls core 1 all the time.
type Testpmd struct {
	name  string
	child *process.Process
	out   process.Buffer // what it prints, between prompts
	turn  sync.Mutex     // held while a command is under way
}

const prompt = "testpmd> "

// StartTestpmd starts dpdk-testpmd for the memif with an id at a socket, with
// its files in dir, and returns when it takes commands. The packages
// dpdk-dev and librte-net-memif have to be installed. An abstract socket is
// @NAME in the network namespace of the caller.
func StartTestpmd(ctx context.Context, dir, socket string, id uint32) (*Testpmd, error) {
	return startTestpmd(ctx, dir, socket, id, "client")
}

// ServeTestpmd is StartTestpmd of one that listens at the socket. Connected again after its
// client has gone it goes on; as a client net_memif does not connect a second time (DPDK 22.11).
func ServeTestpmd(ctx context.Context, dir, socket string, id uint32) (*Testpmd, error) {
	return startTestpmd(ctx, dir, socket, id, "server")
}

func startTestpmd(ctx context.Context, dir, socket string, id uint32, role string) (*Testpmd, error) {
	hash := fnv.New32a()
	fmt.Fprint(hash, socket, id)
	name, abstract := strings.CutPrefix(socket, "@")
	flag := "no"
	if abstract {
		flag = "yes"
	}
	device := fmt.Sprintf("--vdev=net_memif0,role=%s,id=%d,socket=%s,socket-abstract=%s,mac=%s",
		role, id, name, flag, addressOf(hash.Sum([]byte{0x02, 0x74})))
	p := &Testpmd{name: fmt.Sprintf("testpmd at %s/%d", socket, id)}
	child, err := process.Start(process.Options{Name: p.name, Dir: dir, Env: append(os.Environ(), "RUNTIME_DIRECTORY="+dir), Out: &p.out, Piped: true},
		"stdbuf", "-oL", "dpdk-testpmd", "-l", "0,1", "--no-pci", "--no-telemetry", "--no-huge", "--no-shconf",
		"--iova-mode=va", "-m", "128", fmt.Sprintf("--file-prefix=memif-%x", hash.Sum32()), device, "--",
		"-i", "--no-mlockall", "--auto-start", "--no-flush-rx", "--forward-mode=rxonly", "--total-num-mbufs=4096")
	if err != nil {
		return nil, err
	}
	p.child = child
	if _, err := p.answer(ctx, 0); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// addressOf writes a hardware address as DPDK reads it.
func addressOf(mac []byte) string {
	text := make([]string, len(mac))
	for i, b := range mac {
		text[i] = fmt.Sprintf("%02x", b)
	}
	return strings.Join(text, ":")
}

// WaitLink returns when it is connected.
func (p *Testpmd) WaitLink(ctx context.Context) error {
	return p.poll(ctx, "is connected", func() (bool, error) {
		out, err := p.command(ctx, "show port info 0")
		return strings.Contains(out, "Link status: up"), err
	})
}

// Pause ends the polling of the device. DPDK 22.11 unmaps the rings of a link that ends, or comes,
// while a core polls them, and dies of it now and then.
func (p *Testpmd) Pause(ctx context.Context) error {
	_, err := p.command(ctx, "stop")
	return err
}

// Resume polls the device again.
func (p *Testpmd) Resume(ctx context.Context) error {
	_, err := p.command(ctx, "start")
	return err
}

// Send sends n frames of 64 bytes, up to 512 so that they fit into a ring, and
// returns when the device has taken them.
func (p *Testpmd) Send(ctx context.Context, n int) error {
	before, err := p.counter(ctx, "TX")
	if err != nil {
		return err
	}
	if n < 1 || n > 512 {
		return fmt.Errorf("%s: send %d frames: only 1 to 512 fit", p.name, n)
	}
	for _, line := range []string{"stop", fmt.Sprintf("set burst %d", n), "start tx_first"} {
		if _, err := p.command(ctx, line); err != nil {
			return err
		}
	}
	return p.poll(ctx, fmt.Sprintf("has sent %d frames", n), func() (bool, error) {
		now, err := p.counter(ctx, "TX")
		return now >= before+n, err
	})
}

// Received is the number of frames that have arrived since it started.
func (p *Testpmd) Received(ctx context.Context) (int, error) { return p.counter(ctx, "RX") }

// WaitReceived returns when total frames have arrived since it started.
func (p *Testpmd) WaitReceived(ctx context.Context, total int) error {
	return p.poll(ctx, fmt.Sprintf("has received %d frames", total), func() (bool, error) {
		n, err := p.Received(ctx)
		return n >= total, err
	})
}

func (p *Testpmd) counter(ctx context.Context, direction string) (int, error) {
	out, err := p.command(ctx, "show port stats 0")
	if err != nil {
		return 0, err
	}
	match := regexp.MustCompile(direction + `-packets: *(\d+)`).FindStringSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s: no %s counter in %q", p.name, direction, out)
	}
	return strconv.Atoi(match[1])
}

// command gives a command and returns its answer.
func (p *Testpmd) command(ctx context.Context, line string) (string, error) {
	p.turn.Lock()
	defer p.turn.Unlock()
	mark := p.prompts()
	if _, err := io.WriteString(p.child.In, line+"\n"); err != nil {
		return "", fmt.Errorf("%s: tell %q: %w", p.name, line, err)
	}
	out, err := p.answer(ctx, mark)
	if err != nil {
		return "", fmt.Errorf("%s: tell %q: %w", p.name, line, err)
	}
	return out, nil
}

// answer waits for a prompt more than there were and returns what came before.
func (p *Testpmd) answer(ctx context.Context, prompts int) (out string, err error) {
	err = p.poll(ctx, "answers", func() (bool, error) {
		parts := strings.Split(p.out.String(), prompt) // looked at once: more may come at any time
		out = parts[max(0, len(parts)-2)]
		return len(parts)-1 > prompts, nil
	})
	return out, err
}

// prompts is how many prompts were printed.
func (p *Testpmd) prompts() int { return strings.Count(p.out.String(), prompt) }

func (p *Testpmd) poll(ctx context.Context, what string, condition func() (bool, error)) error {
	return p.child.Await(ctx, p.name+" "+what, condition)
}

// Stop ends it. Stopping twice is no error.
func (p *Testpmd) Stop() { p.child.Kill() }

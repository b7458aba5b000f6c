// Command bench measures plexus as whole processes, in a node of its own, and
// prints medians and ratios of one run:
//
//   - ADD and DEL of n networks by the reference plugin bridge, through plexus
//     and by executing the plugin directly, with the same configurations;
//   - the same through the node agent, and n memifs on the stand-in for VPP;
//   - ADD and DEL of n vhost-user ports through plexus, and by the ovs-vsctl
//     commands that userspace-cni issues, four for a port, beside no, 100 and
//     900 ports of other pods;
//   - ADD of n memifs through plexus, as processes and in an engine that is kept
//     with its connection, and the bare messages over an open connection;
//     against the VPP that PLEXUS_VPP_API names, else the machine's, else the
//     stand-in.
//
// The two sides of a pair alternate, so that a busy machine hurts both.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/rig/vpp"
)

func main() {
	bin := flag.String("bin", "bin", "folder of plexus and the reference plugins")
	runs := flag.Int("runs", 25, "pairs for each figure")
	only := flag.String("only", "", "vhost: the vhost-user ports alone")
	flag.Parse()
	node.Enter()
	if err := run(context.Background(), *bin, *runs, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin, dir string
	runs     int
	pod      *node.Pod
	others   int // vhost-user ports of other pods
}

func run(ctx context.Context, bin string, runs int, only string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /var/lib: %w", err)
	}
	b := &bench{bin: bin, dir: node.Dir(), runs: runs}
	if b.pod, err = node.NewPod("bench"); err != nil {
		return err
	}
	defer b.pod.Close()
	if only != "vhost" {
		if err := b.withoutOVS(ctx); err != nil {
			return err
		}
	}
	dir := filepath.Join(b.dir, "ovs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	v, err := ovs.Start(ctx, dir, nil)
	if err != nil {
		return err
	}
	return errors.Join(b.vhostPorts(ctx, v), v.Stop())
}

func (b *bench) withoutOVS(ctx context.Context) error {
	if err := b.start(); err != nil {
		return err
	}
	if err := b.kernelNetworks(""); err != nil {
		return err
	}
	stop, err := b.startAgent()
	if err != nil {
		return err
	}
	err = b.kernelNetworks(b.agentSocket())
	if err == nil {
		err = b.agentMemifs(ctx)
	}
	stop()
	if err != nil {
		return err
	}
	return b.memifs(ctx)
}

// start compares the start of the executables: VERSION needs nothing else.
func (b *bench) start() error {
	fmt.Printf("%d pairs, medians of whole processes\n\nstart\n", b.runs)
	for _, name := range []string{"empty", "plexus", "bridge"} {
		t, err := b.median(func() (time.Duration, error) {
			return b.timed(name, "VERSION", "", []byte(`{"cniVersion":"1.0.0"}`))
		})
		if err != nil {
			return err
		}
		fmt.Printf("  %-30s %8.2f ms\n", name+" VERSION", ms(t))
	}
	return nil
}

// kernelNetworks compares n bridge networks through plexus and directly; agent is
// the socket of a node agent, "" for none.
func (b *bench) kernelNetworks(agent string) error {
	by := "plexusd cni"
	if agent != "" {
		by = "the node agent"
	}
	fmt.Printf("\nn networks by the plugin bridge with host-local, through %s\n  %2s %12s %12s %12s %12s %12s %12s\n", by, "n", "ADD direct", "ADD plexus", "own cost", "DEL direct", "DEL plexus", "own cost")
	for _, n := range []int{1, 2, 4, 8} {
		var networks []any
		for i := range n {
			networks = append(networks, map[string]any{
				"cniVersion": "1.0.0", "name": fmt.Sprintf("net%d", i), "type": "bridge", "bridge": fmt.Sprintf("br%d", i),
				"ipam": map[string]any{"type": "host-local", "subnet": fmt.Sprintf("10.%d.0.0/16", 100+i)},
			})
		}
		plexus := encode(map[string]any{"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": filepath.Join(b.dir, "data"), "agent": map[string]any{"socket": agent}, "delegates": networks})
		var times [4][]time.Duration
		for range b.runs {
			for i, verb := range []string{"ADD", "DEL"} {
				var direct time.Duration
				for at, network := range networks {
					t, err := b.timed("bridge", verb, ifName(at), encode(network))
					if err != nil {
						return err
					}
					direct += t
				}
				times[2*i] = append(times[2*i], direct)
			}
			for i, verb := range []string{"ADD", "DEL"} {
				t, err := b.timed("plexus", verb, "eth0", plexus)
				if err != nil {
					return err
				}
				times[2*i+1] = append(times[2*i+1], t)
			}
		}
		add0, add1, del0, del1 := middle(times[0]), middle(times[1]), middle(times[2]), middle(times[3])
		fmt.Printf("  %2d %9.1f ms %9.1f ms %9.1f ms %9.1f ms %9.1f ms %9.1f ms\n", n, ms(add0), ms(add1), ms(add1-add0), ms(del0), ms(del1), ms(del1-del0))
	}
	return nil
}

// memifs compares n memifs of one pod: the process, the engine without it, what
// one more memif costs there, and the messages that one needs.
func (b *bench) memifs(ctx context.Context) error {
	socket, which := os.Getenv("PLEXUS_VPP_API"), "VPP at "+os.Getenv("PLEXUS_VPP_API")
	if program := vpp.Find(); socket == "" && program != "" {
		dir := filepath.Join(b.dir, "vpp")
		v, err := vpp.Start(ctx, program, dir, filepath.Join(dir, standin.SocketName))
		if err != nil {
			return err
		}
		defer v.Kill()
		socket, which = v.Socket(), program
	}
	if socket == "" {
		v, err := standin.Start(ctx, filepath.Join(b.dir, "vpp"), standin.Options{})
		if err != nil {
			return err
		}
		defer v.Close()
		socket, which = v.Socket(), "the stand-in for VPP"
	}
	bare, err := b.bareMemif(ctx, socket)
	if err != nil {
		return err
	}
	fmt.Printf("\nn memifs in a bridge domain of %s; bare messages for one: %.2f ms\n  %2s %12s %12s %16s %16s\n", which, ms(bare), "n", "ADD process", "DEL process", "ADD in engine", "each beyond 1")
	var one time.Duration
	for _, n := range []int{1, 2, 4, 8} {
		var networks []any
		for i := range n {
			networks = append(networks, map[string]any{
				"cniVersion": "1.0.0", "name": fmt.Sprintf("memif%d", i), "type": "vppmemif", "apiSocket": socket,
				"bridgeDomain": map[string]any{"name": "bench"}, "socket": map[string]any{"dir": filepath.Join(b.dir, "memif")},
			})
		}
		plexus := encode(map[string]any{"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": filepath.Join(b.dir, "data"), "delegates": networks})
		var add, del []time.Duration
		for range b.runs {
			for _, verb := range []string{"ADD", "DEL"} {
				t, err := b.timed("plexus", verb, "eth0", plexus)
				if err != nil {
					return err
				}
				if verb == "ADD" {
					add = append(add, t)
				} else {
					del = append(del, t)
				}
			}
		}
		inside, _, err := b.inEngine(ctx, networks)
		if err != nil {
			return err
		}
		fmt.Printf("  %2d %9.1f ms %9.1f ms %13.2f ms", n, ms(middle(add)), ms(middle(del)), ms(inside))
		if n == 1 {
			one = inside
			fmt.Println()
			continue
		}
		each := (inside - one) / time.Duration(n-1)
		fmt.Printf(" %8.2f ms %3.1fx\n", ms(each), float64(each)/float64(bare))
	}
	return nil
}

// bareMemif times the messages of one memif alone.
func (b *bench) bareMemif(ctx context.Context, socket string) (time.Duration, error) {
	bare, err := vpp.NewBare(ctx, socket, filepath.Join(b.dir, "bare.sock"))
	if err != nil {
		return 0, err
	}
	t, err := b.median(func() (time.Duration, error) { return bare.Time(ctx, 1) })
	return t, errors.Join(err, bare.Close(ctx))
}

// timed executes one CNI plugin as a runtime does.
func (b *bench) timed(name, verb, ifName string, stdin []byte) (time.Duration, error) {
	cmd := exec.Command(filepath.Join(b.bin, name))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + verb, "CNI_PATH=" + b.bin, "CNI_CONTAINERID=bench0123456789", "CNI_NETNS=" + b.pod.Path(), "CNI_IFNAME=" + ifName}
	cmd.Stdin = bytes.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", name, verb, err, out.String())
	}
	return took, nil
}

func (b *bench) median(measure func() (time.Duration, error)) (time.Duration, error) {
	var all []time.Duration
	for range b.runs {
		t, err := measure()
		if err != nil {
			return 0, err
		}
		all = append(all, t)
	}
	return middle(all), nil
}

func middle(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func ifName(at int) string {
	if at == 0 {
		return "eth0"
	}
	return fmt.Sprintf("net%d", at)
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err) // maps of plain values: it cannot be
		os.Exit(1)
	}
	return data
}

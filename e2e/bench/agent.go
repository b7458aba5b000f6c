package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/plexus-cni/plexus/rig/process"
	"github.com/plexus-cni/plexus/rig/standin"
)

func (b *bench) agentSocket() string { return filepath.Join(b.dir, "agent.sock") }

// startAgent runs plexusd serve without an API server.
func (b *bench) startAgent() (stop func(), err error) {
	p, err := process.Start(process.Options{Name: "the agent"},
		filepath.Join(b.bin, "plexusd"), "serve", "--standalone", "--socket", b.agentSocket(), "--data-dir", filepath.Join(b.dir, "data"))
	if err != nil {
		return nil, err
	}
	err = p.Await(context.Background(), "the agent listens", func() (bool, error) {
		conn, err := net.Dial("unix", b.agentSocket())
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	if err != nil {
		p.Kill()
		return nil, err
	}
	return p.Stop, nil
}

// agentMemifs times n memifs of one pod through the agent, whole processes, beside
// the bare messages of one.
func (b *bench) agentMemifs(ctx context.Context) error {
	dir := filepath.Join(b.dir, "agent-vpp")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	v, err := standin.StartProcess(ctx, filepath.Join(b.bin, "standin"), dir) // of its own, as a VPP is
	if err != nil {
		return err
	}
	defer v.Kill()
	bare, err := b.bareMemif(ctx, v.Socket())
	if err != nil {
		return err
	}
	fmt.Printf("\nn memifs of the stand-in for VPP, through the node agent; bare messages for one: %.2f ms\n  %2s %12s %12s %16s %12s\n", ms(bare), "n", "ADD", "DEL", "each beyond 1", "of it own")
	var one time.Duration
	for _, n := range []int{1, 2, 4, 8} {
		var networks []any
		for i := range n {
			networks = append(networks, map[string]any{
				"cniVersion": "1.0.0", "name": fmt.Sprintf("memif%d", i), "type": "vppmemif", "apiSocket": v.Socket(),
				"bridgeDomain": map[string]any{"name": "bench"}, "socket": map[string]any{"dir": filepath.Join(b.dir, "memif")},
			})
		}
		plexus := encode(map[string]any{"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": filepath.Join(b.dir, "data"), "agent": map[string]any{"socket": b.agentSocket()}, "delegates": networks})
		var add, del []time.Duration
		for range b.runs {
			t, err := b.timed("plexus", "ADD", "eth0", plexus)
			if err != nil {
				return err
			}
			add = append(add, t)
			if t, err = b.timed("plexus", "DEL", "eth0", plexus); err != nil {
				return err
			}
			del = append(del, t)
		}
		whole := middle(add)
		fmt.Printf("  %2d %9.2f ms %9.2f ms", n, ms(whole), ms(middle(del)))
		if n == 1 {
			one = whole
			fmt.Println()
			continue
		}
		each := (whole - one) / time.Duration(n-1)
		fmt.Printf(" %13.2f ms %9.2f ms\n", ms(each), ms(each-bare))
	}
	return nil
}

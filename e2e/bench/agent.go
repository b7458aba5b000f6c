package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/plexus-cni/plexus/rig/standin"
)

func (b *bench) agentSocket() string { return filepath.Join(b.dir, "agent.sock") }

// startAgent runs plexusd serve without an API server.
func (b *bench) startAgent() (stop func(), err error) {
	cmd := exec.Command(filepath.Join(b.bin, "plexusd"), "serve", "--standalone", "--socket", b.agentSocket(), "--data-dir", filepath.Join(b.dir, "data"))
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for limit := time.Now().Add(10 * time.Second); ; {
		conn, err := net.Dial("unix", b.agentSocket())
		if err == nil {
			return stop, conn.Close()
		}
		if time.Now().After(limit) {
			stop()
			return nil, errors.Join(err, errors.New(log.String()))
		}
	}
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// othersRuns is the number of runs for each figure where other pods have ports too:
// ovs-vswitchd alone then takes a tenth of a second for a change.
const othersRuns = 7

// vhostPorts compares n vhost-user ports of one pod through plexus with the
// commands of userspace-cni, where other pods have no, 100 and 900 ports.
func (b *bench) vhostPorts(ctx context.Context, v *ovs.Switch) error {
	if _, err := v.VSCtl(ctx, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"); err != nil {
		return err
	}
	runs := b.runs
	for others := 0; ; others = []int{100, 900}[min(others/100, 1)] {
		if err := b.otherPods(ctx, v, others); err != nil {
			return err
		}
		if err := b.vhostPortsBeside(ctx, v, others, runs); err != nil || others == 900 {
			return err
		}
		runs = min(runs, othersRuns)
	}
}

// vhostNetworks are the configurations of n ports.
func (b *bench) vhostNetworks(v *ovs.Switch, n int) (networks []any) {
	for i := range n {
		networks = append(networks, map[string]any{
			"cniVersion": "1.0.0", "name": fmt.Sprintf("vhost%d", i), "type": "ovsdpdk", "ovsdb": v.OVSDB(), "bridge": "br0",
			"vhost": map[string]any{"socketDir": filepath.Join(b.dir, "vhost")},
		})
	}
	return networks
}

func (b *bench) vhostPortsBeside(ctx context.Context, v *ovs.Switch, others, runs int) error {
	fmt.Printf("\nn vhost-user ports on OVS-DPDK, beside %d of other pods\n  %2s %14s %14s %14s %14s %12s %12s\n", others,
		"n", "ADD ovs-vsctl", "in one command", "DEL ovs-vsctl", "in one command", "ADD plexus", "DEL plexus")
	for _, n := range []int{1, 4, 8} {
		plexus := encode(map[string]any{"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": filepath.Join(b.dir, "data"), "delegates": b.vhostNetworks(v, n)})
		var times [6][]time.Duration
		for range runs {
			for i, measure := range []func() (time.Duration, error){
				func() (time.Duration, error) { return b.vsctl(ctx, v, n, addPort) },
				func() (time.Duration, error) { return b.vsctl(ctx, v, n, delPort) },
				func() (time.Duration, error) { return b.vsctlOnce(ctx, v, n, addPort) },
				func() (time.Duration, error) { return b.vsctlOnce(ctx, v, n, delPort) },
				func() (time.Duration, error) { return b.timed("plexus", "ADD", "eth0", plexus) },
				func() (time.Duration, error) { return b.timed("plexus", "DEL", "eth0", plexus) },
			} {
				t, err := measure()
				if err != nil {
					return err
				}
				times[i] = append(times[i], t)
			}
		}
		fmt.Printf("  %2d", n)
		for _, i := range []int{0, 2, 1, 3} {
			fmt.Printf(" %11.1f ms", ms(middle(times[i])))
		}
		fmt.Printf(" %9.1f ms %9.1f ms\n", ms(middle(times[4])), ms(middle(times[5])))
	}
	return nil
}

// otherPods gives other pods ports until they have count.
func (b *bench) otherPods(ctx context.Context, v *ovs.Switch, count int) error {
	const each = 10 // of one pod
	data := encode(map[string]any{"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": filepath.Join(b.dir, "data"), "delegates": b.vhostNetworks(v, each)})
	settings, err := conf.Parse(data)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	e := &engine.Engine{Delegates: engine.Builtin(log), Journal: journal.Open(settings.DataDir), Log: log, Stderr: io.Discard}
	defer e.Close()
	for ; b.others < count; b.others += each {
		r := &engine.Request{Conf: settings, Network: settings.Name, Stdin: data, Sandbox: fmt.Sprintf("other%07d", b.others), Netns: b.pod.Path(), IfName: "eth0", Path: []string{b.bin}}
		if _, err := e.Add(ctx, r); err != nil {
			return fmt.Errorf("ports of others: %w", err)
		}
	}
	return nil
}

// addPort are the commands that userspace-cni issues for a port in a folder.
func addPort(dir, port string) [][]string {
	return [][]string{
		{"--bare", "--columns=name", "find", "bridge", "name=br0"},
		{"add-port", "br0", port, "--", "set", "Interface", port, "type=dpdkvhostuserclient", "options:vhost-server-path=" + filepath.Join(dir, port)},
		{"--bare", "--columns=mac", "find", "port", "name=" + port},
	}
}

// delPort are those that remove it.
func delPort(_, port string) [][]string { return [][]string{{"del-port", "br0", port}} }

// vsctl issues the commands for n ports.
func (b *bench) vsctl(ctx context.Context, v *ovs.Switch, n int, commands func(dir, port string) [][]string) (time.Duration, error) {
	began := time.Now()
	var errs []error
	for i := range n {
		for _, args := range commands(b.dir, fmt.Sprintf("0123456789ab-net%d", i)) {
			_, err := v.VSCtl(ctx, args...)
			errs = append(errs, err)
		}
	}
	return time.Since(began), errors.Join(errs...)
}

// vsctlOnce issues the commands for n ports as one: no less is possible with ovs-vsctl, and
// most of the time is ovs-vswitchd's.
func (b *bench) vsctlOnce(ctx context.Context, v *ovs.Switch, n int, commands func(dir, port string) [][]string) (time.Duration, error) {
	var all []string
	for i := range n {
		for _, args := range commands(b.dir, fmt.Sprintf("0123456789ab-net%d", i)) {
			if args[0] != "--bare" {
				all = append(append(all, "--"), args...)
			}
		}
	}
	began := time.Now()
	_, err := v.VSCtl(ctx, all...)
	return time.Since(began), err
}

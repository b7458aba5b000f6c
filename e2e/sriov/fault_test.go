package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/rig/node"
)

// everyFault tries each step with each ending in each situation, which takes
// ten times as long. Without it the endings take turns.
var everyFault = flag.Bool("faults", false, "try every fault with every ending")

// asEth0 is the pod's interface name that a PF has on the node: a link that
// comes home under it has to make way.
const asEth0 = "CNI_IFNAME=eth0"

const (
	first  = "0123456789abcdef-first"
	second = "0123456789abcdef-second"
)

// situation is what a pod asks for, a configuration for each network, and how it
// finds the functions.
type situation struct {
	name  string
	nets  []map[string]any
	found func(t testing.TB)
	free  string // VF that may choose its own address
}

// situations makes those of the node. Every VF of them is another one.
func situations(t testing.TB) []*situation {
	ipam := map[string]any{"type": "host-local", "subnet": "10.9.0.0/24"}
	rich, told, bound, dpdk := vf(t, "eth0", 2), vf(t, "eth0", 3), vf(t, "eth0", 4), vf(t, "eth1", 2)
	return []*situation{
		{name: "kernel with settings", free: rich,
			nets: []map[string]any{{"deviceID": rich, "mac": "02:00:00:00:0f:01", "vlan": 7, "vlanQoS": 2, "spoofchk": "off", "trust": "on", "mtu": 1400, "promiscuous": true, "ipam": ipam}},
			found: func(t testing.TB) {
				name := netdev(rich)
				ip(t, "property", "add", "dev", name, "altname", "enpfault")
				ip(t, "set", name, "up")
				ip(t, "set", "eth0", "vf", "2", "vlan", "5")
				t.Cleanup(func() {
					ip(t, "set", "eth0", "vf", "2", "vlan", "0")
					ip(t, "set", name, "down")
					ip(t, "property", "del", "dev", name, "altname", "enpfault")
				})
			}},
		{name: "kernel", nets: []map[string]any{{"deviceID": told}},
			found: func(t testing.TB) { tell(t, told, "eth0", 3, "02:00:00:00:0f:02") }},
		{name: "vfio-pci with settings", free: vf(t, "eth1", 0),
			nets: []map[string]any{{"deviceID": vf(t, "eth1", 0), "driver": "vfio-pci", "mac": "02:00:00:00:0f:03", "vlan": 9}}},
		{name: "vfio-pci", nets: []map[string]any{{"deviceID": vf(t, "eth1", 1), "driver": "vfio-pci"}},
			found: func(t testing.TB) { tell(t, vf(t, "eth1", 1), "eth1", 1, "02:00:00:00:0f:04") }},
		{name: "from vfio-pci to the kernel", nets: []map[string]any{{"deviceID": bound, "driver": "kernel", "vlan": 11, "mac": "02:00:00:00:0f:05"}},
			found: func(t testing.TB) {
				name := netdev(bound)
				rebind(t, bound, "", "vfio-pci")
				t.Cleanup(func() { rebind(t, bound, name, "") })
			}},
		{name: "two networks", free: vf(t, "eth0", 5), nets: []map[string]any{{"deviceID": vf(t, "eth0", 5), "vlan": 12}, {"deviceID": dpdk, "driver": "vfio-pci", "vlan": 13}}},
		{name: "picked", free: vf(t, "eth1", 0), nets: []map[string]any{{"pf": "eth1", "vlan": 14, "mtu": 1300}}},
	}
}

// tell makes a PF tell its VF an address, and the VF's driver hear it.
func tell(t testing.TB, pci, pf string, number int, mac string) {
	t.Helper()
	name := netdev(pci)
	again := func(mac string) {
		ip(t, "set", pf, "vf", fmt.Sprint(number), "mac", mac)
		rebind(t, pci, name, "")
	}
	again(mac)
	t.Cleanup(func() { again("00:00:00:00:00:00") })
}

// rebind gives a function to another driver, or anew to the kernel's, with this
// name of its interface.
func rebind(t testing.TB, pci, name, to string) {
	t.Helper()
	for _, w := range [][2]string{{"devices/" + pci + "/driver/unbind", pci}, {"devices/" + pci + "/driver_override", to + "\n"}, {"drivers_probe", pci}} {
		if err := os.WriteFile("/sys/bus/pci/"+w[0], []byte(w[1]), 0); err != nil {
			t.Fatal(err)
		}
	}
	if now := netdev(pci); now != name {
		ip(t, "set", now, "name", name)
	}
}

// ip changes a link; a test that has ended can do so, too.
func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", append([]string{"link"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// trials are what is done to one situation.
type trials struct {
	*site
	*situation
	pods   *int // so far
	before string
	steps  map[string][]string // of a clean ADD and DEL
	took   map[string]time.Duration
	config []byte
}

// begin brings the situation about and sees what ADD and DEL do in it.
func begin(t *testing.T, x *situation) *trials {
	if x.free != "" { // the PF listens to a VF whose driver has started after it
		rebind(t, x.free, netdev(x.free), "")
	}
	if x.found != nil {
		x.found(t)
	}
	if err := x.chooses(); err != nil {
		t.Fatal(err)
	}
	w := &trials{site: newSite(t, "plexus"), situation: x, pods: new(int), steps: map[string][]string{}, took: map[string]time.Duration{}}
	w.config = w.networks(nil)
	w.before = world(t)
	p := w.pod()
	for _, verb := range []string{"ADD", "DEL"} {
		steps, err := w.faulty(verb, first, p.Path(), w.config, "none", 0)
		if err != nil || len(steps) < 3 {
			t.Fatalf("%s: %v, steps: %q", verb, err, steps)
		}
		w.steps[verb] = steps
	}
	if strings.Contains(w.steps["ADD"][2], "host-local") {
		w.before = world(t) // its folder stays
	}
	for _, verb := range []string{"ADD", "DEL", "DEL", "DEL"} { // the runtime has forgotten the namespace
		began := time.Now()
		netns := p.Path()
		if verb == "DEL" {
			netns = ""
		}
		w.must(verb, first, netns)
		if w.took[verb] == 0 {
			w.took[verb] = time.Since(began)
		}
	}
	w.close(p)
	w.home("a clean ADD and DEL")
	t.Logf("ADD %s: %q, DEL %s: %q", w.took["ADD"], w.steps["ADD"], w.took["DEL"], w.steps["DEL"])
	return w
}

// networks is the configuration of plexus, with what a verb needs beside it.
func (w *trials) networks(more map[string]any) []byte {
	all := map[string]any{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": w.dataDir}
	var list []map[string]any
	for i, keys := range w.nets {
		one := map[string]any{"cniVersion": "1.1.0", "name": fmt.Sprintf("fast%d", i), "type": "sriov"}
		for k, v := range keys {
			one[k] = v
		}
		list = append(list, one)
	}
	all["delegates"] = list
	for k, v := range more {
		all[k] = v
	}
	data, err := json.Marshal(all)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

func (w *trials) pod() *node.Pod {
	w.t.Helper()
	*w.pods++
	return newPod(w.t, fmt.Sprintf("fault%d", *w.pods))
}

func (w *trials) close(p *node.Pod) {
	w.t.Helper()
	if err := p.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// must makes a request that has to succeed.
func (w *trials) must(verb, sandbox, netns string) {
	w.t.Helper()
	if _, err := w.call(verb, sandbox, netns, w.config, asEth0); err != nil {
		w.t.Fatalf("%s %s: %v", verb, sandbox, err)
	}
}

// gc is GC when the runtime knows of no pod.
func (w *trials) gc() {
	w.t.Helper()
	if _, err := w.call("GC", "", "", w.networks(map[string]any{"cni.dev/valid-attachments": []any{}})); err != nil {
		w.t.Fatalf("GC: %v", err)
	}
}

// home wants everything as before, and, where the VF could choose its own
// address, that it still can: ip does not show that.
func (w *trials) home(after string, args ...any) {
	w.t.Helper()
	sameWorld(w.t, w.before)
	if err := w.chooses(); err != nil {
		w.t.Errorf("VF %s may not choose its address any more: %v", w.free, err)
	}
	if w.t.Failed() {
		w.t.Fatalf("after "+after, args...)
	}
}

// chooses changes the address of the VF that may, and back.
func (x *situation) chooses() error {
	if x.free == "" {
		return nil
	}
	l, err := netlink.LinkByName(netdev(x.free))
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetHardwareAddr(l, []byte{2, 0, 0, 0, 0x0f, 0xff}), netlink.LinkSetHardwareAddr(l, l.Attrs().HardwareAddr))
}

// lose makes the node forget the journal, and the addresses that go by it.
func (w *trials) lose() {
	w.t.Helper()
	files, err := filepath.Glob("/var/lib/cni/networks/fast*/10.*")
	for _, file := range append(files, w.dataDir) {
		err = errors.Join(err, os.RemoveAll(file))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// ending is a way from an ADD that was killed back to the node as it was.
type ending struct {
	name string
	do   func(w *trials, p *node.Pod)
}

var endings = []ending{
	{"DEL", func(w *trials, p *node.Pod) { w.must("DEL", first, p.Path()) }},
	{"DEL without the namespace", func(w *trials, p *node.Pod) {
		w.close(p)
		w.must("DEL", first, p.Path())
	}},
	{"the next pod", func(w *trials, p *node.Pod) {
		w.close(p)
		next := w.pod()
		w.must("ADD", second, next.Path())
		w.must("DEL", first, "") // late: it is the next pod's
		w.must("CHECK", second, next.Path())
		w.must("DEL", second, next.Path())
		w.close(next)
	}},
	{"the next pod, DEL at the end", func(w *trials, p *node.Pod) {
		w.close(p)
		next := w.pod()
		w.must("ADD", second, next.Path())
		w.must("DEL", second, next.Path())
		w.close(next)
		w.must("DEL", first, "")
	}},
	{"ADD again", func(w *trials, p *node.Pod) {
		w.must("ADD", first, p.Path())
		w.must("CHECK", first, p.Path())
		w.must("DEL", first, p.Path())
	}},
	{"GC", func(w *trials, _ *node.Pod) { w.gc() }},
	{"DEL without the journal", func(w *trials, p *node.Pod) {
		w.lose()
		w.must("DEL", first, p.Path())
	}},
	{"GC without the journal", func(w *trials, _ *node.Pod) {
		w.lose()
		w.gc()
	}},
	{"ADD again without the journal", func(w *trials, p *node.Pod) {
		w.lose()
		w.must("ADD", first, p.Path())
		w.must("CHECK", first, p.Path())
		w.must("DEL", first, p.Path())
	}},
	{"GC without the journal and the namespace", func(w *trials, p *node.Pod) {
		w.lose()
		w.close(p)
		w.gc()
	}},
}

// Whatever is cut short, and wherever, there is a way back to the node as it was.
func TestFaults(t *testing.T) {
	for i, x := range situations(t) {
		t.Run(x.name, func(t *testing.T) {
			w := begin(t, x)
			for _, test := range []struct {
				name string
				run  func(w *trials, number int)
			}{
				{"ADD fails", addFails}, {"ADD is killed", addIsKilled}, {"DEL is cut short", delIsCutShort}, {"killed at any moment", killedAtAnyMoment},
			} {
				if !t.Run(test.name, func(t *testing.T) {
					now := *w
					now.site = newSite(t, "plexus")
					test.run(&now, i)
				}) {
					return
				}
			}
		})
	}
}

// Every step of ADD is failed in turn: ADD reports it and the node is as it was,
// without a DEL.
func addFails(w *trials, _ int) {
	p := w.pod()
	for n, step := range w.steps["ADD"] {
		_, err := w.faulty("ADD", first, p.Path(), w.config, "fail", n+1)
		w.reported(err, n, step)
		w.home("a failure of ADD at step %d, %s", n+1, step)
	}
	w.close(p)
}

func (w *trials) reported(err error, n int, step string) {
	w.t.Helper()
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d, %s", n+1, step)) {
		w.t.Errorf("step %d, %s is failed, but the answer is %v", n+1, step, err)
	}
}

// left says which steps are left out without -faults: where little is set, every
// other one.
func (w *trials) left(n, number int) bool { return len(w.steps["ADD"]) < 14 && n%2 != number%2 }

// ADD is killed at each step in turn: there is a way back for each.
func addIsKilled(w *trials, number int) {
	for n, step := range w.steps["ADD"] {
		for e, ending := range endings {
			if !*everyFault && (w.left(n, number) || e != (n+3*number)%len(endings)) {
				continue
			}
			p := w.pod()
			if _, err := w.faulty("ADD", first, p.Path(), w.config, "kill", n+1); !errors.Is(err, errKilled) {
				w.t.Fatalf("ADD did not come to step %d, %s: %v", n+1, step, err)
			}
			ending.do(w, p)
			w.home("a kill of ADD at step %d, %s; then %s", n+1, step, ending.name)
			w.close(p)
		}
	}
}

// endingsOfDEL are those that what is attached has: it is not ADDed again.
const endingsOfDEL = 4

// DEL is cut short at each step in turn: the next DEL finishes, or the next pod.
func delIsCutShort(w *trials, number int) {
	for n := range w.steps["DEL"] {
		for f, fault := range []string{"fail", "kill"} {
			if !*everyFault && len(w.nets) == 1 && (w.left(n, number) || f != n/2%2) {
				continue
			}
			for e, ending := range endings[:endingsOfDEL] {
				if *everyFault || e == (n+number)%endingsOfDEL {
					w.cutDEL(n, fault, ending)
				}
			}
		}
	}
}

func (w *trials) cutDEL(n int, fault string, ending ending) {
	w.t.Helper()
	step, p := w.steps["DEL"][n], w.pod()
	w.must("ADD", first, p.Path())
	_, err := w.faulty("DEL", first, p.Path(), w.config, fault, n+1)
	if fault == "fail" {
		w.reported(err, n, step)
	}
	ending.do(w, p)
	w.home("%s of DEL at step %d, %s: %v; then %s", fault, n+1, step, err, ending.name)
	w.close(p)
}

// The real executables are killed at any moment, also between two steps.
func killedAtAnyMoment(w *trials, number int) {
	rounds := 4
	if *everyFault {
		rounds = 40
	}
	chance := rand.New(rand.NewPCG(20, uint64(number)))
	kills := 0
	for round := range rounds {
		p, verb, ways := w.pod(), "ADD", len(endings)
		if round%3 == 2 {
			verb, ways = "DEL", endingsOfDEL
			w.must("ADD", first, p.Path())
		}
		after := time.Duration(chance.Int64N(int64(w.took[verb])))
		if w.killedAfter(verb, p, after) {
			kills++
		}
		ending := endings[chance.IntN(ways)]
		ending.do(w, p)
		w.home("a kill of %s after %s of %s; then %s", verb, after, w.took[verb], ending.name)
		w.close(p)
	}
	w.t.Logf("%d of %d were not too late", kills, rounds)
}

// killedAfter kills a request unless it is done before.
func (w *trials) killedAfter(verb string, p *node.Pod, after time.Duration) bool {
	ctx, cancel := context.WithTimeout(w.t.Context(), after)
	defer cancel()
	cmd := w.command(ctx, verb, first, p.Path(), asEth0)
	cmd.Stdin = strings.NewReader(string(w.config))
	out, err := cmd.Output()
	if err == nil && verb == "ADD" { // else ADD again would be refused
		w.must("DEL", first, p.Path())
	}
	if err != nil && !killed(err) && !errors.Is(err, context.DeadlineExceeded) {
		w.t.Fatalf("%s: %v: %s", verb, err, out)
	}
	return err != nil
}

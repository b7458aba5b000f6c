// Command demo shows the main job of plexus from end to end, without a
// cluster, in a node of its own: it starts OVS-DPDK, and a stand-in for VPP,
// wires two pods from examples/*.yaml, sends packets across each of their networks, unwires them
// and shows that nothing is left.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/rig/vpp"
)

const frames = 1000

func main() {
	bin := flag.String("bin", "bin", "folder of plexus and the reference plugins")
	examples := flag.String("examples", "examples", "folder of the examples")
	flag.Parse()
	node.Enter()
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	defer cancel()
	d := &demo{ctx: ctx, bin: *bin, conf: filepath.Join(*examples, "10-plexus.conf"), manifests: filepath.Join(node.Dir(), "manifests"), began: time.Now()}
	if err := d.run(*examples); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

type demo struct {
	ctx                  context.Context
	bin, conf, manifests string
	began                time.Time
	vpp                  func() (string, error) // what the memif vswitch has
}

func (d *demo) run(examples string) error {
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("keep /var/lib of the node in memory: %w", err)
	}
	d.title("A node of its own: network, mounts and processes end with the demo")
	const run = "/run/openvswitch"
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	v, err := ovs.Start(d.ctx, run, nil)
	if err != nil {
		return err
	}
	err = d.withSwitch(v, examples)
	return errors.Join(err, v.Stop())
}

// startVPP starts the machine's VPP, or a stand-in.
func (d *demo) startVPP() (stop func(), err error) {
	const api = "/run/vpp/api.sock"
	if program := vpp.Find(); program != "" {
		p, err := vpp.Start(d.ctx, program, filepath.Dir(api), api)
		if err != nil {
			return nil, err
		}
		d.vpp = p.State
		d.say("VPP runs: %s", program)
		return p.Kill, nil
	}
	s, err := standin.StartAt(d.ctx, api, standin.Options{})
	if err != nil {
		return nil, err
	}
	d.vpp = func() (string, error) { return s.State(), nil }
	d.say("no VPP is installed: a stand-in speaks its binary API, with real memif sockets behind it")
	return s.Close, nil
}

func (d *demo) withSwitch(v *ovs.Switch, examples string) error {
	version, err := v.AppCtl(d.ctx, "version")
	if err != nil {
		return err
	}
	d.say("OVS-DPDK runs: %s", strings.Join(strings.Split(strings.TrimSpace(version), "\n"), ", "))
	stop, err := d.startVPP()
	if err != nil {
		return err
	}
	defer stop()
	if err := d.copyManifests(examples); err != nil {
		return err
	}
	remove, err := d.makeVolumes()
	if err != nil {
		return err
	}
	defer remove()
	before, err := d.world(v)
	if err != nil {
		return err
	}
	pods := map[string]*node.Pod{}
	for _, name := range []string{"left", "right"} {
		p, err := node.NewPod(name)
		if err != nil {
			return err
		}
		defer p.Close()
		pods[name] = p
	}

	d.title("Two pods: the cluster network by bridge and host-local, a vhost-user port and a memif each")
	results := map[string]*types100.Result{}
	for _, name := range []string{"left", "right"} {
		out, err := d.plexusctl("add", name, "--netns", pods[name].Path())
		if err != nil {
			return err
		}
		results[name] = &types100.Result{}
		if err := json.Unmarshal(out, results[name]); err != nil {
			return fmt.Errorf("result of %s: %w", name, err)
		}
		if name == "left" {
			fmt.Printf("%s", out)
		}
	}
	if err := d.show(v); err != nil {
		return err
	}

	d.title("Packets cross each network")
	if err := d.ping(pods["left"], results["right"]); err != nil {
		return err
	}
	if err := d.frames(results["left"], results["right"]); err != nil {
		return err
	}
	if err := d.memifs(results["left"], results["right"]); err != nil {
		return err
	}

	d.title("CHECK, DEL, and nothing is left")
	for _, name := range []string{"left", "right"} {
		if _, err := d.plexusctl("check", name, "--netns", pods[name].Path()); err != nil {
			return err
		}
	}
	for _, name := range []string{"left", "right"} {
		if _, err := d.plexusctl("del", name, "--netns", pods[name].Path()); err != nil {
			return err
		}
		if err := pods[name].Close(); err != nil {
			return err
		}
	}
	after, err := d.world(v)
	if err != nil {
		return err
	}
	fmt.Println(after)
	if before != after {
		return fmt.Errorf("something is left; before it was:\n%s", before)
	}
	d.say("OVS, network namespaces, addresses, sockets and journal are as before. %.1f s in all.", time.Since(d.began).Seconds())
	return nil
}

func (d *demo) copyManifests(examples string) error {
	if err := os.MkdirAll(d.manifests, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"vhost-user.yaml", "memif.yaml", "pods.yaml"} {
		data, err := os.ReadFile(filepath.Join(examples, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d.manifests, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeVolumes makes the emptyDirs of the pods, as the kubelet does.
func (d *demo) makeVolumes() (remove func(), err error) {
	data, err := os.ReadFile(filepath.Join(d.manifests, "pods.yaml"))
	if err != nil {
		return nil, err
	}
	documents, err := kube.ParseManifests("pods.yaml", data)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, document := range documents {
		dir := document.Pod.HostDir(conf.SharedDir)
		dirs = append(dirs, filepath.Dir(filepath.Dir(filepath.Dir(dir)))) // the pod's
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
	}
	return func() {
		for _, dir := range dirs {
			_ = os.RemoveAll(dir)
		}
	}, nil
}

// plexusctl runs the command and shows it with its progress.
func (d *demo) plexusctl(verb, pod string, args ...string) ([]byte, error) {
	args = append([]string{verb, pod, "--conf", d.conf, "--manifests", d.manifests}, args...)
	fmt.Printf("$ plexusctl %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(d.ctx, filepath.Join(d.bin, "plexusctl"), append(args, "--cni-path", d.bin)...)
	cmd.Stderr = os.Stdout
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("plexusctl %s %s: %w", verb, pod, err)
	}
	return out, nil
}

func (d *demo) show(v *ovs.Switch) error {
	fmt.Println("$ plexusctl show")
	show := exec.CommandContext(d.ctx, filepath.Join(d.bin, "plexusctl"), "show", "--conf", d.conf)
	show.Stdout, show.Stderr = os.Stdout, os.Stdout
	if err := show.Run(); err != nil {
		return fmt.Errorf("plexusctl show: %w", err)
	}
	status, err := os.ReadFile(filepath.Join(d.manifests, "left.status.json"))
	if err != nil {
		return err
	}
	fmt.Printf("$ cat left.status.json\n%s", status)
	rows, err := v.VSCtl(d.ctx, "show")
	fmt.Printf("$ ovs-vsctl show\n%s\n", strings.TrimSpace(rows))
	return err
}

func (d *demo) ping(from *node.Pod, to *types100.Result) error {
	address := to.IPs[0].Address.IP.String()
	fmt.Printf("$ ip netns exec left ping -c 3 -i 0.2 %s\n", address)
	out, err := from.Exec(d.ctx, "ping", "-c", "3", "-i", "0.2", "-W", "5", address)
	fmt.Println(strings.TrimSpace(out))
	if err != nil {
		return fmt.Errorf("ping over the cluster network: %w", err)
	}
	return nil
}

// frames sends frames between two virtio-user devices behind the vhost-user
// ports.
func (d *demo) frames(left, right *types100.Result) error {
	var peers []*ovs.Peer
	for _, r := range []*types100.Result{left, right} {
		dir, err := os.MkdirTemp("", "peer")
		if err != nil {
			return err
		}
		p, err := ovs.StartPeer(d.ctx, dir, socketOf(r, "net1"), ovs.PeerOptions{})
		if err != nil {
			return err
		}
		defer p.Stop()
		peers = append(peers, p)
	}
	for _, p := range peers {
		if err := p.WaitLink(d.ctx); err != nil {
			return err
		}
	}
	if err := ovs.WarmUp(d.ctx, peers[0], peers[1]); err != nil {
		return err
	}
	for i, way := range []string{"left -> right", "right -> left"} {
		got, err := ovs.Transfer(d.ctx, peers[i], peers[1-i], frames)
		if err != nil {
			return err
		}
		d.say("%s: %d of %d frames from virtio-user to virtio-user through the vhost-user ports", way, got, frames)
	}
	return nil
}

// memifs sends frames between two memif servers: VPP connects to the example's pods.
func (d *demo) memifs(left, right *types100.Result) error {
	var peers []*memif.Peer
	for _, r := range []*types100.Result{left, right} {
		// A container has a short path to its volume; the node's is too long for a socket.
		dir, err := os.MkdirTemp("", "peer")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		socket := socketOf(r, "net2")
		if err := os.Symlink(filepath.Dir(socket), filepath.Join(dir, "shared")); err != nil {
			return err
		}
		p, err := memif.Dial(d.ctx, filepath.Join(dir, "shared", filepath.Base(socket)), 0, memif.Options{Server: true})
		if err != nil {
			return err
		}
		defer p.Close()
		peers = append(peers, p)
	}
	for _, p := range peers {
		if err := p.WaitLink(d.ctx); err != nil {
			return err
		}
	}
	if err := memif.WarmUp(d.ctx, peers[0], peers[1]); err != nil {
		return err
	}
	for i, way := range []string{"left -> right", "right -> left"} {
		got, err := memif.Transfer(d.ctx, peers[i], peers[1-i], frames, memif.Traffic{})
		if err != nil {
			return err
		}
		d.say("%s: %d of %d frames from memif to memif through the bridge domain", way, got, frames)
	}
	return nil
}

func socketOf(r *types100.Result, ifName string) string {
	for _, i := range r.Interfaces {
		if i.Name == ifName {
			return i.SocketPath
		}
	}
	return ""
}

// world is what there is of OVS rows, namespaces, addresses in use, sockets
// and journal.
func (d *demo) world(v *ovs.Switch) (string, error) {
	rows, err := v.VSCtl(d.ctx, "show")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ovs-vsctl show:  %s\n", orNothing(strings.Join(strings.Fields(rows)[1:], " ")))
	var ours []string
	state, err := d.vpp()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(state) {
		if strings.Contains(line, "plexus") {
			ours = append(ours, strings.TrimSpace(line))
		}
	}
	fmt.Fprintf(&b, "%-16s %s\n", "memif vswitch:", orNothing(strings.Join(ours, " ")))
	for _, place := range [][2]string{
		{"ip netns", "/run/netns/*"},
		{"addresses", "/var/lib/cni/networks/*/[0-9]*"},
		{"sockets", "/var/lib/kubelet/pods/*/volumes/*/*/*"},
		{"status", d.manifests + "/*.status.json"},
		{"journal", "/var/lib/plexus/sandboxes/*"},
	} {
		found, err := filepath.Glob(place[1])
		if err != nil {
			return "", err
		}
		if place[0] == "sockets" {
			found = sockets(found)
		}
		fmt.Fprintf(&b, "%-16s %s\n", place[0]+":", orNothing(strings.Join(found, " ")))
	}
	return b.String(), nil
}

func sockets(files []string) []string {
	var found []string
	for _, file := range files {
		if st, err := os.Lstat(file); err == nil && st.Mode().Type() == os.ModeSocket {
			found = append(found, file)
		}
	}
	return found
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func (d *demo) title(text string) { fmt.Printf("\n== %s\n", text) }

func (d *demo) say(format string, args ...any) {
	fmt.Printf("   "+format+"\n", args...)
}

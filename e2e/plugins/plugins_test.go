package plugins

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/process"
	"github.com/plexus-cni/plexus/rig/site"
)

// uplink is a wire from the node's up0 to up1 in a namespace of its own, and a
// link hd0 for host-device.
func uplink(t *testing.T) *node.Pod {
	t.Helper()
	far := site.NewPod(t, "far")
	for _, command := range []string{
		"ip link add up0 type veth peer name up1 netns far", "ip link set up0 up",
		"ip link add hd0 type veth peer name hd1 netns far", "ip link set hd0 address 02:00:00:00:00:aa",
	} {
		words := strings.Fields(command)
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		for _, name := range []string{"up0", "hd0"} {
			if link, err := netlink.LinkByName(name); err == nil {
				must.Do(t, netlink.LinkDel(link))
			}
		}
	})
	for _, command := range []string{"ip addr add 10.60.0.1/24 dev up1", "ip link set up1 up", "ip link set hd1 up"} {
		site.InPod(t, far, command)
	}
	return far
}

// pluginSite has a NAD for each main plugin of the reference, with what is
// chained to it.
func pluginSite(t *testing.T) *site.Site {
	s := site.New(t, nil)
	s = s.With(map[string]any{
		"capabilities": map[string]bool{"portMappings": true},
		"runtimeConfig": map[string]any{"portMappings": []any{
			map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		}},
		"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{
			site.Plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "ipam": s.HostLocal("10.244.0.0/16")}),
			site.Plugin("portmap", nil, "portMappings"),
		}}},
	})
	static := map[string]any{"type": "static"}
	s.ChainNAD("bridged",
		site.Plugin("bridge", map[string]any{"bridge": "cni1", "isGateway": true, "ipMasq": true, "ipam": s.HostLocal("10.61.0.0/24")}),
		site.Plugin("tuning", map[string]any{"sysctl": map[string]string{"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400}, "mac"),
		site.Plugin("portmap", map[string]any{"snat": true}, "portMappings"),
		site.Plugin("bandwidth", nil, "bandwidth"))
	// macvlan's CHECK looks for its gateway where sbr has taken it away.
	s.NAD("mac", map[string]any{"cniVersion": "1.1.0", "name": "mac", "disableCheck": true, "plugins": []any{
		site.Plugin("macvlan", map[string]any{"master": "up0", "ipam": map[string]any{"type": "static",
			"addresses": []any{map[string]any{"address": "10.60.0.9/24", "gateway": "10.60.0.1"}}}}),
		site.Plugin("tuning", map[string]any{"allmulti": true, "txQLen": 500}),
		site.Plugin("sbr", nil),
	}})
	s.ChainNAD("pointed",
		site.Plugin("ptp", map[string]any{"ipMasq": true, "ipam": s.HostLocal("10.62.0.0/24")}),
		site.Plugin("bandwidth", map[string]any{"ingressRate": 1000000, "ingressBurst": 2000000}))
	s.ChainNAD("moved",
		site.Plugin("host-device", map[string]any{"device": "hd0", "ipam": static}, "ips"),
		site.Plugin("tuning", map[string]any{"mtu": 1300}, "mac"))
	s.ChainNAD("leased",
		site.Plugin("macvlan", map[string]any{"master": "up0", "ipam": map[string]any{"type": "dhcp", "daemonSocketPath": filepath.Join(node.Dir(), "dhcp.sock")}}))
	return s
}

// Every reference plugin does its work below plexus, answers CHECK, and undoes
// it: links, addresses, packet filters, queues, routing tables, leases.
func TestReferencePlugins(t *testing.T) {
	far := uplink(t)
	serveDHCP(t, far)
	lease := startDHCPDaemon(t, filepath.Join(node.Dir(), "dhcp.sock"))
	s := pluginSite(t)
	const (
		bridged = `{"name": "bridged", "mac": "02:00:00:00:00:b0", "bandwidth": {"ingressRate": 8000000, "ingressBurst": 8000000, "egressRate": 4000000, "egressBurst": 4000000},
			"portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]}`
		mac   = `{"name": "mac"}`
		moved = `{"name": "moved", "ips": ["10.63.0.9/24"], "mac": "02:00:00:00:00:bb", "interface": "nic"}`
	)
	all := strings.Join([]string{bridged, mac, `{"name": "pointed"}`, moved, `{"name": "leased"}`}, ",")
	p := site.NewPod(t, "plugged")
	s.Pod("plugged", "["+all+"]")
	s.MustAdd(site.SandboxID(600), p, "plugged") // for what stays: bridges, the heads of chains
	s.MustDel(site.SandboxID(600), p, "plugged")

	for n, test := range []struct {
		name, networks string
		has            []string // on the node or in the pod
		replies        []string // addresses that the pod reaches
	}{
		{"cluster alone", "", []string{"--dport 8080", "-j MASQUERADE", "link eth0"}, nil},
		{"bridge, tuning, portmap, bandwidth", bridged, []string{"link net1 kind=veth mtu=1400", "--dport 9090", "qdisc tbf", "mirred", "kind=ifb"}, []string{"10.61.0.1"}},
		{"macvlan, static, tuning, sbr", mac, []string{"link net1 kind=macvlan", "from 10.60.0.9 lookup 100", "table 100"}, []string{"-I 10.60.0.9 10.60.0.1"}},
		{"ptp, bandwidth", `{"name": "pointed"}`, []string{"link net1 kind=veth", "qdisc tbf", "-s 10.62.0."}, []string{"10.62.0.1"}},
		{"host-device, tuning", moved, []string{"link nic kind=veth mtu=1300", "addr nic 10.63.0.9/24"}, nil},
		{"macvlan, dhcp", `{"name": "leased"}`, []string{"addr net1 10.60.0.7/24"}, []string{"10.60.0.1"}},
		{"all", all,
			[]string{"link net2 kind=macvlan", "link net3 kind=veth", "link nic", "addr net5 10.60.0.7/24", "--dport 8080", "--dport 9090"}, []string{"10.61.0.1", "10.62.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, id := s.On(t), site.SandboxID(601+n)
			s.Pod("plugged", "["+test.networks+"]")
			t.Cleanup(func() { _ = s.Del(id, p, "plugged") }) // for the next one, should this one fail
			before := s.Kernel(p)
			s.MustAdd(id, p, "plugged")
			during := s.Kernel(p)
			for _, want := range test.has {
				if !strings.Contains(during, want) {
					t.Errorf("the plugins have not made %q:\n%s", want, during)
				}
			}
			for _, address := range test.replies {
				site.InPod(t, p, "ping -c1 -W5 "+address)
			}
			s.MustCheck(id, p, "plugged")
			s.MustDel(id, p, "plugged")
			site.SameWorld(t, before, s.Kernel(p))
			s.MustDel(id, p, "plugged") // again, as a runtime may
			site.SameWorld(t, before, s.Kernel(p))
		})
	}
	if log := lease.String(); strings.Count(log, "lease acquired") != 3 || strings.Count(log, "releasing lease") != 3 {
		t.Errorf("want three leases, given back each:\n%s", log)
	}
}

// A port of the node leads into the pod, by the runtime's mapping and by that
// of the annotation.
func TestPortMappings(t *testing.T) {
	uplink(t)
	s := pluginSite(t)
	s.Pod("mapped", `[{"name": "bridged", "portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]}]`)
	p := site.NewPod(t, "mapped")
	s.MustAdd(site.SandboxID(620), p, "mapped")
	t.Cleanup(func() { _ = s.Del(site.SandboxID(620), p, "mapped") })
	for _, test := range []struct{ host, inside string }{{"10.244.0.1:8080", ":80"}, {"10.61.0.1:9090", ":90"}} {
		var l net.Listener
		must.Do(t, p.Do(func() (err error) { l, err = net.Listen("tcp", test.inside); return err }))
		go func() {
			if c, err := l.Accept(); err == nil {
				fmt.Fprint(c, "pod")
				c.Close()
			}
		}()
		c, err := (&net.Dialer{}).DialContext(must.Deadline(t), "tcp", test.host)
		must.Do(t, err)
		if text, err := io.ReadAll(c); err != nil || string(text) != "pod" {
			t.Errorf("%s answers %q, %v", test.host, text, err)
		}
		c.Close()
		l.Close()
	}
	s.MustDel(site.SandboxID(620), p, "mapped")
}

// A pod's namespace may be gone before DEL: what is on the node goes all the
// same, but for what the plugins themselves leave then: bridge's and ptp's
// ipMasq, tuning's memory of the interface.
func TestReferencePluginsWithoutNetns(t *testing.T) {
	serveDHCP(t, uplink(t))
	startDHCPDaemon(t, filepath.Join(node.Dir(), "dhcp.sock"))
	s := pluginSite(t)
	s.Pod("gone", `[{"name": "bridged", "bandwidth": {"ingressRate": 8000000, "ingressBurst": 8000000, "egressRate": 4000000, "egressBurst": 4000000},
		"portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]}, {"name": "pointed"}, {"name": "leased"}]`)
	p, witness := site.NewPod(t, "gone"), site.NewPod(t, "witness")
	s.MustAdd(site.SandboxID(630), p, "gone")
	s.MustDel(site.SandboxID(630), p, "gone")
	before := s.Kernel(witness)
	s.MustAdd(site.SandboxID(631), p, "gone")
	must.Do(t, p.Close())
	s.MustDel(site.SandboxID(631), nil, "gone")
	ctx, after := must.Deadline(t), s.Kernel(witness)
	for strings.Contains(after, "kind=veth") && strings.Count(after, "kind=veth") > strings.Count(before, "kind=veth") && ctx.Err() == nil {
		after = s.Kernel(witness) // the kernel removes links of a dead namespace late
	}
	for _, text := range []string{"netns gone", "/run/cni/tuning", `id: \"631`, ":CNI-"} {
		before, after = site.Without(before, text), site.Without(after, text)
	}
	site.SameWorld(t, before, after)
	if strings.Contains(after, "--dport 9090") || strings.Contains(after, "kind=ifb") {
		t.Errorf("portmap or bandwidth has left something:\n%s", after)
	}
}

// startDHCPDaemon starts the daemon of the plugin dhcp, which keeps the leases.
// What it prints is its log.
func startDHCPDaemon(t *testing.T, socket string) (log *process.Buffer) {
	t.Helper()
	log = &process.Buffer{}
	p, err := process.Start(process.Options{Name: "the DHCP daemon", Out: log}, filepath.Join(site.BinDir(t), "dhcp"), "daemon", "-socketpath", socket)
	must.Do(t, err)
	t.Cleanup(func() { p.Kill(); _ = os.Remove(socket) })
	must.Do(t, p.Await(must.Deadline(t), "the DHCP daemon listens", func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	}))
	return log
}

// DEL succeeds when the pod's namespace is gone, also below a plugin that works
// in the namespace alone and fails without one, as sbr does.
func TestDelWithoutNetnsOfSBR(t *testing.T) {
	uplink(t)
	s := pluginSite(t)
	s.Pod("gone", "mac")
	p := site.NewPod(t, "gone")
	s.MustAdd(site.SandboxID(730), p, "gone")
	must.Do(t, p.Close())
	if err := s.Del(site.SandboxID(730), nil, "gone"); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if strings.Contains(s.World(nil), site.SandboxID(730)) {
		t.Error("files of the sandbox are left behind")
	}
}

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/rig/node"
)

// rules are what plugins leave in the kernel beside links and routes: packet
// filters, queues with their filters, routing rules, and tuning's own files.
const rules = `
for t in iptables ip6tables; do $t-save | sed "s/^/$t /; /#/d; s/\[.*\]//"; done
tc qdisc show | grep -v noqueue
for dev in $(ls /sys/class/net); do tc filter show dev $dev; tc filter show dev $dev parent ffff:; done
ip rule; ip -6 rule
ip route show table all | grep "table [0-9]"
find /run/cni -type f 2>/dev/null
true`

// kernel is all that plugins may change on the node and in a pod, as text.
func (s *site) kernel(p *node.Pod) string {
	s.t.Helper()
	out, err := exec.CommandContext(deadline(s.t), "sh", "-c", rules).CombinedOutput()
	must(s.t, err)
	inside, err := p.Exec(deadline(s.t), "sh", "-c", rules)
	must(s.t, err)
	return s.world(nil) + string(out) + links(s.t, p) + inside
}

// uplink is a wire from the node's up0 to up1 in a namespace of its own, and a
// link hd0 for host-device.
func uplink(t *testing.T) *node.Pod {
	t.Helper()
	far := newPod(t, "far")
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
				must(t, netlink.LinkDel(link))
			}
		}
	})
	for _, command := range []string{"ip addr add 10.60.0.1/24 dev up1", "ip link set up1 up", "ip link set hd1 up"} {
		inPod(t, far, command)
	}
	return far
}

// plugin is a plugin's configuration with the capabilities named.
func plugin(typ string, keys map[string]any, capabilities ...string) map[string]any {
	all := map[string]any{"type": typ}
	for k, v := range keys {
		all[k] = v
	}
	if len(capabilities) > 0 {
		can := map[string]bool{}
		for _, name := range capabilities {
			can[name] = true
		}
		all["capabilities"] = can
	}
	return all
}

// chainNAD writes a NAD that is a list of plugins.
func (s *site) chainNAD(name string, plugins ...map[string]any) {
	s.t.Helper()
	s.nad(name, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": plugins})
}

// pluginSite has a NAD for each main plugin of the reference, with what is
// chained to it.
func pluginSite(t *testing.T) *site {
	s := newSite(t, nil)
	s = s.withConf(map[string]any{
		"capabilities": map[string]bool{"portMappings": true},
		"runtimeConfig": map[string]any{"portMappings": []any{
			map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		}},
		"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{
			plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "ipam": s.hostLocal("10.244.0.0/16")}),
			plugin("portmap", nil, "portMappings"),
		}}},
	})
	static := map[string]any{"type": "static"}
	s.chainNAD("bridged",
		plugin("bridge", map[string]any{"bridge": "cni1", "isGateway": true, "ipMasq": true, "ipam": s.hostLocal("10.61.0.0/24")}),
		plugin("tuning", map[string]any{"sysctl": map[string]string{"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400}, "mac"),
		plugin("portmap", map[string]any{"snat": true}, "portMappings"),
		plugin("bandwidth", nil, "bandwidth"))
	// macvlan's CHECK looks for its gateway where sbr has taken it away.
	s.nad("mac", map[string]any{"cniVersion": "1.1.0", "name": "mac", "disableCheck": true, "plugins": []any{
		plugin("macvlan", map[string]any{"master": "up0", "ipam": map[string]any{"type": "static",
			"addresses": []any{map[string]any{"address": "10.60.0.9/24", "gateway": "10.60.0.1"}}}}),
		plugin("tuning", map[string]any{"allmulti": true, "txQLen": 500}),
		plugin("sbr", nil),
	}})
	s.chainNAD("pointed",
		plugin("ptp", map[string]any{"ipMasq": true, "ipam": s.hostLocal("10.62.0.0/24")}),
		plugin("bandwidth", map[string]any{"ingressRate": 1000000, "ingressBurst": 2000000}))
	s.chainNAD("moved",
		plugin("host-device", map[string]any{"device": "hd0", "ipam": static}, "ips"),
		plugin("tuning", map[string]any{"mtu": 1300}, "mac"))
	s.chainNAD("leased",
		plugin("macvlan", map[string]any{"master": "up0", "ipam": map[string]any{"type": "dhcp", "daemonSocketPath": filepath.Join(node.Dir(), "dhcp.sock")}}))
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
	p := newPod(t, "plugged")
	s.pod("plugged", "["+all+"]")
	s.mustAdd(sandboxID(600), p, "plugged") // for what stays: bridges, the heads of chains
	s.mustDel(sandboxID(600), p, "plugged")

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
			s, id := s.on(t), sandboxID(601+n)
			s.pod("plugged", "["+test.networks+"]")
			t.Cleanup(func() { _ = s.del(id, p, "plugged") }) // for the next one, should this one fail
			before := s.kernel(p)
			s.mustAdd(id, p, "plugged")
			during := s.kernel(p)
			for _, want := range test.has {
				if !strings.Contains(during, want) {
					t.Errorf("the plugins have not made %q:\n%s", want, during)
				}
			}
			for _, address := range test.replies {
				inPod(t, p, "ping -c1 -W5 "+address)
			}
			s.mustCheck(id, p, "plugged")
			s.mustDel(id, p, "plugged")
			sameWorld(t, before, s.kernel(p))
			s.mustDel(id, p, "plugged") // again, as a runtime may
			sameWorld(t, before, s.kernel(p))
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
	s.pod("mapped", `[{"name": "bridged", "portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]}]`)
	p := newPod(t, "mapped")
	s.mustAdd(sandboxID(620), p, "mapped")
	t.Cleanup(func() { _ = s.del(sandboxID(620), p, "mapped") })
	for _, test := range []struct{ host, inside string }{{"10.244.0.1:8080", ":80"}, {"10.61.0.1:9090", ":90"}} {
		var l net.Listener
		must(t, p.Do(func() (err error) { l, err = net.Listen("tcp", test.inside); return err }))
		go func() {
			if c, err := l.Accept(); err == nil {
				fmt.Fprint(c, "pod")
				c.Close()
			}
		}()
		c, err := (&net.Dialer{}).DialContext(deadline(t), "tcp", test.host)
		must(t, err)
		if text, err := io.ReadAll(c); err != nil || string(text) != "pod" {
			t.Errorf("%s answers %q, %v", test.host, text, err)
		}
		c.Close()
		l.Close()
	}
	s.mustDel(sandboxID(620), p, "mapped")
}

// A pod's namespace may be gone before DEL: what is on the node goes all the
// same, but for what the plugins themselves leave then: bridge's and ptp's
// ipMasq, tuning's memory of the interface.
func TestReferencePluginsWithoutNetns(t *testing.T) {
	serveDHCP(t, uplink(t))
	startDHCPDaemon(t, filepath.Join(node.Dir(), "dhcp.sock"))
	s := pluginSite(t)
	s.pod("gone", `[{"name": "bridged", "bandwidth": {"ingressRate": 8000000, "ingressBurst": 8000000, "egressRate": 4000000, "egressBurst": 4000000},
		"portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]}, {"name": "pointed"}, {"name": "leased"}]`)
	p, witness := newPod(t, "gone"), newPod(t, "witness")
	s.mustAdd(sandboxID(630), p, "gone")
	s.mustDel(sandboxID(630), p, "gone")
	before := s.kernel(witness)
	s.mustAdd(sandboxID(631), p, "gone")
	must(t, p.Close())
	s.mustDel(sandboxID(631), nil, "gone")
	ctx, after := deadline(t), s.kernel(witness)
	for strings.Contains(after, "kind=veth") && strings.Count(after, "kind=veth") > strings.Count(before, "kind=veth") && ctx.Err() == nil {
		after = s.kernel(witness) // the kernel removes links of a dead namespace late
	}
	for _, text := range []string{"netns gone", "/run/cni/tuning", `id: \"631`, ":CNI-"} {
		before, after = without(before, text), without(after, text)
	}
	sameWorld(t, before, after)
	if strings.Contains(after, "--dport 9090") || strings.Contains(after, "kind=ifb") {
		t.Errorf("portmap or bandwidth has left something:\n%s", after)
	}
}

// startDHCPDaemon starts the daemon of the plugin dhcp, which keeps the leases,
// and returns its log.
func startDHCPDaemon(t *testing.T, socket string) *logBuffer {
	t.Helper()
	log := &logBuffer{}
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir(t), "dhcp"), "daemon", "-socketpath", socket)
	cmd.Stderr = log
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.Remove(socket) })
	ctx := deadline(t)
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			c.Close()
			return log
		}
		must(t, ctx.Err())
	}
}

// logBuffer is written by one process and read while that runs.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

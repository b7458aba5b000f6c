package core

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

// checked is an attached pod for CHECK, with one vhost-user port of each mode.
type checked struct {
	*site.Site
	v      *ovs.Switch
	p      *node.Pod
	id     string
	client string // ports
	server string
	ip     string // of eth0, with its prefix
}

const checkedPod = "checked"

// otherBridge is a bridge that somebody else made. The ports of mode server are
// in it: Open vSwitch 3.1 was seen to leave the link of a bridge behind that was
// removed with its last port of type dpdkvhostuser while another bridge stayed,
// a persistent tap that no process had open.
func otherBridge(t testing.TB, v *ovs.Switch) {
	t.Helper()
	site.Vsctl(t, v, "add-br br-other -- set bridge br-other datapath_type=netdev")
	t.Cleanup(func() {
		_, err := v.VSCtl(context.Background(), "del-br", "br-other")
		must.Do(t, err)
	})
}

func newChecked(t *testing.T, v *ovs.Switch, version string) *checked {
	t.Helper()
	s := site.NewVhostSwept(t, v)
	cluster := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
	cluster["cniVersion"] = version
	s = s.With(map[string]any{"cniVersion": version, "delegates": []any{cluster}})
	hostLocal := func(subnet string) map[string]any {
		return map[string]any{"type": "host-local", "subnet": subnet, "dataDir": filepath.Join(s.Dir, "ipam")}
	}
	s.NAD("fast", site.Vhost(v, s, map[string]any{
		"cniVersion": version, "vlan": 7, "trunk": []any{20, 30}, "mtu": 1500, "ipam": hostLocal("192.168.7.0/24"),
	}))
	s.NAD("served", site.Vhost(v, s, map[string]any{
		"cniVersion": version, "bridge": "br-other", "ipam": hostLocal("192.168.5.0/24"),
		"vhost": map[string]any{"mode": "server", "socketDir": filepath.Join(s.Dir, "served")},
	}))
	s.Pod(checkedPod, "fast, served")
	warm := site.NewPod(t, "warm")
	s.MustAdd(site.SandboxID(300), warm, checkedPod)
	s.MustDel(site.SandboxID(300), warm, checkedPod)
	must.Do(t, warm.Close())
	return &checked{Site: s, v: v, id: "c4ecc4ecc4ec" + strings.ReplaceAll(version, ".", "")}
}

// attach adds the pod and sees CHECK succeed.
func (c *checked) attach() {
	c.T.Helper()
	r := c.MustAdd(c.id, c.p, checkedPod)
	c.ip = r.IPs[0].Address.String()
	c.client, c.server = site.PortOf(c.T, c.v, c.id, "net1"), site.PortOf(c.T, c.v, c.id, "net2")
	c.MustCheck(c.id, c.p, checkedPod)
}

func (c *checked) vsctl(format string, args ...any) string {
	c.T.Helper()
	return site.Vsctl(c.T, c.v, fmt.Sprintf(format, args...))
}

func (c *checked) inPod(format string, args ...any) {
	c.T.Helper()
	site.InPod(c.T, c.p, fmt.Sprintf(format, args...))
}

// reservation is the file by which host-local keeps the sandbox's address.
func (c *checked) reservation(network string) string {
	c.T.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, "ipam", network, "*.*.*.*"))
	must.Do(c.T, err)
	for _, file := range files {
		if strings.Contains(must.ReadFile(c.T, file), c.id) {
			return file
		}
	}
	c.T.Fatalf("none of %q is of sandbox %s", files, c.id)
	return ""
}

// move takes the client port from a bridge to another.
func (c *checked) move(from, to string) {
	c.T.Helper()
	id := []any{"uuid", c.vsctl("get Port %s _uuid", c.client)}
	mutate := func(bridge, how string) any {
		return map[string]any{"op": "mutate", "table": "Bridge", "where": []any{[]any{"name", "==", bridge}}, "mutations": []any{[]any{"ports", how, id}}}
	}
	_, err := c.v.Transact(must.Deadline(c.T), mutate(from, "delete"), mutate(to, "insert"))
	must.Do(c.T, err)
}

// socket is where the pod sees the socket of the server port.
func (c *checked) socket() string {
	return filepath.Join(c.Dir, "served", shareddir.OwnName(c.id), c.id[:12]+"-net2")
}

// tampered is a change behind plexus' back.
type tampered struct {
	name string
	do   func(c *checked)
	undo func(c *checked) // nil: DEL and ADD heal
	says func(c *checked) []string
}

var tamperings = []tampered{
	{
		"port deleted",
		func(c *checked) { c.vsctl("del-port %s", c.client) },
		nil,
		func(c *checked) []string { return []string{"net1", "default/fast", "port " + c.client + " is gone"} },
	},
	{
		"tag changed",
		func(c *checked) { c.vsctl("set Port %s tag=9", c.client) },
		func(c *checked) { c.vsctl("set Port %s tag=7", c.client) },
		func(c *checked) []string { return []string{"net1", "port " + c.client, "vlan tag is 9, was 7"} },
	},
	{
		"tag removed",
		func(c *checked) { c.vsctl("clear Port %s tag", c.client) },
		nil,
		func(c *checked) []string { return []string{"port " + c.client, "vlan tag is none, was 7"} },
	},
	{
		"trunks changed",
		func(c *checked) { c.vsctl("set Port %s trunks=20,31", c.client) },
		func(c *checked) { c.vsctl("set Port %s trunks=30,20", c.client) },
		func(c *checked) []string { return []string{"port " + c.client, "trunks is 20,31, was 20,30"} },
	},
	{
		"a tag where none was asked for",
		func(c *checked) { c.vsctl("set Port %s tag=9", c.server) },
		func(c *checked) { c.vsctl("clear Port %s tag", c.server) },
		func(c *checked) []string {
			return []string{"net2", "default/served", "port " + c.server, "vlan tag is 9, was none"}
		},
	},
	{
		"moved to another bridge",
		func(c *checked) { c.move("br-fast", "br-other") },
		func(c *checked) { c.move("br-other", "br-fast") },
		func(c *checked) []string { return []string{"port " + c.client, "no longer in bridge br-fast"} },
	},
	{
		"moved to another bridge, for DEL",
		func(c *checked) { c.move("br-fast", "br-other") },
		nil,
		func(c *checked) []string { return []string{"port " + c.client, "no longer in bridge br-fast"} },
	},
	{
		"another socket",
		func(c *checked) { c.vsctl("set Interface %s options:vhost-server-path=/run/other.sock", c.client) },
		nil,
		func(c *checked) []string {
			return []string{"port " + c.client, "options:vhost-server-path is /run/other.sock, was " + filepath.Join(c.Dir, "vhost", shareddir.OwnName(c.id))}
		},
	},
	{
		"another MTU",
		func(c *checked) { c.vsctl("set Interface %s mtu_request=1400", c.client) },
		func(c *checked) { c.vsctl("set Interface %s mtu_request=1500", c.client) },
		func(c *checked) []string { return []string{"port " + c.client, "mtu_request is 1400, was 1500"} },
	},
	{
		"marks of ownership removed",
		func(c *checked) { c.vsctl("remove Interface %s external_ids plexus-owner", c.client) },
		func(c *checked) { c.vsctl("set Interface %s external_ids:plexus-owner=%s", c.client, c.DataDir) },
		func(c *checked) []string { return []string{"port " + c.client, "marks of ownership", "external_ids"} },
	},
	{
		"socket removed",
		func(c *checked) { must.Do(c.T, os.Remove(c.socket())) },
		nil,
		func(c *checked) []string {
			return []string{"net2", "default/served", "socket " + c.socket() + " is gone"}
		},
	},
	{
		"a file in the socket's place",
		func(c *checked) {
			must.Do(c.T, os.Remove(c.socket()))
			must.WriteFile(c.T, c.socket(), "")
		},
		nil,
		func(c *checked) []string { return []string{"net2", c.socket() + " is no socket"} },
	},
	{
		"socket folder removed",
		func(c *checked) { must.Do(c.T, os.RemoveAll(filepath.Dir(c.socket()))) },
		nil,
		func(c *checked) []string { return []string{"socket folder " + filepath.Dir(c.socket()) + " is gone"} },
	},
	{
		"socket folder of the pod's side removed",
		func(c *checked) { must.Do(c.T, os.RemoveAll(filepath.Join(c.Dir, "vhost", shareddir.OwnName(c.id)))) },
		nil,
		func(c *checked) []string {
			return []string{"net1", "socket folder " + filepath.Join(c.Dir, "vhost", shareddir.OwnName(c.id)) + " is gone"}
		},
	},
	{
		"eth0 deleted",
		func(c *checked) { c.inPod("ip link del eth0") },
		nil,
		func(c *checked) []string { return []string{"check eth0", "cluster", "interface eth0"} },
	},
	{
		"eth0 renamed",
		func(c *checked) {
			c.inPod("ip link set eth0 down")
			c.inPod("ip link set eth0 name eth9")
		},
		nil,
		func(c *checked) []string { return []string{"check eth0", "interface eth0"} },
	},
	{
		"address removed from eth0",
		func(c *checked) { c.inPod("ip addr del %s dev eth0", c.ip) },
		nil,
		func(c *checked) []string {
			return []string{"check eth0", "interface eth0: address " + c.ip + " is gone"}
		},
	},
	{
		"another MAC on eth0",
		func(c *checked) { c.inPod("ip link set eth0 address 02:00:00:00:00:99") },
		nil,
		func(c *checked) []string {
			return []string{"check eth0", "interface eth0: MAC is 02:00:00:00:00:99, was "}
		},
	},
	{
		"address no longer reserved",
		func(c *checked) { must.Do(c.T, os.Remove(c.reservation("fast"))) },
		nil,
		func(c *checked) []string {
			return []string{"check net1", "host-local: network fast", "no address is reserved", "net1"}
		},
	},
	{
		"address reserved for another",
		func(c *checked) { must.WriteFile(c.T, c.reservation("fast"), "someone\nelse") },
		func(c *checked) {
			files, err := filepath.Glob(filepath.Join(c.Dir, "ipam", "fast", "*.*.*.*"))
			must.Do(c.T, err)
			must.WriteFile(c.T, files[0], c.id+"\r\nnet1")
		},
		func(c *checked) []string { return []string{"check net1", "no address is reserved"} },
	},
}

// CHECK succeeds on what ADD made, names what somebody has changed since and
// how, and succeeds again when that is undone or the pod attached anew. All
// of it holds for networks of CNI 0.3.1, which has no CHECK of its own.
func TestCheck(t *testing.T) {
	v := site.OVS(t)
	otherBridge(t, v)
	for _, version := range []string{"1.1.0", "0.3.1"} {
		home := newChecked(t, v, version)
		home.p = site.NewPod(t, checkedPod)
		before, fresh := home.World(v), site.Links(t, home.p)
		home.attach()
		for _, test := range tamperings {
			t.Run(version+" "+test.name, func(t *testing.T) {
				c := *home
				c.Site = home.On(t)
				test.do(&c)
				err := c.Check(c.id, c.p, checkedPod)
				site.Says(t, err, test.says(&c)...)
				if err != nil && test.name == "port deleted" && strings.Contains(err.Error(), c.server) {
					t.Errorf("it names the port %s, which is as it was: %v", c.server, err)
				}
				if test.undo != nil {
					test.undo(&c)
					c.MustCheck(c.id, c.p, checkedPod)
					return
				}
				c.MustDel(c.id, c.p, checkedPod)
				if test.name == "eth0 renamed" {
					c.inPod("ip link del eth9") // nobody knows it by that name
				}
				site.SameWorld(t, fresh, site.Links(t, c.p))
				c.BecomesWorld(v, before)
				c.attach()
				home.ip = c.ip
			})
		}
		home.MustDel(home.id, home.p, checkedPod)
		home.BecomesWorld(v, before)
		must.Do(t, home.p.Close())
	}
}

// All differences are told at once.
func TestCheckTellsAll(t *testing.T) {
	v := site.OVS(t)
	otherBridge(t, v)
	c := newChecked(t, v, "1.1.0")
	c.p = site.NewPod(t, checkedPod)
	c.attach()
	c.vsctl("set Port %s tag=9", c.client)
	c.vsctl("set Interface %s mtu_request=1400", c.client)
	must.Do(t, os.Remove(c.socket()))
	c.inPod("ip addr del %s dev eth0", c.ip)
	must.Do(t, os.Remove(c.reservation("served")))
	site.Says(t, c.Check(c.id, c.p, checkedPod),
		"vlan tag is 9, was 7", "mtu_request is 1400, was 1500", "socket "+c.socket()+" is gone", c.ip+" is gone", "network served: no address is reserved")
	c.MustDel(c.id, c.p, checkedPod)
}

// CHECK of a pod whose namespace is gone, or is another one by now, and of what
// was never attached, fails and says so.
func TestCheckWithoutPod(t *testing.T) {
	v := site.OVS(t)
	otherBridge(t, v)
	c := newChecked(t, v, "1.1.0")
	before := c.World(v)
	c.p = site.NewPod(t, checkedPod)
	site.Says(t, c.Check(c.id, c.p, checkedPod), c.id, "eth0", "not attached")
	site.HasCode(t, c.Check(c.id, c.p, checkedPod), 3)
	c.attach()
	_, _, err := c.Call(site.Request{Verb: "CHECK", Sandbox: c.id, Netns: c.p.Path(), IfName: "eth1", Pod: checkedPod})
	site.Says(t, err, c.id, "eth1", "not attached")
	must.Do(t, c.p.Close())
	site.Says(t, c.Check(c.id, c.p, checkedPod), c.id, c.p.Path(), "is gone")
	successor := site.NewPod(t, "successor")
	vethInto(t, successor)
	site.Says(t, c.Check(c.id, successor, checkedPod), c.id, c.p.Path(), "is gone")
	c.MustDel(c.id, nil, checkedPod)
	must.Do(t, successor.Close())
	c.BecomesWorld(v, before)
}

// An interface that nobody but the cluster network's executables knows of is
// checked too: the address that host-local keeps for it.
func TestCheckAsksExecutables(t *testing.T) {
	v := site.OVS(t)
	otherBridge(t, v)
	c := newChecked(t, v, "1.1.0")
	c.p = site.NewPod(t, checkedPod)
	c.attach()
	must.Do(t, os.Remove(c.reservation("cluster")))
	site.Says(t, c.Check(c.id, c.p, checkedPod), "check eth0", "cluster")
	c.MustDel(c.id, c.p, checkedPod)
}

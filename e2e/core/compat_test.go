package core

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

const userspaceDir = "/usr/local/var/run/openvswitch"

// containerConfig is what a container written for userspace-cni reads.
type containerConfig struct {
	ContainerID string `json:"containerId"`
	IfName      string `json:"ifName"`
	Name        string `json:"name"`
	Config      struct {
		Engine  string `json:"engine"`
		IfType  string `json:"iftype"`
		NetType string `json:"netType"`
		Vhost   struct {
			Mode       string `json:"mode"`
			SocketFile string `json:"socketfile"`
		} `json:"vhost"`
	} `json:"config"`
	IPResult types100.Result `json:"ipResult"`
}

func (c *containerConfig) check(t testing.TB, sandbox, ifName, network string) {
	t.Helper()
	side := c.Config
	if c.ContainerID != sandbox || c.IfName != ifName || c.Name != network ||
		side.Engine != "ovs-dpdk" || side.IfType != "vhostuser" || side.NetType != "interface" || side.Vhost.Mode != "server" {
		t.Errorf("the container is told %+v, want %s of %s in network %s, to serve a vhostuser interface of ovs-dpdk", c, ifName, sandbox, network)
	}
	if len(c.IPResult.IPs) != 1 || !inSubnet(c.IPResult.IPs[0].Address.IP, "10.56.217.0/24") {
		t.Errorf("the container is told addresses %v, want one of 10.56.217.0/24", c.IPResult.IPs)
	}
	if n := len(c.IPResult.Routes); n != 1 {
		t.Errorf("the container is told %d routes, want the default route", n)
	}
}

func inSubnet(ip net.IP, cidr string) bool {
	_, subnet, err := net.ParseCIDR(cidr)
	return err == nil && subnet.Contains(ip)
}

// framesPass sends frames between two sockets, both ways.
func framesPass(t testing.TB, left, right string) {
	t.Helper()
	ctx := must.Deadline(t)
	a, b := site.StartPeer(t, left), site.StartPeer(t, right)
	must.Do(t, ovs.WarmUp(ctx, a, b))
	for _, way := range [][2]*ovs.Peer{{a, b}, {b, a}} {
		if got, err := ovs.Transfer(ctx, way[0], way[1], 500); err != nil || got != 500 {
			t.Errorf("%d of 500 frames arrived: %v", got, err)
		}
	}
	must.Do(t, a.Stop())
	must.Do(t, b.Stop())
}

func example(t testing.TB, name string) []byte {
	t.Helper()
	return []byte(must.ReadFile(t, filepath.Join(must.Root(t), "examples", name)))
}

// linkAs gives the site's executable another name, as an installation does
// that puts plexus in the place of another plugin.
func linkAs(s *site.Site, name string) {
	s.T.Helper()
	must.Do(s.T, os.Symlink(filepath.Join(site.BinDir(s.T), "plexus"), filepath.Join(s.Dir, name)))
	at, err := filepath.Rel(site.BinDir(s.T), filepath.Join(s.Dir, name))
	must.Do(s.T, err)
	s.As = at
}

// result020 is a result up to CNI 0.2.0.
type result020 struct {
	CNIVersion string `json:"cniVersion"`
	IP4        struct {
		IP      string `json:"ip"`
		Gateway string `json:"gateway"`
		Routes  []struct {
			Dst string `json:"dst"`
			GW  string `json:"gw"`
		} `json:"routes"`
	} `json:"ip4"`
	Interfaces []any `json:"interfaces"`
	IPs        []any `json:"ips"`
}

// The example configuration of a meta-plugin with inline delegates runs
// unchanged, under the name multus: the delegate with masterplugin becomes
// eth0 although it stands last, the userspace one net1; the answer is in the
// form of a configuration without a version; the container is told of its
// socket in a file beside it; frames pass.
func TestExampleMultusConf(t *testing.T) {
	v := site.OVS(t)
	site.DefaultPlaces(t, v)
	s := site.New(t, nil)
	linkAs(s, "multus")
	s.Conf = example(t, "multus.conf")
	warm := site.NewPod(t, "warm")
	s.MustAdd(site.SandboxID(100), warm, "")
	s.MustDel(site.SandboxID(100), warm, "")
	must.Do(t, warm.Close())
	before := s.World(v)
	sockets, err := node.Tree("/usr/local/var")
	must.Do(t, err)

	var paths []string
	pods := []*node.Pod{site.NewPod(t, "left"), site.NewPod(t, "right")}
	for n, p := range pods {
		id := site.SandboxID(101 + n)
		out, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: id, Netns: p.Path(), Pod: "any"})
		must.Do(t, err)
		var r result020
		must.Decode(t, out, &r)
		ip, _, err := net.ParseCIDR(r.IP4.IP)
		if err != nil || !inSubnet(ip, "10.57.0.0/16") || r.IP4.Gateway != "10.57.0.1" {
			t.Errorf("answer %s: want the address and gateway of control-network", out)
		}
		if r.CNIVersion != "0.1.0" && r.CNIVersion != "0.2.0" || r.IPs != nil || r.Interfaces != nil {
			t.Errorf("answer %s: want the form of CNI 0.1.0 and 0.2.0", out)
		}
		if len(r.IP4.Routes) != 1 || r.IP4.Routes[0].Dst != "0.0.0.0/0" || r.IP4.Routes[0].GW != "10.57.0.1" {
			t.Errorf("answer %s: want the default route of control-network alone", out)
		}
		if inside := site.Links(t, p); !strings.Contains(inside, "addr eth0 "+ip.String()+"/16") || strings.Contains(inside, "net1") {
			t.Errorf("want eth0 with %s, and no link net1, in the pod:\n%s", ip, inside)
		}
		if out := site.InPod(t, p, "ping -c1 -W5 10.57.0.1"); !strings.Contains(out, "1 received") {
			t.Error(out)
		}
		dir := filepath.Join(userspaceDir, shareddir.OwnName(id))
		var told containerConfig
		must.Decode(t, []byte(must.ReadFile(t, filepath.Join(dir, "configData-"+id[:12]+"-net1.json"))), &told)
		told.check(t, id, "net1", "vhost-network")
		paths = append(paths, filepath.Join(dir, told.Config.Vhost.SocketFile))
	}
	framesPass(t, paths[0], paths[1])
	if out := site.Vsctl(t, v, "list-ports br-4"); len(strings.Fields(out)) != 2 {
		t.Errorf("ports of br-4: %q, want two", out)
	}
	for n, p := range pods {
		s.MustCheck(site.SandboxID(101+n), p, "any")
		s.MustDel(site.SandboxID(101+n), p, "any")
		must.Do(t, p.Close())
	}
	s.BecomesWorld(v, before)
	after, err := node.Tree("/usr/local/var")
	must.Do(t, err)
	site.SameWorld(t, sockets, after)
}

// The same configuration with a version gets the merged result of that
// version: the cluster network's interfaces first.
func TestExampleMultusConfOfAVersion(t *testing.T) {
	v := site.OVS(t)
	site.DefaultPlaces(t, v)
	s := site.New(t, nil)
	s.Conf = site.Changed(t, example(t, "multus.conf"), map[string]any{"cniVersion": "1.1.0"})
	p := site.NewPod(t, "versioned")
	id := site.SandboxID(110)
	r := s.MustAdd(id, p, "")
	var names []string
	for _, i := range r.Interfaces {
		names = append(names, i.Name)
	}
	if r.CNIVersion != "1.1.0" || len(names) != 4 || names[0] != "cni-control" || names[2] != "eth0" || names[3] != "net1" {
		t.Fatalf("version %s, interfaces %q: want 1.1.0, cni-control, a veth, eth0, net1", r.CNIVersion, names)
	}
	if want := filepath.Join(userspaceDir, shareddir.OwnName(id), id[:12]+"-net1"); r.Interfaces[3].SocketPath != want {
		t.Errorf("socketPath of net1 is %q, want %q", r.Interfaces[3].SocketPath, want)
	}
	if len(r.IPs) != 2 || *r.IPs[0].Interface != 2 || !inSubnet(r.IPs[0].Address.IP, "10.57.0.0/16") ||
		*r.IPs[1].Interface != 3 || !inSubnet(r.IPs[1].Address.IP, "10.56.217.0/24") {
		t.Errorf("ips %v: want control-network's on eth0, then vhost-network's on net1", r.IPs)
	}
	if len(r.Routes) != 1 || !r.Routes[0].GW.Equal(net.IPv4(10, 57, 0, 1)) {
		t.Errorf("routes %v: want the default route of control-network alone", r.Routes)
	}
	s.MustCheck(id, p, "")
	s.MustDel(id, p, "")
}

// The NetworkAttachmentDefinition and the pod of userspace-cni run unchanged:
// socket and network-status lead to the pod's volume shared-dir, whose path is
// too long for a unix socket, and the container is told by annotations.
func TestExampleUserspaceNAD(t *testing.T) {
	v := site.OVS(t)
	site.DefaultPlaces(t, v)
	s := site.New(t, map[string]any{"delegates": []any{site.ClusterBridge(filepath.Join(node.Dir(), "userspace-ipam"))}})
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(node.Dir(), "userspace-ipam")) })
	text := string(example(t, "userspace-ovs.yaml"))
	s.Manifest("userspace-ovs.yaml", text)
	const first, second = "userspace-ovs-pod-1", "userspace-ovs-pod-2"
	_, podText, found := strings.Cut(text, "\n---\n")
	if !found {
		t.Fatal("examples/userspace-ovs.yaml has no second document")
	}
	s.Manifest("second.yaml", strings.NewReplacer(first, second, "b163", "b164").Replace(podText))
	s.Pod("warm", "userspace-ovs-net-1")

	var volumes []string
	for _, name := range []string{"userspace-ovs.yaml", "second.yaml"} {
		volumes = append(volumes, site.EmptyDirOf(t, filepath.Join(s.Manifests, name)))
	}
	warm := site.NewPod(t, "warm")
	s.MustAdd(site.SandboxID(120), warm, first)
	s.MustDel(site.SandboxID(120), warm, first)
	must.Do(t, warm.Close())
	before := s.World(v)

	pods := []*node.Pod{site.NewPod(t, "first"), site.NewPod(t, "second")}
	var paths []string
	for n, pod := range []string{first, second} {
		id := site.SandboxID(121 + n)
		r := s.MustAdd(id, pods[n], pod)
		annotations := annotations(s, pod)
		var told []containerConfig
		must.Decode(t, []byte(annotations["userspace/configuration-data"]), &told)
		if len(told) != 1 {
			t.Fatalf("annotation userspace/configuration-data: %s: want a list of one", annotations["userspace/configuration-data"])
		}
		told[0].check(t, id, "net1", "userspace-ovs-net-1")
		mounted := annotations["userspace/mapped-dir"]
		if mounted != "/var/lib/cni/usrspcni" {
			t.Errorf("annotation userspace/mapped-dir is %q, want the volume's mountPath", mounted)
		}
		inVolume := filepath.Join(volumes[n], told[0].Config.Vhost.SocketFile)
		if len(inVolume) <= 107 {
			t.Errorf("the path %s has %d bytes: this test is about longer ones", inVolume, len(inVolume))
		}
		short := r.Interfaces[len(r.Interfaces)-1].SocketPath
		if len(short) > 107 {
			t.Errorf("socketPath %s has %d bytes, at most 107 fit", short, len(short))
		}
		at, err := os.Stat(filepath.Dir(short))
		must.Do(t, err)
		volume, err := os.Stat(volumes[n])
		must.Do(t, err)
		if !os.SameFile(at, volume) {
			t.Errorf("socketPath %s does not lead to %s", short, volumes[n])
		}
		var status []conf.NetworkStatus
		must.Decode(t, []byte(annotations[conf.NetworkStatusAnnotation]), &status)
		if len(status) != 2 || status[1].Name != "default/userspace-ovs-net-1" || status[1].Interface != "net1" ||
			status[1].DeviceInfo == nil || status[1].DeviceInfo.VhostUser.Mode != "server" {
			t.Errorf("network-status: %s", annotations[conf.NetworkStatusAnnotation])
		}
		// The container has its own mounts: here the volume is mounted by
		// another, short name.
		mount := filepath.Join(node.Dir(), pod)
		must.Do(t, os.Mkdir(mount, 0o755))
		must.Do(t, unix.Mount(volumes[n], mount, "", unix.MS_BIND, ""))
		t.Cleanup(func() {
			must.Do(t, unix.Unmount(mount, unix.MNT_DETACH))
			must.Do(t, os.Remove(mount))
		})
		paths = append(paths, filepath.Join(mount, told[0].Config.Vhost.SocketFile))
	}
	framesPass(t, paths[0], paths[1])
	for n, pod := range []string{first, second} {
		s.MustCheck(site.SandboxID(121+n), pods[n], pod)
		s.MustDel(site.SandboxID(121+n), pods[n], pod)
		must.Do(t, pods[n].Close())
		left, err := os.ReadDir(volumes[n])
		if err != nil || len(left) > 0 {
			t.Errorf("volume shared-dir after DEL: %v %v, want it empty", left, err)
		}
	}
	s.BecomesWorld(v, before)
}

// annotations are those that plexus gave to a pod.
func annotations(s *site.Site, pod string) map[string]string {
	s.T.Helper()
	var status struct {
		Metadata struct{ Annotations map[string]string }
	}
	must.Decode(s.T, []byte(must.ReadFile(s.T, filepath.Join(s.Manifests, pod+".status.json"))), &status)
	return status.Metadata.Annotations
}

// A built-in delegate executed under its own name is that CNI plugin: several
// interfaces of one sandbox, each with its own ADD, CHECK and DEL, each result
// in the version that the configuration asks for.
func TestStandalone(t *testing.T) {
	v := site.OVS(t)
	site.DefaultPlaces(t, v)
	var nad struct{ Spec struct{ Config string } }
	must.Do(t, yaml.Unmarshal([]byte(strings.Split(string(example(t, "userspace-ovs.yaml")), "\n---\n")[0]), &nad))
	for n, as := range []string{"userspace", "ovsdpdk"} {
		t.Run(as, func(t *testing.T) {
			s := site.New(t, nil)
			s.As = as
			s.Conf = []byte(nad.Spec.Config)
			version := "0.3.1"
			if as == "ovsdpdk" {
				version = "1.1.0"
				s.Conf = must.JSON(t, site.Vhost(v, s, map[string]any{"name": "alone", "ipam": map[string]any{"type": "host-local", "subnet": "192.168.8.0/24", "dataDir": filepath.Join(s.Dir, "ipam")}}))
			}
			// The default folders stay once they are made.
			warm := site.NewPod(t, "warm")
			s.MustAdd(site.SandboxID(130), warm, "")
			s.MustDel(site.SandboxID(130), warm, "")
			must.Do(t, warm.Close())
			p := site.NewPod(t, "alone")
			id := site.SandboxID(131 + n)
			worlds := []string{s.World(v)}
			inside := site.Links(t, p)
			interfaces := []string{"net1", "net2", "net3"}
			seen := map[string]bool{}
			for _, ifName := range interfaces {
				out, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: id, Netns: p.Path(), IfName: ifName})
				must.Do(t, err)
				var r types100.Result
				must.Decode(t, out, &r)
				if r.CNIVersion != version || len(r.Interfaces) != 1 || r.Interfaces[0].Name != ifName || len(r.IPs) != 1 {
					t.Errorf("result %s: want version %s, interface %s and one address", out, version, ifName)
					continue
				}
				if ip := r.IPs[0].Address.String(); seen[ip] {
					t.Errorf("%s got %s, which another interface has", ifName, ip)
				} else {
					seen[ip] = true
				}
				worlds = append(worlds, s.World(v))
			}
			if _, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: id, Netns: p.Path(), IfName: "net2"}); err == nil {
				t.Error("a second ADD of net2 succeeded")
			}
			for _, ifName := range interfaces {
				if _, _, err := s.Call(site.Request{Verb: "CHECK", Sandbox: id, Netns: p.Path(), IfName: ifName}); err != nil {
					t.Errorf("CHECK %s: %v", ifName, err)
				}
			}
			for i, ifName := range slices.Backward(interfaces) {
				for range 2 {
					if _, _, err := s.Call(site.Request{Verb: "DEL", Sandbox: id, Netns: p.Path(), IfName: ifName}); err != nil {
						t.Errorf("DEL %s: %v", ifName, err)
					}
				}
				site.SameWorld(t, noSizes(worlds[i]), noSizes(s.World(v)))
				_, _, err := s.Call(site.Request{Verb: "CHECK", Sandbox: id, Netns: p.Path(), IfName: ifName})
				site.Says(t, err, ifName, "not attached")
			}
			site.SameWorld(t, inside, site.Links(t, p))
			must.Do(t, p.Close())
		})
	}
}

// noSizes leaves the journal's size out of a world: it says when something was
// done, in more or less digits.
func noSizes(world string) string {
	var out strings.Builder
	for line := range strings.Lines(world) {
		if words := strings.Fields(line); len(words) == 3 && strings.Contains(line, "/sandboxes/") {
			line = words[0] + " " + words[2] + "\n"
		}
		out.WriteString(line)
	}
	return out.String()
}

// Lists that mix executables and built-ins run as one chain, as cluster
// network and as another one: each plugin gets what those before it answered,
// the interfaces of all are in the result, DEL goes backwards.
func TestMixedLists(t *testing.T) {
	v := site.OVS(t)
	for n, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			s := site.New(t, nil)
			s.InstallRecorder()
			log := filepath.Join(s.Dir, "recorded")
			cluster := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
			other := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
			other["name"], other["bridge"], other["isDefaultGateway"], other["isGateway"] = "other", "cni-m", false, true
			other["ipam"].(map[string]any)["subnet"] = "10.245.0.0/16"
			list := func(name string, plugins ...map[string]any) map[string]any {
				for _, p := range plugins {
					delete(p, "cniVersion")
					delete(p, "name")
				}
				return map[string]any{"cniVersion": version, "name": name, "plugins": plugins}
			}
			s = s.With(map[string]any{"delegates": []any{
				list("cluster", cluster, map[string]any{"type": "tuning", "mtu": 1400}, site.Vhost(v, s, nil), map[string]any{"type": site.Recorder, "log": log}),
			}})
			s.NAD("mixed", list("mixed", other, site.Vhost(v, s, nil), map[string]any{"type": site.Recorder, "log": log}))
			s.Pod("mixed", "mixed")
			warm := site.NewPod(t, "warm")
			s.MustAdd(site.SandboxID(140), warm, "mixed")
			s.MustDel(site.SandboxID(140), warm, "mixed")
			must.Do(t, warm.Close())
			must.Do(t, os.Remove(log))

			p := site.NewPod(t, "mixed")
			before := s.World(v)
			id := site.SandboxID(141 + n)
			r := s.MustAdd(id, p, "mixed")
			var names []string
			for _, i := range r.Interfaces {
				name := i.Name
				if strings.HasPrefix(name, "veth") {
					name = "veth"
				}
				if i.SocketPath != "" {
					name += " " + filepath.Base(i.SocketPath)
				}
				names = append(names, name)
			}
			want := fmt.Sprintf("[cni0 veth eth0 eth0 %[1]s-eth0 cni-m veth net1 net1 %[1]s-net1]", id[:12])
			if got := fmt.Sprint(names); got != want {
				t.Errorf("interfaces %s, want %s", got, want)
			}
			if len(r.IPs) != 2 || *r.IPs[0].Interface != 2 || *r.IPs[1].Interface != 6 {
				t.Errorf("ips %v: want one on the veth of each network", r.IPs)
			}
			inside := site.Links(t, p)
			for _, want := range []string{"link eth0 kind=veth mtu=1400 up", "link net1 kind=veth mtu=1500 up"} {
				if !strings.Contains(inside, want) {
					t.Errorf("no %q in the pod:\n%s", want, inside)
				}
			}
			s.MustCheck(id, p, "mixed")
			s.MustDel(id, p, "mixed")
			got := strings.Join(site.Recorded(t, log), ", ")
			wanted := "ADD eth0, ADD net1, CHECK eth0, CHECK net1, DEL net1, DEL eth0"
			if version == "0.3.1" { // it knows no CHECK
				wanted = "ADD eth0, ADD net1, DEL net1, DEL eth0"
			}
			if got != wanted {
				t.Errorf("the recorder got %s, want %s", got, wanted)
			}
			var seen struct{ PrevResult types100.Result }
			first := strings.SplitN(must.ReadFile(t, log), "\n", 2)[0]
			_, stdin, _ := strings.Cut(strings.TrimPrefix(first, "ADD "), " ")
			must.Do(t, json.Unmarshal([]byte(stdin), &seen))
			if len(seen.PrevResult.Interfaces) != 4 {
				t.Errorf("the last plugin was given the interfaces %v, want four", seen.PrevResult.Interfaces)
			}
			must.Do(t, os.Remove(log))
			site.SameWorld(t, before, s.World(v))
		})
	}
}

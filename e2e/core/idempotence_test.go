package core

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// A second ADD of what is attached is refused and says so; the first
// attachment stays as it is, to the last row.
func TestAddTwice(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.Pod("twice", "fast")
	p := site.NewPod(t, "twice")
	id := site.SandboxID(1)
	before := s.World(v)
	s.MustAdd(id, p, "twice")
	attached, inside := s.World(v), site.Links(t, p)

	_, err := s.Add(id, p, "twice")
	site.Says(t, err, id, "eth0", "is attached", "DEL it first")
	site.SameWorld(t, attached, s.World(v))
	site.SameWorld(t, inside, site.Links(t, p))
	s.MustCheck(id, p, "twice")

	s.MustDel(id, p, "twice")
	site.SameWorld(t, before, s.World(v))
	s.MustAdd(id, p, "twice") // and now it may be attached again
	s.MustCheck(id, p, "twice")
	s.MustDel(id, p, "twice")
	site.SameWorld(t, before, s.World(v))
}

// DEL succeeds as often as it is called, also for a sandbox, an interface or a
// pod that never was, and with a container ID that CNI does not allow.
func TestDelOfNothing(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.Pod("nothing", "fast")
	p := site.NewPod(t, "nothing")
	before := s.World(v)
	s.MustAdd(site.SandboxID(2), p, "nothing")
	attached := s.World(v)
	for _, del := range []site.Request{
		{Sandbox: site.SandboxID(3), Netns: p.Path(), Pod: "nothing"},
		{Sandbox: site.SandboxID(3), Netns: p.Path(), Pod: "nobody"},
		{Sandbox: site.SandboxID(3)},
		{Sandbox: site.SandboxID(2), Netns: p.Path(), Pod: "nothing", IfName: "eth7"},
		{Sandbox: "..", Netns: p.Path(), Pod: "nothing"},
		{Sandbox: strings.Repeat("a", 300), Netns: p.Path(), Pod: "nothing"},
	} {
		del.Verb = "DEL"
		if _, stderr, err := s.Call(del); err != nil {
			t.Errorf("DEL of sandbox %s, interface %q, which never was: %v\n%s", del.Sandbox, del.IfName, err, stderr)
		}
		site.SameWorld(t, attached, s.World(v))
	}
	s.MustCheck(site.SandboxID(2), p, "nothing")
	for range 3 {
		s.MustDel(site.SandboxID(2), p, "nothing")
		site.SameWorld(t, before, s.World(v))
	}
}

// DEL restores the node whatever has gone or changed since ADD: it knows
// everything that it needs.
func TestDelAfterEverythingChanged(t *testing.T) {
	v := site.OVS(t)
	home := site.NewVhostSwept(t, v)
	for n, test := range []struct {
		name string
		// happen is what comes between ADD and DEL; it returns the DEL's site
		// and CNI_NETNS, and how to put things back.
		happen func(t *testing.T, s *site.Site, p *node.Pod) (del *site.Site, netns string, back func())
	}{
		{"CNI_NETNS is empty", func(_ *testing.T, s *site.Site, _ *node.Pod) (*site.Site, string, func()) {
			return s, "", func() {}
		}},
		{"the namespace is gone", func(t *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			must.Do(t, p.Close())
			return s, p.Path(), func() {}
		}},
		{"the namespace is gone and CNI_NETNS is empty", func(t *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			must.Do(t, p.Close())
			return s, "", func() {}
		}},
		{"the NAD is gone", func(t *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			file := filepath.Join(s.Manifests, "fast.yaml")
			text := must.ReadFile(t, file)
			must.Do(t, os.Remove(file))
			return s, p.Path(), func() { must.WriteFile(t, file, text) }
		}},
		{"the NAD is another network's", func(t *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			file := filepath.Join(s.Manifests, "fast.yaml")
			text := must.ReadFile(t, file)
			s.NAD("fast", map[string]any{"cniVersion": "1.1.0", "type": "nonesuch"})
			return s, p.Path(), func() { must.WriteFile(t, file, text) }
		}},
		{"the Pod is gone", func(t *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			file := filepath.Join(s.Manifests, "late.pod.yaml")
			text := must.ReadFile(t, file)
			must.Do(t, os.Remove(file))
			return s, p.Path(), func() { must.WriteFile(t, file, text) }
		}},
		{"CNI_ARGS name no pod", func(_ *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			del := *s
			del.As = "plexus"
			return &del, p.Path(), func() {}
		}},
		{"the folder of manifests is gone", func(t *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			away := s.Manifests + ".away"
			must.Do(t, os.Rename(s.Manifests, away))
			return s, p.Path(), func() {
				must.Do(t, os.Rename(away, s.Manifests))
				// It took the status along; it belongs to the manifests.
				must.Do(t, os.Remove(filepath.Join(s.Manifests, "late.status.json")))
			}
		}},
		{"the configuration names another cluster network and no manifests", func(_ *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			other := site.ClusterBridge(filepath.Join(s.Dir, "other"))
			other["bridge"], other["name"] = "cni9", "other"
			return s.With(map[string]any{"name": "node", "manifests": nil, "delegates": []any{other}}), p.Path(), func() {}
		}},
		{"the configuration has another name and the old version", func(_ *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			return s.With(map[string]any{"name": "renamed", "cniVersion": "0.3.1"}), p.Path(), func() {}
		}},
		{"CNI_PATH is empty", func(_ *testing.T, s *site.Site, p *node.Pod) (*site.Site, string, func()) {
			del := *s
			del.Path = ""
			return &del, p.Path(), func() {}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := home.On(t)
			id := site.SandboxID(20 + n)
			s.Pod("late", "fast")
			before := s.World(v)
			p := site.NewPod(t, "late")
			s.MustAdd(id, p, "late")
			del, netns, back := test.happen(t, s, p)
			pod := "late"
			if strings.HasPrefix(test.name, "CNI_ARGS") {
				pod = ""
			}
			if _, stderr, err := del.Call(site.Request{Verb: "DEL", Sandbox: id, Netns: netns, Pod: pod}); err != nil {
				t.Errorf("DEL: %v\n%s", err, stderr)
			}
			if _, err := os.Stat(p.Path()); err == nil {
				if inside := site.Links(t, p); strings.Contains(inside, "eth0") {
					t.Errorf("left in the pod:\n%s", inside)
				}
			}
			must.Do(t, p.Close())
			back()
			s.BecomesWorld(v, before)
		})
	}
}

// DEL whose CNI_NETNS has become the namespace of another pod undoes the
// former pod and leaves the present one's links alone, also when the kernel gave
// both namespaces the same number.
func TestDelWithAnotherPodsNetns(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.Pod("former", "fast")
	before := s.World(v)
	for n, successor := range []string{"with another number", "with the same number"} {
		t.Run(successor, func(t *testing.T) {
			s := s.On(t)
			id := site.SandboxID(40 + n)
			p := site.NewPod(t, "former")
			s.MustAdd(id, p, "former")
			number := inode(t, p.Path())
			var present *node.Pod
			if n == 0 {
				present = site.NewPod(t, "present")
			}
			must.Do(t, p.Close())
			if n == 1 {
				present = sameInode(t, number)
			}
			must.WriteFile(t, p.Path(), "")
			must.Do(t, unix.Mount(present.Path(), p.Path(), "", unix.MS_BIND, ""))
			must.Do(t, present.Close())
			present = p
			vethInto(t, present)
			inside := site.Links(t, present)
			if !strings.Contains(inside, "eth0") {
				t.Fatalf("the present pod has no eth0:\n%s", inside)
			}
			if err := s.Del(id, present, "former"); err != nil {
				t.Errorf("DEL: %v", err)
			}
			site.SameWorld(t, inside, site.Links(t, present))
			must.Do(t, present.Close())
			s.BecomesWorld(v, before)
		})
	}
}

// sameInode makes a namespace with the number of one that has gone: the kernel
// gives the lowest free number. If somebody else on the machine was given it,
// the namespace has another.
func sameInode(t testing.TB, number uint64) *node.Pod {
	t.Helper()
	var below []*node.Pod // they take the lower numbers
	defer func() {
		for _, p := range below {
			must.Do(t, p.Close())
		}
	}()
	for n := 0; ; n++ {
		p := site.NewPod(t, fmt.Sprintf("filler%d", n))
		switch have := inode(t, p.Path()); {
		case have == number || n == 200:
			t.Logf("namespace %d has gone, the new one is %d", number, have)
			return p
		case have < number:
			below = append(below, p)
		default: // it is not free yet
			must.Do(t, p.Close())
		}
	}
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must.Do(t, unix.Stat(path, &st))
	return st.Ino
}

// vethInto gives a pod an eth0 with an address, as another plugin would.
func vethInto(t testing.TB, p *node.Pod) {
	t.Helper()
	site.InPod(t, p, "ip link add eth0 type veth peer name peer0")
	site.InPod(t, p, "ip addr add 10.99.0.2/24 dev eth0")
	site.InPod(t, p, "ip link set eth0 up")
}

// After an ADD that was killed, ADD of the same sandbox works without a DEL.
func TestAddAfterKilledAdd(t *testing.T) {
	s, p := site.NewThree(t)
	before := s.World(site.OVS(t))
	add := site.Request{Verb: "ADD", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for at := 1; ; at++ {
		_, err := s.Faulty(add, "kill", at)
		if err == nil {
			s.MustDel(site.FaultySandbox, p, "three")
			return
		}
		result, err := s.Add(site.FaultySandbox, p, "three")
		if err != nil {
			t.Fatalf("ADD after a kill at step %d: %v", at, err)
		}
		if len(result.IPs) != 3 {
			t.Errorf("ADD after a kill at step %d: %v, want three addresses", at, result.IPs)
		}
		s.MustCheck(site.FaultySandbox, p, "three")
		s.MustDel(site.FaultySandbox, p, "three")
		site.SameWorld(t, before, s.World(site.OVS(t)))
		if t.Failed() {
			t.Fatalf("after a kill at step %d", at)
		}
	}
}

// An ADD that cannot be served says why and changes nothing.
func TestAddRefused(t *testing.T) {
	v := site.OVS(t)
	home := site.NewVhostSwept(t, v)
	home.Manifest("broken.yaml", "apiVersion: v1\nkind: [Pod\n")
	home.Manifest("empty.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: text}\nspec: {config: 'no JSON'}\n")
	home.Pod("good", "fast")
	home.Pod("lonely", "fast, nonesuch")
	home.Pod("texty", "text")
	home.Pod("slip", `[{"nmae": "fast"}]`)
	p := site.NewPod(t, "good")
	file := filepath.Join(home.Dir, "plain-file")
	must.WriteFile(t, file, "")
	for _, test := range []struct {
		name   string
		conf   map[string]any
		r      site.Request
		says   []string
		refuse bool
	}{
		{"CNI_NETNS is no path", nil, site.Request{Netns: "/run/netns/none", Pod: "good"}, []string{"CNI_NETNS", "/run/netns/none", "no network namespace"}, true},
		{"CNI_NETNS is a plain file", nil, site.Request{Netns: file, Pod: "good"}, []string{"CNI_NETNS", file, "no network namespace"}, true},
		{"CNI_NETNS is empty", nil, site.Request{Netns: "", Pod: "good"}, []string{"ADD", "CNI_NETNS"}, true},
		{"the pod is in no manifest", nil, site.Request{Pod: "nobody"}, []string{"pod default/nobody", "no manifest of " + home.Manifests}, true},
		{"the NAD is missing", nil, site.Request{Pod: "lonely"}, []string{"NetworkAttachmentDefinition default/nonesuch", "does not exist", home.Manifests}, true},
		{"the NAD's config is no JSON", nil, site.Request{Pod: "texty"}, []string{"NetworkAttachmentDefinition default/text", "config"}, true},
		{"the annotation has a slip", nil, site.Request{Pod: "slip"}, []string{"pod default/slip", "annotation", `"nmae"`, `"name"`}, true},
		{"kubeconfig without manifests", map[string]any{"manifests": nil, "kubeconfig": "/etc/kubernetes/kubelet.conf"}, site.Request{Pod: "good"}, []string{`"kubeconfig"`, "API server", `"manifests"`}, true},
		{"the folder of manifests is missing", map[string]any{"manifests": "/nonesuch"}, site.Request{Pod: "good"}, []string{"/nonesuch"}, true},
		{"a key that plexus does not know", map[string]any{"manifest": home.Manifests}, site.Request{Pod: "good"}, []string{`"manifest"`, `"manifests"`}, true},
		{"an interface name that the kernel refuses", nil, site.Request{Pod: "good", IfName: "much-too-long-name"}, []string{"CNI_IFNAME"}, true},
		{"a container ID that leads elsewhere", nil, site.Request{Pod: "good", Sandbox: "../../etc"}, []string{"CNI_CONTAINERID"}, true},
		{"a broken manifest beside those of the pod", nil, site.Request{Pod: "good"}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := home.On(t).With(test.conf)
			r := test.r
			r.Verb = "ADD"
			if r.Sandbox == "" {
				r.Sandbox = site.SandboxID(60)
			}
			if r.Netns == "" && test.name != "CNI_NETNS is empty" {
				r.Netns = p.Path()
			}
			before, inside := s.World(v), site.Links(t, p)
			_, stderr, err := s.Call(r)
			site.NoPanic(t, stderr)
			if test.refuse {
				site.Says(t, err, test.says...)
			} else {
				must.Do(t, err)
				s.MustCheck(r.Sandbox, p, r.Pod)
			}
			home.On(t).MustDel(r.Sandbox, p, r.Pod)
			site.SameWorld(t, before, s.World(v))
			site.SameWorld(t, inside, site.Links(t, p))
		})
	}
}

// Files beside the pod's own that cannot be read hide neither a network of
// confDir that the configuration asks for by name, nor which network is missing.
func TestBrokenNeighbours(t *testing.T) {
	s := site.New(t, nil)
	confDir := filepath.Join(s.Dir, "net.d")
	must.Do(t, os.Mkdir(confDir, 0o755))
	must.WriteFile(t, filepath.Join(confDir, "00-broken.conf"), "{")
	cluster := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
	must.WriteFile(t, filepath.Join(confDir, "10-cluster.conf"), string(must.JSON(t, cluster)))
	s.Manifest("broken.yaml", "kind: [Pod\n")
	s.Pod("plain", "")
	p := site.NewPod(t, "plain")

	named := s.With(map[string]any{"clusterNetwork": "cluster"})
	result, err := named.Add(site.SandboxID(70), p, "plain")
	if err != nil {
		t.Errorf("ADD: %v", err)
	} else if len(result.IPs) != 1 {
		t.Errorf("result %v, want the address of network cluster", result)
	}
	named.MustDel(site.SandboxID(70), p, "plain")

	missing := s.With(map[string]any{"clusterNetwork": "nonesuch"})
	_, err = missing.Add(site.SandboxID(71), p, "plain")
	site.Says(t, err, `network "nonesuch"`, "neither a NetworkAttachmentDefinition", confDir, "broken.yaml")
	missing.MustDel(site.SandboxID(71), p, "plain")
}

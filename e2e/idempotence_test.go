package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
)

// A second ADD of what is attached is refused and says so; the first
// attachment stays as it is, to the last row.
func TestAddTwice(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.pod("twice", "fast")
	p := newPod(t, "twice")
	id := sandboxID(1)
	before := s.world(v)
	s.mustAdd(id, p, "twice")
	attached, inside := s.world(v), links(t, p)

	_, err := s.add(id, p, "twice")
	says(t, err, id, "eth0", "is attached", "DEL it first")
	sameWorld(t, attached, s.world(v))
	sameWorld(t, inside, links(t, p))
	s.mustCheck(id, p, "twice")

	s.mustDel(id, p, "twice")
	sameWorld(t, before, s.world(v))
	s.mustAdd(id, p, "twice") // and now it may be attached again
	s.mustCheck(id, p, "twice")
	s.mustDel(id, p, "twice")
	sameWorld(t, before, s.world(v))
}

// DEL succeeds as often as it is called, also for a sandbox, an interface or a
// pod that never was, and with a container ID that CNI does not allow.
func TestDelOfNothing(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.pod("nothing", "fast")
	p := newPod(t, "nothing")
	before := s.world(v)
	s.mustAdd(sandboxID(2), p, "nothing")
	attached := s.world(v)
	for _, del := range []request{
		{sandbox: sandboxID(3), netns: p.Path(), pod: "nothing"},
		{sandbox: sandboxID(3), netns: p.Path(), pod: "nobody"},
		{sandbox: sandboxID(3)},
		{sandbox: sandboxID(2), netns: p.Path(), pod: "nothing", ifName: "eth7"},
		{sandbox: "..", netns: p.Path(), pod: "nothing"},
		{sandbox: strings.Repeat("a", 300), netns: p.Path(), pod: "nothing"},
	} {
		del.verb = "DEL"
		if _, stderr, err := s.call(del); err != nil {
			t.Errorf("DEL of sandbox %s, interface %q, which never was: %v\n%s", del.sandbox, del.ifName, err, stderr)
		}
		sameWorld(t, attached, s.world(v))
	}
	s.mustCheck(sandboxID(2), p, "nothing")
	for range 3 {
		s.mustDel(sandboxID(2), p, "nothing")
		sameWorld(t, before, s.world(v))
	}
}

// DEL restores the node whatever has gone or changed since ADD: it knows
// everything that it needs.
func TestDelAfterEverythingChanged(t *testing.T) {
	v := startOVS(t)
	home := vhostSite(t, v)
	for n, test := range []struct {
		name string
		// happen is what comes between ADD and DEL; it returns the DEL's site
		// and CNI_NETNS, and how to put things back.
		happen func(t *testing.T, s *site, p *node.Pod) (del *site, netns string, back func())
	}{
		{"CNI_NETNS is empty", func(_ *testing.T, s *site, _ *node.Pod) (*site, string, func()) {
			return s, "", func() {}
		}},
		{"the namespace is gone", func(t *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			must(t, p.Close())
			return s, p.Path(), func() {}
		}},
		{"the namespace is gone and CNI_NETNS is empty", func(t *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			must(t, p.Close())
			return s, "", func() {}
		}},
		{"the NAD is gone", func(t *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			file := filepath.Join(s.manifests, "fast.yaml")
			text := readFile(t, file)
			must(t, os.Remove(file))
			return s, p.Path(), func() { writeFile(t, file, text) }
		}},
		{"the NAD is another network's", func(t *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			file := filepath.Join(s.manifests, "fast.yaml")
			text := readFile(t, file)
			s.nad("fast", map[string]any{"cniVersion": "1.1.0", "type": "nonesuch"})
			return s, p.Path(), func() { writeFile(t, file, text) }
		}},
		{"the Pod is gone", func(t *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			file := filepath.Join(s.manifests, "late.pod.yaml")
			text := readFile(t, file)
			must(t, os.Remove(file))
			return s, p.Path(), func() { writeFile(t, file, text) }
		}},
		{"CNI_ARGS name no pod", func(_ *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			del := *s
			del.as = "plexus"
			return &del, p.Path(), func() {}
		}},
		{"the folder of manifests is gone", func(t *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			away := s.manifests + ".away"
			must(t, os.Rename(s.manifests, away))
			return s, p.Path(), func() {
				must(t, os.Rename(away, s.manifests))
				// It took the status along; it belongs to the manifests.
				must(t, os.Remove(filepath.Join(s.manifests, "late.status.json")))
			}
		}},
		{"the configuration names another cluster network and no manifests", func(_ *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			other := clusterBridge(filepath.Join(s.dir, "other"))
			other["bridge"], other["name"] = "cni9", "other"
			return s.withConf(map[string]any{"name": "node", "manifests": nil, "delegates": []any{other}}), p.Path(), func() {}
		}},
		{"the configuration has another name and the old version", func(_ *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			return s.withConf(map[string]any{"name": "renamed", "cniVersion": "0.3.1"}), p.Path(), func() {}
		}},
		{"CNI_PATH is empty", func(_ *testing.T, s *site, p *node.Pod) (*site, string, func()) {
			del := *s
			del.path = ""
			return &del, p.Path(), func() {}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := home.on(t)
			id := sandboxID(20 + n)
			s.pod("late", "fast")
			before := s.world(v)
			p := newPod(t, "late")
			s.mustAdd(id, p, "late")
			del, netns, back := test.happen(t, s, p)
			pod := "late"
			if strings.HasPrefix(test.name, "CNI_ARGS") {
				pod = ""
			}
			if _, stderr, err := del.call(request{verb: "DEL", sandbox: id, netns: netns, pod: pod}); err != nil {
				t.Errorf("DEL: %v\n%s", err, stderr)
			}
			if _, err := os.Stat(p.Path()); err == nil {
				if inside := links(t, p); strings.Contains(inside, "eth0") {
					t.Errorf("left in the pod:\n%s", inside)
				}
			}
			must(t, p.Close())
			back()
			s.becomesWorld(v, before)
		})
	}
}

// DEL whose CNI_NETNS has become the namespace of another pod undoes the
// former pod and leaves the present one's links alone, also when the kernel gave
// both namespaces the same number.
func TestDelWithAnotherPodsNetns(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.pod("former", "fast")
	before := s.world(v)
	for n, successor := range []string{"with another number", "with the same number"} {
		t.Run(successor, func(t *testing.T) {
			s := s.on(t)
			id := sandboxID(40 + n)
			p := newPod(t, "former")
			s.mustAdd(id, p, "former")
			number := inode(t, p.Path())
			var present *node.Pod
			if n == 0 {
				present = newPod(t, "present")
			}
			must(t, p.Close())
			if n == 1 {
				present = sameInode(t, number)
			}
			writeFile(t, p.Path(), "")
			must(t, unix.Mount(present.Path(), p.Path(), "", unix.MS_BIND, ""))
			must(t, present.Close())
			present = p
			vethInto(t, present)
			inside := links(t, present)
			if !strings.Contains(inside, "eth0") {
				t.Fatalf("the present pod has no eth0:\n%s", inside)
			}
			if err := s.del(id, present, "former"); err != nil {
				t.Errorf("DEL: %v", err)
			}
			sameWorld(t, inside, links(t, present))
			must(t, present.Close())
			s.becomesWorld(v, before)
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
			must(t, p.Close())
		}
	}()
	for n := 0; ; n++ {
		p := newPod(t, fmt.Sprintf("filler%d", n))
		switch have := inode(t, p.Path()); {
		case have == number || n == 200:
			t.Logf("namespace %d has gone, the new one is %d", number, have)
			return p
		case have < number:
			below = append(below, p)
		default: // it is not free yet
			must(t, p.Close())
		}
	}
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Ino
}

// vethInto gives a pod an eth0 with an address, as another plugin would.
func vethInto(t testing.TB, p *node.Pod) {
	t.Helper()
	inPod(t, p, "ip link add eth0 type veth peer name peer0")
	inPod(t, p, "ip addr add 10.99.0.2/24 dev eth0")
	inPod(t, p, "ip link set eth0 up")
}

// After an ADD that was killed, ADD of the same sandbox works without a DEL.
func TestAddAfterKilledAdd(t *testing.T) {
	s, p := newThreeNetworks(t)
	before := s.world(vswitch.running)
	add := request{verb: "ADD", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for at := 1; ; at++ {
		_, err := s.faulty(add, "kill", at)
		if err == nil {
			s.mustDel(faultySandbox, p, "three")
			return
		}
		result, err := s.add(faultySandbox, p, "three")
		if err != nil {
			t.Fatalf("ADD after a kill at step %d: %v", at, err)
		}
		if len(result.IPs) != 3 {
			t.Errorf("ADD after a kill at step %d: %v, want three addresses", at, result.IPs)
		}
		s.mustCheck(faultySandbox, p, "three")
		s.mustDel(faultySandbox, p, "three")
		sameWorld(t, before, s.world(vswitch.running))
		if t.Failed() {
			t.Fatalf("after a kill at step %d", at)
		}
	}
}

// An ADD that cannot be served says why and changes nothing.
func TestAddRefused(t *testing.T) {
	v := startOVS(t)
	home := vhostSite(t, v)
	home.manifest("broken.yaml", "apiVersion: v1\nkind: [Pod\n")
	home.manifest("empty.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: text}\nspec: {config: 'no JSON'}\n")
	home.pod("good", "fast")
	home.pod("lonely", "fast, nonesuch")
	home.pod("texty", "text")
	home.pod("slip", `[{"nmae": "fast"}]`)
	p := newPod(t, "good")
	file := filepath.Join(home.dir, "plain-file")
	writeFile(t, file, "")
	for _, test := range []struct {
		name   string
		conf   map[string]any
		r      request
		says   []string
		refuse bool
	}{
		{"CNI_NETNS is no path", nil, request{netns: "/run/netns/none", pod: "good"}, []string{"CNI_NETNS", "/run/netns/none", "no network namespace"}, true},
		{"CNI_NETNS is a plain file", nil, request{netns: file, pod: "good"}, []string{"CNI_NETNS", file, "no network namespace"}, true},
		{"CNI_NETNS is empty", nil, request{netns: "", pod: "good"}, []string{"ADD", "CNI_NETNS"}, true},
		{"the pod is in no manifest", nil, request{pod: "nobody"}, []string{"pod default/nobody", "no manifest of " + home.manifests}, true},
		{"the NAD is missing", nil, request{pod: "lonely"}, []string{"NetworkAttachmentDefinition default/nonesuch", "does not exist", home.manifests}, true},
		{"the NAD's config is no JSON", nil, request{pod: "texty"}, []string{"NetworkAttachmentDefinition default/text", "config"}, true},
		{"the annotation has a slip", nil, request{pod: "slip"}, []string{"pod default/slip", "annotation", `"nmae"`, `"name"`}, true},
		{"kubeconfig without manifests", map[string]any{"manifests": nil, "kubeconfig": "/etc/kubernetes/kubelet.conf"}, request{pod: "good"}, []string{`"kubeconfig"`, "API server", `"manifests"`}, true},
		{"the folder of manifests is missing", map[string]any{"manifests": "/nonesuch"}, request{pod: "good"}, []string{"/nonesuch"}, true},
		{"a key that plexus does not know", map[string]any{"manifest": home.manifests}, request{pod: "good"}, []string{`"manifest"`, `"manifests"`}, true},
		{"an interface name that the kernel refuses", nil, request{pod: "good", ifName: "much-too-long-name"}, []string{"CNI_IFNAME"}, true},
		{"a container ID that leads elsewhere", nil, request{pod: "good", sandbox: "../../etc"}, []string{"CNI_CONTAINERID"}, true},
		{"a broken manifest beside those of the pod", nil, request{pod: "good"}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := home.on(t).withConf(test.conf)
			r := test.r
			r.verb = "ADD"
			if r.sandbox == "" {
				r.sandbox = sandboxID(60)
			}
			if r.netns == "" && test.name != "CNI_NETNS is empty" {
				r.netns = p.Path()
			}
			before, inside := s.world(v), links(t, p)
			_, stderr, err := s.call(r)
			noPanic(t, stderr)
			if test.refuse {
				says(t, err, test.says...)
			} else {
				must(t, err)
				s.mustCheck(r.sandbox, p, r.pod)
			}
			home.on(t).mustDel(r.sandbox, p, r.pod)
			sameWorld(t, before, s.world(v))
			sameWorld(t, inside, links(t, p))
		})
	}
}

// Files beside the pod's own that cannot be read hide neither a network of
// confDir that the configuration asks for by name, nor which network is missing.
func TestBrokenNeighbours(t *testing.T) {
	s := newSite(t, nil)
	confDir := filepath.Join(s.dir, "net.d")
	must(t, os.Mkdir(confDir, 0o755))
	writeFile(t, filepath.Join(confDir, "00-broken.conf"), "{")
	cluster := clusterBridge(filepath.Join(s.dir, "ipam"))
	writeFile(t, filepath.Join(confDir, "10-cluster.conf"), string(jsonOf(t, cluster)))
	s.manifest("broken.yaml", "kind: [Pod\n")
	s.pod("plain", "")
	p := newPod(t, "plain")

	named := s.withConf(map[string]any{"clusterNetwork": "cluster"})
	result, err := named.add(sandboxID(70), p, "plain")
	if err != nil {
		t.Errorf("ADD: %v", err)
	} else if len(result.IPs) != 1 {
		t.Errorf("result %v, want the address of network cluster", result)
	}
	named.mustDel(sandboxID(70), p, "plain")

	missing := s.withConf(map[string]any{"clusterNetwork": "nonesuch"})
	_, err = missing.add(sandboxID(71), p, "plain")
	says(t, err, `network "nonesuch"`, "neither a NetworkAttachmentDefinition", confDir, "broken.yaml")
	missing.mustDel(sandboxID(71), p, "plain")
}

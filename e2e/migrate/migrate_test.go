package migrate

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// multusCache is where Multus keeps what it needs for DEL, and libcni's cache
// with it, unless its configuration says otherwise.
const multusCache = "/var/lib/cni/multus"

// multusNode is a node that Multus runs: the runtime's folder of configurations,
// and the caches as Multus leaves them.
type multusNode struct {
	*site.Site
	confDir, witness string
	delegates        []map[string]any
}

// newMultusNode has a cluster network of a chain, a second network that is a
// single configuration, and a third one.
func newMultusNode(t *testing.T) *multusNode {
	t.Helper()
	s := site.New(t, nil)
	m := &multusNode{Site: s, confDir: filepath.Join(s.Dir, "etc"), witness: s.InstallWitness()}
	m.delegates = []map[string]any{
		{"cniVersion": "1.0.0", "name": "cluster", "plugins": []any{
			site.Plugin("witness", map[string]any{"colour": "red"}, "portMappings"),
			site.Plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipam": s.HostLocal("10.244.0.0/16")}),
			site.Plugin("portmap", nil, "portMappings"),
		}},
		site.Plugin("witness", map[string]any{"cniVersion": "1.0.0", "name": "second", "colour": "blue"}, "mac"),
		{"cniVersion": "1.0.0", "name": "third", "plugins": []any{
			site.Plugin("witness", nil), site.Plugin("ptp", map[string]any{"ipam": s.HostLocal("10.68.0.0/24")}),
		}},
	}
	s.Conf = must.JSON(t, map[string]any{
		"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus", "logLevel": "verbose",
		"capabilities": map[string]bool{"portMappings": true}, "delegates": m.delegates,
	})
	s.DataDir = "/var/lib/plexus"
	must.Do(t, os.MkdirAll(m.confDir, 0o755))
	must.WriteFile(t, filepath.Join(m.confDir, "00-multus.conf"), string(s.Conf))
	must.WriteFile(t, filepath.Join(m.confDir, "99-loopback.conf"), `{"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}`)
	t.Cleanup(func() { must.Do(t, os.RemoveAll(multusCache)); must.Do(t, os.RemoveAll(s.DataDir)) })
	return m
}

// runtime is what Multus tells libcni of attachment i of a pod.
func (m *multusNode) runtime(i int, sandbox string, p *node.Pod) *libcni.RuntimeConf {
	ports := []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
	rt := &libcni.RuntimeConf{
		ContainerID: sandbox, NetNS: p.Path(), IfName: site.ThreeNames[i],
		Args:           [][2]string{{"IgnoreUnknown", "true"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", p.Name()}, {"K8S_POD_UID", "u-1"}},
		CapabilityArgs: map[string]any{"portMappings": ports},
	}
	if i == 1 {
		rt.CapabilityArgs["mac"] = "02:00:00:00:00:07"
	}
	return rt
}

// listOf is a network as a list of plugins.
func listOf(network map[string]any) map[string]any {
	if network["plugins"] != nil {
		return network
	}
	return map[string]any{"cniVersion": network["cniVersion"], "name": network["name"], "plugins": []any{network}}
}

// each runs a verb of libcni for the pod's attachments, as Multus does.
func (m *multusNode) each(order []int, sandbox string, p *node.Pod, verb func(c *libcni.CNIConfig, l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error) {
	m.T.Helper()
	c := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(m.Path), multusCache, nil)
	for _, i := range order {
		list, err := libcni.NetworkConfFromBytes(must.JSON(m.T, listOf(m.delegates[i])))
		must.Do(m.T, err)
		must.Do(m.T, verb(c, list, m.runtime(i, sandbox, p)))
	}
}

// wire attaches a pod and leaves what Multus leaves: libcni's cache entries, and
// a file of the sandbox with its delegates.
func (m *multusNode) wire(sandbox string, p *node.Pod) {
	m.T.Helper()
	m.each([]int{0, 1, 2}, sandbox, p, func(c *libcni.CNIConfig, l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		_, err := c.AddNetworkList(context.Background(), l, rt)
		return err
	})
	var all []map[string]any
	for i, d := range m.delegates {
		// The digests leave out what plugins call their own; Bytes has it.
		digest := map[string]any{"cniVersion": d["cniVersion"], "name": d["name"], "ipam": map[string]any{}}
		element := map[string]any{
			"Conf": digest, "ConfList": map[string]any{}, "Name": d["name"],
			"IsFilterV4Gateway": false, "IsFilterV6Gateway": false, "Bytes": must.JSON(m.T, d),
		}
		if d["plugins"] != nil {
			var plugins []any
			for _, each := range d["plugins"].([]any) {
				plugins = append(plugins, map[string]any{"type": each.(map[string]any)["type"], "ipam": map[string]any{}})
			}
			element["ConfList"] = map[string]any{"cniVersion": d["cniVersion"], "name": d["name"], "plugins": plugins}
		}
		if i == 1 {
			element["macRequest"] = "02:00:00:00:00:07"
		}
		all = append(all, element)
	}
	must.WriteFile(m.T, filepath.Join(multusCache, sandbox), string(must.JSON(m.T, all)))
}

// unwire is Multus' DEL: last attachment first, then the sandbox' file.
func (m *multusNode) unwire(sandbox string, p *node.Pod) {
	m.T.Helper()
	m.each([]int{2, 1, 0}, sandbox, p, func(c *libcni.CNIConfig, l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return c.DelNetworkList(context.Background(), l, rt)
	})
	must.Do(m.T, os.Remove(filepath.Join(multusCache, sandbox)))
}

// migrate runs plexusctl migrate.
func (m *multusNode) migrate(flags ...string) (string, error) {
	m.T.Helper()
	flags = append([]string{"migrate", "--conf-dir", m.confDir, "--cni-path", m.Path}, flags...)
	out, err := exec.Command(filepath.Join(site.BinDir(m.T), "plexusctl"), flags...).CombinedOutput()
	return string(out), err
}

// cache tells plexusctl where the Multus of today has libcni's cache.
const cache = "--cni-cache=" + multusCache

func (m *multusNode) mustMigrate(flags ...string) string {
	m.T.Helper()
	out, err := m.migrate(flags...)
	if err != nil {
		m.T.Fatalf("migrate %q: %v: %s", flags, err, out)
	}
	return out
}

// plexus is the node's plexus after the migration, as the runtime calls it.
func (m *multusNode) plexus() *site.Site {
	m.T.Helper()
	s := *m.Site
	s.Conf = []byte(must.ReadFile(m.T, filepath.Join(m.confDir, "00-plexus.conf")))
	return &s
}

// texts are all files that a migration may touch, with what is in them.
func (m *multusNode) texts() string {
	m.T.Helper()
	tree, err := node.Tree(m.confDir, "/var/lib/cni", "/var/lib/plexus")
	must.Do(m.T, err)
	files := ""
	for line := range strings.Lines(tree) {
		if strings.Contains(line, "/undone") { // the journal's note, which goes after an hour
			continue
		}
		files += line
		words := strings.Fields(line)
		if strings.HasPrefix(line, "-") {
			files += words[len(words)-1] + ": " + strings.TrimSpace(must.ReadFile(m.T, words[len(words)-1])) + "\n"
		}
	}
	return files
}

// A node with a running pod goes from Multus to plexus: nothing changes before
// --apply, and DEL by plexus runs what Multus' would have run, with the same
// input, and leaves nothing.
func TestMigrate(t *testing.T) {
	m := newMultusNode(t)
	p, id := site.NewPod(t, "migrant"), site.SandboxID(800)
	m.wire(id, p)
	m.unwire(id, p)
	before, files := m.Kernel(p), m.texts()
	type input struct {
		env    []string
		config map[string]any
	}
	byMultus := map[string]input{}
	for _, ifName := range site.ThreeNames {
		env, config := site.Seen(t, m.witness, "DEL-"+ifName)
		byMultus[ifName] = input{env, config}
	}

	m.wire(id, p)
	wired := m.texts()
	out := m.mustMigrate(cache)
	for _, want := range []string{id, "default/migrant", "eth0=cluster", "net1=second", "net2=third", "--apply", `"type": "plexus"`} {
		if !strings.Contains(out, want) {
			t.Errorf("migrate does not print %q:\n%s", want, out)
		}
	}
	site.SameWorld(t, wired, m.texts())
	inside := site.Links(t, p)
	m.mustMigrate(cache, "--apply")
	site.SameWorld(t, inside, site.Links(t, p))
	for _, gone := range []string{filepath.Join(m.confDir, "00-multus.conf"), filepath.Join(multusCache, id)} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is there after --apply", gone)
		}
	}
	applied := m.texts()
	if out, err := m.migrate(cache, "--apply"); err == nil || !strings.Contains(out, "00-plexus.conf") {
		t.Errorf("a second run: %v: %s", err, out)
	}
	site.SameWorld(t, applied, m.texts())

	s := m.plexus()
	if err := s.Check(id, p, "migrant"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	s.MustDel(id, p, "migrant")
	for _, ifName := range site.ThreeNames {
		env, config := site.Seen(t, m.witness, "DEL-"+ifName)
		want := byMultus[ifName]
		// As it was found is where the runtime's own CNI_PATH stands in.
		path := func(e string) bool { return strings.HasPrefix(e, "CNI_PATH=") }
		if !slices.Equal(slices.DeleteFunc(env, path), slices.DeleteFunc(want.env, path)) {
			t.Errorf("DEL %s: environment %q, by Multus %q", ifName, env, want.env)
		}
		if prev, _ := config["prevResult"].(map[string]any); prev["ips"] == nil {
			t.Errorf("DEL %s: prevResult %v", ifName, prev)
		}
		delete(config, "prevResult") // of this ADD, that was of another
		delete(want.config, "prevResult")
		if got, want := string(must.JSON(t, config)), string(must.JSON(t, want.config)); got != want {
			t.Errorf("DEL %s: configuration %s, by Multus %s", ifName, got, want)
		}
	}
	after := m.Kernel(p)
	for _, text := range []string{"/witness/", m.confDir, "/var/lib/plexus"} {
		before, after = site.Without(before, text), site.Without(after, text)
	}
	site.SameWorld(t, before, after)
	if strings.Contains(m.texts(), id) {
		t.Errorf("files of the sandbox are left: before Multus' ADD\n%s\nafter DEL by plexus\n%s", files, m.texts())
	}
}

// A run that is cut short after the journal is written is finished by the next.
func TestMigrateCutShort(t *testing.T) {
	m := newMultusNode(t)
	p, id := site.NewPod(t, "migrant"), site.SandboxID(801)
	m.wire(id, p)
	multus := must.ReadFile(t, filepath.Join(multusCache, id))
	entries, err := filepath.Glob(filepath.Join(multusCache, "results", "*"))
	must.Do(t, err)
	texts := map[string]string{}
	for _, file := range entries {
		texts[file] = must.ReadFile(t, file)
	}
	m.mustMigrate(cache, "--apply")
	want := m.texts()
	must.Do(t, os.Remove(filepath.Join(m.confDir, "00-plexus.conf")))
	must.Do(t, os.Rename(filepath.Join(m.confDir, "00-multus.conf.before-plexus"), filepath.Join(m.confDir, "00-multus.conf")))
	must.WriteFile(t, filepath.Join(multusCache, id), multus)
	for file, text := range texts {
		must.WriteFile(t, file, text)
	}
	m.mustMigrate(cache, "--apply")
	site.SameWorld(t, want, m.texts())
	m.plexus().MustDel(id, p, "migrant")
}

// The way back gives the node to Multus, whose DEL leaves nothing; so it does
// for a pod that plexus attached meanwhile by executables alone.
func TestMigrateBack(t *testing.T) {
	m := newMultusNode(t)
	p, q := site.NewPod(t, "old"), site.NewPod(t, "new")
	m.wire("warmup5", p)
	m.unwire("warmup5", p)
	before := m.Kernel(p) + site.Links(t, q)
	m.wire(site.SandboxID(802), p)
	m.mustMigrate(cache, "--apply")
	s := m.plexus()
	s.MustAdd(site.SandboxID(803), q, "new")
	moved := m.texts()
	out := m.mustMigrate(cache, "--back")
	if !strings.Contains(out, "00-multus.conf comes back") || !strings.Contains(out, "2 sandboxes") || !strings.Contains(out, "--apply") {
		t.Errorf("--back prints %s", out)
	}
	site.SameWorld(t, moved, m.texts())
	m.mustMigrate(cache, "--back", "--apply")
	if got := must.ReadFile(t, filepath.Join(m.confDir, "00-multus.conf")); got != string(m.Conf) {
		t.Errorf("Multus' configuration is %s", got)
	}
	for _, id := range []string{site.SandboxID(802), site.SandboxID(803)} {
		if _, err := os.Stat(s.JournalFile(id)); err == nil {
			t.Errorf("plexus still has a journal of %s", id)
		}
		var delegates []struct {
			Name, IfnameRequest string
			Bytes               []byte
		}
		must.Decode(t, []byte(must.ReadFile(t, filepath.Join(multusCache, id))), &delegates)
		for i, d := range delegates {
			if d.Name != m.delegates[i]["name"] || d.IfnameRequest != "" && d.IfnameRequest != site.ThreeNames[i] || !json.Valid(d.Bytes) {
				t.Errorf("Multus' cache of %s has delegate %d %+v", id, i, d)
			}
		}
	}
	if out, err := m.migrate(cache, "--back", "--apply"); err == nil || !strings.Contains(out, "before-plexus") {
		t.Errorf("a second way back: %v: %s", err, out)
	}
	m.unwire(site.SandboxID(802), p)
	m.unwire(site.SandboxID(803), q)
	after := m.Kernel(p) + site.Links(t, q)
	for _, text := range []string{"/witness/", "/var/lib/plexus"} {
		before, after = site.Without(before, text), site.Without(after, text)
	}
	site.SameWorld(t, before, after)
}

// A pod that a built-in delegate attached cannot go back: it is named, nothing
// is changed, and without it the way is free.
func TestMigrateBackRefused(t *testing.T) {
	v := site.OVS(t)
	m := newMultusNode(t)
	m.mustMigrate(cache, "--apply")
	s := m.plexus()
	builtin := s.With(map[string]any{"delegates": []any{m.delegates[0], site.Vhost(v, s, map[string]any{"name": "fast"})}})
	p := site.NewPod(t, "native")
	builtin.MustAdd(site.SandboxID(804), p, "native")
	before, rows := m.texts(), m.World(v)
	for _, flags := range [][]string{{cache, "--back"}, {cache, "--back", "--apply"}} {
		out, err := m.migrate(flags...)
		for _, want := range []string{site.SandboxID(804), "net1", "ovsdpdk", "delete the pod first"} {
			if !strings.Contains(out, want) {
				t.Errorf("migrate %q does not print %q: %s", flags, want, out)
			}
		}
		if (err != nil) != (len(flags) == 3) {
			t.Errorf("migrate %q: %v: %s", flags, err, out)
		}
		site.SameWorld(t, before, m.texts())
	}
	site.SameWorld(t, rows, m.World(v))
	builtin.MustDel(site.SandboxID(804), p, "native")
	m.mustMigrate(cache, "--back", "--apply")
}

// What cannot be read is named with its file, and --apply changes nothing.
func TestMigrateBroken(t *testing.T) {
	good := must.JSON(t, []any{map[string]any{"Name": "n", "Bytes": []byte(`{"name": "n", "type": "witness"}`)}})
	for name, test := range map[string]struct{ text, says string }{
		"empty":           {"", "list of delegates"},
		"cut short":       {string(good[:len(good)/2]), "list of delegates"},
		"no list":         {`{"Name": "n"}`, "list of delegates"},
		"no delegates":    {`[]`, "list of delegates"},
		"no network":      {string(must.JSON(t, []any{map[string]any{"Name": "n", "Bytes": []byte(`{"type": `)}})), "delegate 0 (n)"},
		"without a type":  {string(must.JSON(t, []any{map[string]any{"Name": "n", "Bytes": []byte(`{"name": "n"}`)}})), `"type"`},
		"without a bytes": {`[{"Name": "n"}]`, "delegate 0 (n)"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMultusNode(t)
			p, id := site.NewPod(t, "sound"), site.SandboxID(805)
			m.wire(id, p)
			must.WriteFile(t, filepath.Join(multusCache, "broken0"), test.text)
			before := m.texts()
			for _, flags := range [][]string{{cache}, {cache, "--apply"}} {
				out, err := m.migrate(flags...)
				if !strings.Contains(out, "sandbox broken0") || !strings.Contains(out, test.says) || (err != nil) != (len(flags) == 2) {
					t.Errorf("migrate %q: %v: %s", flags, err, out)
				}
				site.SameWorld(t, before, m.texts())
			}
			must.Do(t, os.Remove(filepath.Join(multusCache, "broken0")))
			m.mustMigrate(cache, "--apply")
			m.plexus().MustDel(id, p, "sound")
		})
	}
	for name, text := range map[string]string{
		"no JSON": "{", "another plugin first": `{"cniVersion": "1.0.0", "name": "x", "type": "bridge"}`,
	} {
		t.Run("configuration: "+name, func(t *testing.T) {
			m := newMultusNode(t)
			must.WriteFile(t, filepath.Join(m.confDir, "00-multus.conf"), text)
			before := m.texts()
			out, err := m.migrate(cache, "--apply")
			if err == nil || !strings.Contains(out, "00-multus.conf") {
				t.Errorf("migrate: %v: %s", err, out)
			}
			site.SameWorld(t, before, m.texts())
		})
	}
}

package migrate

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// Multus has had libcni's cache in its own folder since 3.8, not in
// /var/lib/cni/results: without a flag it is found there, and so what DEL needs.
func TestMigrateFindsResults(t *testing.T) {
	m := newMultusNode(t)
	t.Cleanup(func() {
		if t.Failed() { // the rules left behind are in the way of other tests
			_ = exec.Command("iptables", "-t", "nat", "-F").Run()
		}
	})
	p, id := site.NewPod(t, "migrant"), site.SandboxID(810)
	m.wire("warmup6", p)
	m.unwire("warmup6", p)
	before := m.Kernel(p)
	m.wire(id, p)
	if out := m.mustMigrate(); !strings.Contains(out, "default/migrant") {
		t.Errorf("migrate does not know the pod:\n%s", out)
	}
	m.mustMigrate("--apply")
	m.plexus().MustDel(id, p, "migrant")
	env, config := site.Seen(t, m.witness, "DEL-eth0")
	if config["runtimeConfig"] == nil || config["prevResult"] == nil || !slices.ContainsFunc(env, func(e string) bool { return strings.Contains(e, "K8S_POD_NAME=migrant") }) {
		t.Errorf("DEL got %v with %q", config, env)
	}
	after := m.Kernel(p)
	for _, text := range []string{"/witness/", m.confDir, "/var/lib/plexus"} {
		before, after = site.Without(before, text), site.Without(after, text)
	}
	site.SameWorld(t, before, after)
}

// The way there and back leaves Multus' cache as it was, what was asked of each
// attachment included: Multus' DEL gives it to the plugins.
func TestMigrateThereAndBack(t *testing.T) {
	m := newMultusNode(t)
	p, id := site.NewPod(t, "migrant"), site.SandboxID(811)
	m.wire(id, p)
	m.mustMigrate(cache, "--apply")
	m.mustMigrate(cache, "--back", "--apply")
	var delegates []struct {
		MacRequest string
		Conf       struct{ Name string }
	}
	must.Decode(t, []byte(must.ReadFile(t, filepath.Join(multusCache, id))), &delegates)
	if delegates[1].MacRequest != "02:00:00:00:00:07" || delegates[1].Conf.Name != "second" {
		t.Errorf("Multus' cache of the second network: %+v, want its macRequest and Conf", delegates[1])
	}
	m.unwire(id, p)
}

// With cniDir, Multus' folder becomes plexus' data folder: what is moved stays
// in place, and is not removed as Multus'.
func TestMigrateWithCNIDir(t *testing.T) {
	m := newMultusNode(t)
	must.WriteFile(t, filepath.Join(m.confDir, "00-multus.conf"), string(site.Changed(t, m.Conf, map[string]any{"cniDir": multusCache})))
	p, id := site.NewPod(t, "migrant"), site.SandboxID(812)
	m.wire(id, p)
	m.mustMigrate(cache, "--apply")
	m.plexus().MustDel(id, p, "migrant")
	if _, config := site.Seen(t, m.witness, "DEL-eth0"); config["prevResult"] == nil {
		t.Error("DEL got no prevResult: --apply has removed the results")
	}
}

// What migrate cannot use of a running pod it tells, rather than losing it.
func TestMigrateTellsWhatIsMissing(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"missing":   os.Remove,
		"cut short": func(file string) error { return os.Truncate(file, 20) },
	} {
		m := newMultusNode(t)
		p, id := site.NewPod(t, "migrant"), site.SandboxID(813)
		m.wire(id, p)
		file := filepath.Join(multusCache, "results", "second-"+id+"-net1")
		text := must.ReadFile(t, file)
		must.Do(t, spoil(file))
		if out, _ := m.migrate(cache); !strings.Contains(out, "second-"+id+"-net1") {
			t.Errorf("%s: migrate does not say that %s is missing:\n%s", name, file, out)
		}
		must.WriteFile(t, file, text)
		m.unwire(id, p)
		must.Do(t, p.Close())
	}
}

// A configuration with which no pod would start is not written: one that names
// no cluster network, by a slip or because Multus' daemon sees the node's files
// elsewhere.
func TestMigrateWithoutClusterNetwork(t *testing.T) {
	for name, text := range map[string]string{
		"a slip": `{"name": "x", "type": "multus", "clusterNetwrk": "y"}`,
		"thick":  `{"name": "x", "type": "multus-shim", "clusterNetwork": "/host/etc/cni/net.d/99-loopback.conf"}`,
	} {
		m := newMultusNode(t)
		must.WriteFile(t, filepath.Join(m.confDir, "00-multus.conf"), text)
		before := m.texts()
		if out, err := m.migrate(cache, "--apply"); err == nil || !strings.Contains(out, "luster") {
			t.Errorf("%s: migrate: %v: %s", name, err, out)
		}
		site.SameWorld(t, before, m.texts())
	}
}

// Multus' daemon sees the node's files below /host; the node does not.
func TestMigrateOfThickMultus(t *testing.T) {
	m := newMultusNode(t)
	file := filepath.Join(m.confDir, "99-loopback.conf")
	must.WriteFile(t, filepath.Join(m.confDir, "00-multus.conf"), `{"cniVersion": "1.0.0", "name": "x", "type": "multus-shim", "clusterNetwork": "/host`+file+`"}`)
	m.mustMigrate(cache, "--apply")
	if conf := string(m.plexus().Conf); !strings.Contains(conf, `"`+file+`"`) {
		t.Errorf("plexus' configuration names no file of this node: %s", conf)
	}
}

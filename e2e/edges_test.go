package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// network-status gives the cluster network's gateway of a family no more when
// default-route has taken that family's default route away from it.
func TestStatusAfterDefaultRoute(t *testing.T) {
	s := routeSite(t)
	for n, test := range []struct {
		gateways string
		want     []string
	}{
		{`"10.247.0.1"`, []string{"eth0 fd00:244::1", "net1 10.247.0.1"}},
		{`"fd00:247::1"`, []string{"eth0 10.244.0.1", "net1 fd00:247::1"}},
		{`"10.247.0.1", "10.247.0.2"`, []string{"eth0 fd00:244::1", "net1 10.247.0.1", "net1 10.247.0.2"}},
	} {
		id, p := sandboxID(700+n), newPod(t, fmt.Sprintf("pending%d", n))
		s.pod("told", `[{"name": "extra", "default-route": [`+test.gateways+`]}]`)
		s.mustAdd(id, p, "told")
		var status []struct {
			Interface string
			Gateway   []string
		}
		decode(t, []byte(s.annotations("told")["k8s.v1.cni.cncf.io/network-status"]), &status)
		var told []string
		for _, each := range status {
			for _, gw := range each.Gateway {
				told = append(told, each.Interface+" "+gw)
			}
		}
		slices.Sort(told)
		if !slices.Equal(told, test.want) {
			t.Errorf("default-route [%s]: gateways of network-status %q, want %q", test.gateways, told, test.want)
		}
		s.mustDel(id, p, "told")
	}
}

// CHECK succeeds on several gateways of a family, which are one route with
// several hops, and names the one that is gone.
func TestCheckOfSeveralGateways(t *testing.T) {
	s := routeSite(t)
	for n, test := range []struct{ gateways, spoil, gone string }{
		{`"10.247.0.1", "10.247.0.2"`, "ip route replace default via 10.247.0.1 dev net1", "10.247.0.2"},
		{`"fd00:247::1", "10.247.0.1", "fd00:247::2", "10.247.0.2"`, "ip -6 route replace default via fd00:247::1 dev net1", "fd00:247::2"},
	} {
		id, p := sandboxID(710+n), newPod(t, fmt.Sprintf("several%d", n))
		s.pod("several", `[{"name": "extra", "default-route": [`+test.gateways+`]}]`)
		s.mustAdd(id, p, "several")
		if err := s.check(id, p, "several"); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		inPod(t, p, test.spoil)
		says(t, s.check(id, p, "several"), "net1", "default route via "+test.gone+" is gone")
		s.mustDel(id, p, "several")
	}
}

// CHECK sees that another network has a default route again, before which the
// one that was asked for counts for nothing.
func TestCheckOfAnotherDefaultRoute(t *testing.T) {
	s := routeSite(t)
	s.pod("stolen", `[{"name": "extra", "default-route": ["fd00:247::1"]}]`)
	p := newPod(t, "stolen")
	s.mustAdd(sandboxID(720), p, "stolen")
	s.mustCheck(sandboxID(720), p, "stolen")
	inPod(t, p, "ip -6 route add default via fd00:244::1 dev eth0 metric 1")
	says(t, s.check(sandboxID(720), p, "stolen"), "net1", "default route", "fd00:244::1")
	s.mustDel(sandboxID(720), p, "stolen")
}

// DEL succeeds when the pod's namespace is gone, also below a plugin that works
// in the namespace alone and fails without one, as sbr does.
func TestDelWithoutNetnsOfSBR(t *testing.T) {
	uplink(t)
	s := pluginSite(t)
	s.pod("gone", "mac")
	p := newPod(t, "gone")
	s.mustAdd(sandboxID(730), p, "gone")
	must(t, p.Close())
	if err := s.del(sandboxID(730), nil, "gone"); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if strings.Contains(s.world(nil), sandboxID(730)) {
		t.Error("files of the sandbox are left behind")
	}
}

// When the folder of manifests has become read-only, no status is published
// there, and so none is to be taken back: nothing keeps the journal.
func TestReadOnlyManifests(t *testing.T) {
	s, _, _ := undoSite(t)
	p := newPod(t, "three")
	must(t, unix.Mount(s.manifests, s.manifests, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(s.manifests, unix.MNT_DETACH)) })
	must(t, unix.Mount("", s.manifests, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := s.add(faultySandbox, p, "three")
	says(t, err, "publish", "read-only file system")
	if _, err := os.Stat(s.journalFile(faultySandbox)); err == nil {
		t.Error("the failed ADD has left a journal")
	}
	if err := s.del(faultySandbox, p, "three"); err != nil {
		t.Errorf("DEL: %v", err)
	}
}

// Multus has had libcni's cache in its own folder since 3.8, not in
// /var/lib/cni/results: without a flag it is found there, and so what DEL needs.
func TestMigrateFindsResults(t *testing.T) {
	m := newMultusNode(t)
	t.Cleanup(func() {
		if t.Failed() { // the rules left behind are in the way of other tests
			_ = exec.Command("iptables", "-t", "nat", "-F").Run()
		}
	})
	p, id := newPod(t, "migrant"), sandboxID(810)
	m.wire("warmup6", p)
	m.unwire("warmup6", p)
	before := m.kernel(p)
	m.wire(id, p)
	if out := m.mustMigrate(); !strings.Contains(out, "default/migrant") {
		t.Errorf("migrate does not know the pod:\n%s", out)
	}
	m.mustMigrate("--apply")
	m.plexus().mustDel(id, p, "migrant")
	env, config := seen(t, m.witness, "DEL-eth0")
	if config["runtimeConfig"] == nil || config["prevResult"] == nil || !slices.ContainsFunc(env, func(e string) bool { return strings.Contains(e, "K8S_POD_NAME=migrant") }) {
		t.Errorf("DEL got %v with %q", config, env)
	}
	after := m.kernel(p)
	for _, text := range []string{"/witness/", m.confDir, "/var/lib/plexus"} {
		before, after = without(before, text), without(after, text)
	}
	sameWorld(t, before, after)
}

// The way there and back leaves Multus' cache as it was, what was asked of each
// attachment included: Multus' DEL gives it to the plugins.
func TestMigrateThereAndBack(t *testing.T) {
	m := newMultusNode(t)
	p, id := newPod(t, "migrant"), sandboxID(811)
	m.wire(id, p)
	m.mustMigrate(cache, "--apply")
	m.mustMigrate(cache, "--back", "--apply")
	var delegates []struct {
		MacRequest string
		Conf       struct{ Name string }
	}
	decode(t, []byte(readFile(t, filepath.Join(multusCache, id))), &delegates)
	if delegates[1].MacRequest != "02:00:00:00:00:07" || delegates[1].Conf.Name != "second" {
		t.Errorf("Multus' cache of the second network: %+v, want its macRequest and Conf", delegates[1])
	}
	m.unwire(id, p)
}

// With cniDir, Multus' folder becomes plexus' data folder: what is moved stays
// in place, and is not removed as Multus'.
func TestMigrateWithCNIDir(t *testing.T) {
	m := newMultusNode(t)
	writeFile(t, filepath.Join(m.confDir, "00-multus.conf"), string(changed(t, m.conf, map[string]any{"cniDir": multusCache})))
	p, id := newPod(t, "migrant"), sandboxID(812)
	m.wire(id, p)
	m.mustMigrate(cache, "--apply")
	m.plexus().mustDel(id, p, "migrant")
	if _, config := seen(t, m.witness, "DEL-eth0"); config["prevResult"] == nil {
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
		p, id := newPod(t, "migrant"), sandboxID(813)
		m.wire(id, p)
		file := filepath.Join(multusCache, "results", "second-"+id+"-net1")
		text := readFile(t, file)
		must(t, spoil(file))
		if out, _ := m.migrate(cache); !strings.Contains(out, "second-"+id+"-net1") {
			t.Errorf("%s: migrate does not say that %s is missing:\n%s", name, file, out)
		}
		writeFile(t, file, text)
		m.unwire(id, p)
		must(t, p.Close())
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
		writeFile(t, filepath.Join(m.confDir, "00-multus.conf"), text)
		before := m.texts()
		if out, err := m.migrate(cache, "--apply"); err == nil || !strings.Contains(out, "luster") {
			t.Errorf("%s: migrate: %v: %s", name, err, out)
		}
		sameWorld(t, before, m.texts())
	}
}

// Multus' daemon sees the node's files below /host; the node does not.
func TestMigrateOfThickMultus(t *testing.T) {
	m := newMultusNode(t)
	file := filepath.Join(m.confDir, "99-loopback.conf")
	writeFile(t, filepath.Join(m.confDir, "00-multus.conf"), `{"cniVersion": "1.0.0", "name": "x", "type": "multus-shim", "clusterNetwork": "/host`+file+`"}`)
	m.mustMigrate(cache, "--apply")
	if conf := string(m.plexus().conf); !strings.Contains(conf, `"`+file+`"`) {
		t.Errorf("plexus' configuration names no file of this node: %s", conf)
	}
}

// A network file that is malformed is passed over with a warning.
func TestWarningOfAMalformedNeighbour(t *testing.T) {
	s, log := policySite(t)
	net := filepath.Join(s.dir, "net.d")
	must(t, os.MkdirAll(net, 0o755))
	writeFile(t, filepath.Join(net, "05-broken.conf"), "{")
	writeFile(t, filepath.Join(net, "10-good.conf"), string(jsonOf(t, policyNetwork("by-name", log))))
	s = s.withConf(map[string]any{"clusterNetwork": "by-name", "delegates": nil, "logLevel": "verbose"})
	p := newPod(t, "warned")
	_, stderr, err := s.call(request{verb: "ADD", sandbox: sandboxID(870), netns: p.Path()})
	must(t, err)
	if !strings.Contains(stderr, "05-broken.conf") {
		t.Errorf("standard error says nothing of 05-broken.conf: %q", stderr)
	}
	s.mustDel(sandboxID(870), p, "")
}

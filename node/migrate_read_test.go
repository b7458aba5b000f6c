package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
)

// What cannot be read of a sandbox is named with its file, and Apply changes nothing.
func TestUnreadableSandbox(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"empty":       {"", "is not Multus' list of delegates"},
		"cut short":   {`[{"Name": "n"`, "is not Multus' list of delegates"},
		"no list":     {`{"Name": "n"}`, "is not Multus' list of delegates"},
		"no element":  {`[]`, "is not Multus' list of delegates"},
		"no network":  {delegatesOf(t, map[string]any{"Name": "n", "Bytes": []byte(`{"type": `)}), "delegate 0 (n)"},
		"no type":     {delegatesOf(t, map[string]any{"Name": "n", "Bytes": []byte(`{"name": "n"}`)}), `"type"`},
		"without any": {`[{"Name": "n"}]`, "delegate 0 (n)"},
	} {
		r := newMultusRig(t, "00-multus.conf")
		r.put("multus/broken", c.text)
		before := r.files()
		m := r.read()
		if len(m.Left) != 1 || !strings.HasPrefix(m.Left[0], "sandbox broken: ") || !strings.Contains(m.Left[0], c.says) || len(m.Records) != 1 {
			t.Errorf("%s: left %q, %d records", name, m.Left, len(m.Records))
		}
		if err := m.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "1 sandboxes cannot be moved") {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, r.files()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// What libcni's cache does not have, or not whole, is said; the pod is moved without it.
func TestMissingResult(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"missing":    os.Remove,
		"cut short":  func(path string) error { return os.Truncate(path, 20) },
		"no file":    func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"of nothing": func(path string) error { return os.WriteFile(path, []byte("{}"), 0o600) },
	} {
		r := newMultusRig(t, "00-multus.conf")
		if err := spoil(filepath.Join(r.Delegates, "results", "fast-"+multusSandbox+"-fast0")); err != nil {
			t.Fatal(err)
		}
		m := r.read()
		if len(m.Missing) != 1 || !strings.Contains(m.Missing[0], "fast-"+multusSandbox+"-fast0") || len(m.Records) != 1 || len(m.Results) != 1 {
			t.Errorf("%s: missing %q, %d records, %d results", name, m.Missing, len(m.Records), len(m.Results))
		}
	}
}

// What Multus leaves out: names of interfaces and networks, the pod.
func TestSparseSandbox(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	config := map[string]any{"Bytes": []byte(`{"cniVersion": "1.0.0", "name": "n", "type": "bridge"}`)}
	r.put("multus/"+multusSandbox, delegatesOf(t, config, config, config))
	r.put("multus/results/n-"+multusSandbox+"-net1", strings.Replace(resultOf(multusSandbox, "n", "net1"), `"web"`, `"No Name"`, 1))
	r.put("multus/results/n-"+multusSandbox+"-net2", strings.Replace(resultOf(multusSandbox, "n", "net2"), `{"cniVersion": "1.0.0", "dns": {}}`, `{"of": "its own"}`, 1))
	tx := r.read().Records[0].Transactions[0]
	for i, want := range []string{"eth0", "net1", "net2"} {
		if e := tx.Attachments[i]; e.IfName != want || e.Name != "n" || e.Default != (i == 0) {
			t.Errorf("attachment %d: %s of %q", i, e.IfName, e.Name)
		}
	}
	if tx.Pod == nil || tx.Pod.Name != "web" { // of the first that is a name of a pod
		t.Errorf("the pod is %v", tx.Pod)
	}
	if got := string(tx.Attachments[2].Result); got != `{"of": "its own"}` {
		t.Errorf("the result that is no CNI result is %s", got)
	}
}

// Configurations that Multus does not run the node by are refused, and named.
func TestNotMultus(t *testing.T) {
	thick := `{"cniVersion": "1.0.0", "name": "m", "type": "multus-shim", "socketDir": "/run/multus/", "clusterNetwork": %q}`
	for name, c := range map[string]struct {
		files []string // name, text
		says  string
	}{
		"none":                    {nil, "has no network configuration"},
		"no JSON":                 {[]string{"00-multus.conf", "{"}, `00-multus.conf comes first in`},
		"another first":           {[]string{"00-a.conf", bridge, "10-multus.conf", multus}, `(type "bridge"): Multus does not run this node`},
		"a list first":            {[]string{"00-a.conflist", calico, "10-multus.conf", multus}, `(type "calico"): Multus does not run this node`},
		"a list of more":          {[]string{"00-multus.conflist", `{"name": "m", "plugins": [{"type": "multus", "clusterNetwork": "x"}, {"type": "portmap"}]}`}, "the list has 2 plugins"},
		"plexus":                  {[]string{"00-plexus.conf", migrated}, `(type "plexus"): Multus does not run this node`},
		"plexus of people":        {[]string{"00-plexus.conf", migrated, "70-multus.conf", `{"name": "m", "type": "multus", "clusterNetwork": "pods"}`}, `00-plexus.conf comes first`},
		"no cluster network":      {[]string{"00-multus.conf", `{"name": "m", "type": "multus", "clusterNetwrk": "x"}`}, "luster"},
		"one that is not there":   {[]string{"00-multus.conf", fmt.Sprintf(thick, "/host/no/such/file")}, "clusterNetwork: stat"},
		"of the wrong kind":       {[]string{"00-multus.conf", `{"name": "m", "type": "multus", "clusterNetwork": "x", "cniDir": 1}`}, "cniDir"},
		"unreadable, of any kind": {[]string{"00-multus.conf/x", ""}, "has no network configuration"},
	} {
		r := &multusRig{Multus: Multus{ConfDir: t.TempDir()}, t: t}
		r.dir = r.ConfDir
		for i := 0; i < len(c.files); i += 2 {
			r.put(c.files[i], c.files[i+1])
		}
		if _, err := FromMultus(r.Multus); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if _, err := FromMultus(Multus{ConfDir: "/no/such/folder"}); err == nil || !strings.Contains(err.Error(), "network configurations: ") {
		t.Errorf("no folder: %v", err)
	}
}

// Multus may be the plugin of a list, which has the name and the version then.
func TestMultusInList(t *testing.T) {
	r := newMultusRig(t, "00-multus.conflist")
	r.put("net.d/00-multus.conflist", `{"cniVersion": "1.0.0", "name": "in-list", "disableCheck": true, "plugins": [
		{"type": "multus", "logLevel": "info", "cniConf": "/x", "clusterNetwork": "pods"}]}`)
	m := r.read()
	if m.settings.Name != "in-list" || m.settings.CNIVersion != "1.0.0" || m.settings.ClusterNetwork != "pods" || !slices.Equal(m.Dropped, []string{"cniConf"}) {
		t.Errorf("%+v, dropped %q", m.settings, m.Dropped)
	}
	if err := m.Apply(t.Context()); err != nil || r.first() != "plexus" {
		t.Errorf("%v, %s is first", err, r.first())
	}
	back, err := ToMultus(r.Multus, func(string) bool { return false })
	if err != nil || filepath.Base(back.To) != "00-multus.conflist" {
		t.Errorf("the way back: %+v, %v", back, err)
	}
}

// Multus' daemon sees the node's files below /host. The keys of the daemon go.
func TestThickMultus(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	file := filepath.Join(r.ConfDir, "99-pods.conf")
	r.put("net.d/00-multus.conf", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "m", "type": "multus-shim", "socketDir": "/run/multus/", "clusterNetwork": %q}`, "/host"+file))
	m := r.read()
	if m.settings.ClusterNetwork != file || !slices.Equal(m.Dropped, []string{"socketDir"}) {
		t.Errorf("cluster network %s, dropped %q", m.settings.ClusterNetwork, m.Dropped)
	}
	if c, err := conf.Parse(m.Conf); err != nil || c.ClusterNetwork != file {
		t.Errorf("%+v, %v", c, err)
	}
}

package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// Networks as others write them.
const (
	calico = `{"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [
		{"type": "calico", "datastore_type": "kubernetes"},
		{"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
		{"type": "bandwidth", "capabilities": {"bandwidth": true, "never": false}}]}`
	flannel  = `{"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel"}]}`
	bridge   = `{"cniVersion": "1.1.0", "name": "node", "type": "bridge", "capabilities": {"ips": true}}`
	multus   = `{"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus", "clusterNetwork": "/host/etc/cni/net.d/10-calico.conflist"}`
	shim     = `{"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "multus-shim", "logLevel": "verbose"}`
	migrated = `{"cniVersion": "0.3.1", "name": "multus-cni-network", "type": "plexus", "clusterNetwork": "/etc/cni/net.d/10-calico.conflist",
		"cniDir": "/var/lib/cni/multus", "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig", "namespaceIsolation": true, "capabilities": {"portMappings": true}}`
	canary = `{"cniVersion": "1.0.0", "name": "canary", "type": "plexus-canary", "clusterNetwork": "/etc/cni/net.d/10-calico.conflist"}`
)

// plugin is our configuration as plexus gets it from the runtime.
func (r *rig) plugin(s State) map[string]any {
	r.t.Helper()
	list, err := libcni.NetworkConfFromFile(s.File)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(list.Plugins) != 1 {
		r.t.Fatalf("%d plugins", len(list.Plugins))
	}
	var keys map[string]any
	if err := json.Unmarshal(list.Plugins[0].Bytes, &keys); err != nil {
		r.t.Fatal(err)
	}
	keys["name"], keys["cniVersion"] = list.Name, list.CNIVersion
	return keys
}

func TestConfigure(t *testing.T) {
	r := newRig(t).settings(`{"logLevel": "debug", "namespaceIsolation": true, "capabilities": {"mac": true}}`)
	r.withAccount()
	r.put("10-calico.conflist", calico)
	r.put("87-podman.conflist", flannel)
	r.put("readme.txt", "nothing")
	r.put("k8s-pod-network/x.conf", `{"type": "tuning", "capabilities": {"infinibandGUID": true}}`)
	s := r.configure()
	if r.in(s.File) != "00-plexus.conflist" || r.in(s.Adopted) != "10-calico.conflist" || !s.Changed {
		t.Errorf("%+v", s)
	}
	want := map[string]any{
		"type": "plexus", "name": "k8s-pod-network", "cniVersion": "0.3.1",
		"clusterNetwork": filepath.Join(r.ConfDir, "10-calico.conflist"),
		"capabilities":   map[string]any{"portMappings": true, "bandwidth": true, "mac": true, "infinibandGUID": true},
		"kubeconfig":     r.Kubeconfig(), "dataDir": r.DataDir, "agent": map[string]any{"socket": r.Socket},
		"logLevel": "debug", "namespaceIsolation": true,
	}
	if diff := cmp.Diff(want, r.plugin(s)); diff != "" {
		t.Error(diff)
	}
	if s.Conf.ClusterNetwork != want["clusterNetwork"] || s.Conf.DataDir != r.DataDir {
		t.Errorf("%+v", s.Conf)
	}
	if st, err := os.Stat(s.File); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	files, err := libcni.ConfFiles(r.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil || files[0] != s.File {
		t.Errorf("the runtime takes %v, %v", files, err)
	}
}

// What is adopted, by the files that are there; ours is written and read again.
func TestConfigureChooses(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   []string // name, text
		file    string   // of ours
		adopted string
		refused string
		note    string
	}{
		{"a single configuration", []string{"10-node.conf", bridge}, "00-plexus.conflist", "10-node.conf", "", ""},
		{"the first of several", []string{"30-a.json", bridge, "20-b.conflist", flannel}, "00-plexus.conflist", "20-b.conflist", "", ""},
		{"nothing yet", nil, "", "", "", "waiting for"},
		{"only what the runtime passes over", []string{"10-a.conf.bak", bridge, "10-b.txt", bridge}, "", "", "", "waiting for"},
		{"half a file first", []string{"05-a.conflist", calico[:80], "10-b.conflist", flannel}, "00-plexus.conflist", "10-b.conflist", "", "05-a.conflist is passed over: it is no network configuration"},
		{"no plugin first", []string{"05-a.conflist", `{"name": "a", "plugins": []}`, "06-b.conf", `{"name": "a"}`, "10-c.conflist", flannel}, "00-plexus.conflist", "10-c.conflist", "", "it names no plugin"},
		{"a name before ours", []string{"00-a.conflist", flannel}, "0-plexus.conflist", "00-a.conflist", "", ""},
		{"another before that", []string{"0-a.conflist", flannel}, "+plexus.conflist", "0-a.conflist", "", ""},
		{"hidden", []string{".a.conflist", flannel}, "+plexus.conflist", ".a.conflist", "", ""},
		{"a sign", []string{"#a.conflist", flannel}, "!plexus.conflist", "#a.conflist", "", ""},
		{"broken, but before ours", []string{"00-a.conflist", "{", "10-b.conflist", flannel}, "0-plexus.conflist", "10-b.conflist", "", "passed over"},
		{"nothing sorts before it", []string{"!!.conflist", flannel}, "", "", `"!!.conflist" sorts before every name`, ""},
		{"Multus", []string{"00-multus.conf", multus, "10-calico.conflist", calico}, "", "", "plexusctl migrate", ""},
		{"Multus thick", []string{"00-multus.conf", shim, "10-calico.conflist", calico}, "", "", "plexusctl migrate", ""},
		{"Multus in a list", []string{"00-multus.conflist", `{"name": "m", "plugins": [` + shim + `]}`}, "", "", "plexusctl migrate", ""},
		{"Multus behind it", []string{"10-calico.conflist", calico, "70-multus.conf", multus}, "00-plexus.conflist", "10-calico.conflist", "", ""},
		{"a canary", []string{"00-canary.conf", canary, "10-calico.conflist", calico}, "", "", `plugin "plexus-canary" runs this node's pods`, ""},
		{"plexus in a chain", []string{"00-x.conflist", `{"name": "m", "plugins": [` + migrated + `,{"type": "tuning"}]}`}, "", "", "it has to be alone", ""},
		{"plexus by hand, wrong", []string{"00-x.conf", `{"name": "m", "type": "plexus", "clusterNetwork": "x", "binDirs": "/x"}`}, "", "", `unknown key "binDirs"`, ""},
		{"plexus by hand, of nothing", []string{"00-x.conf", `{"name": "m", "type": "plexus"}`}, "", "", "it names no cluster network", ""},
		{"of the future", []string{"10-a.conf", `{"cniVersion": "9.0.0", "name": "n", "type": "a"}`, "20-b.conf", bridge}, "", "", "unknown version", ""},
		{"two types", []string{"10-a.conf", `{"name": "n", "type": "multus", "Type": "bridge"}`}, "", "", "differ in case alone", ""},
		{"capabilities that are none", []string{"10-a.conf", `{"name": "n", "type": "a", "capabilities": {"ips": "yes"}}`}, "", "", "capabilities", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			for i := 0; i < len(c.files); i += 2 {
				r.put(c.files[i], c.files[i+1])
			}
			if c.refused != "" {
				s, err := r.Configure(t.Context())
				if err == nil || !strings.Contains(err.Error(), c.refused) || s.File != "" {
					t.Fatalf("%+v, %v, want %q", s, err, c.refused)
				}
				if strings.Contains(r.names(r.ConfDir), "plexus.conflist") {
					t.Errorf("there are %s", r.names(r.ConfDir))
				}
				return
			}
			s := r.configure()
			if r.in(s.File) != c.file || r.in(s.Adopted) != c.adopted {
				t.Errorf("file %q adopts %q, want %q, %q", r.in(s.File), r.in(s.Adopted), c.file, c.adopted)
			}
			if notes := fmt.Sprint(s.Notes); !strings.Contains(notes, c.note) || c.note == "" && len(s.Notes) > 0 {
				t.Errorf("notes %s, want %q", notes, c.note)
			}
		})
	}
}

func TestRefusedIsMultus(t *testing.T) {
	r := newRig(t)
	r.put("00-multus.conf", multus)
	_, err := r.Configure(t.Context())
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.File != filepath.Join(r.ConfDir, "00-multus.conf") {
		t.Errorf("%v", err)
	}
}

// What plexusctl migrate has written is the operator's wish; the installer adds
// what the agent has.
func TestConfigureMigrated(t *testing.T) {
	r := newRig(t).settings(`{"logLevel": "debug"}`)
	r.withAccount()
	r.put("00-plexus.conf", migrated)
	r.put("10-calico.conflist", calico)
	s := r.configure()
	want := map[string]any{
		"type": "plexus", "name": "multus-cni-network", "cniVersion": "0.3.1", "clusterNetwork": "/etc/cni/net.d/10-calico.conflist",
		"capabilities": map[string]any{"portMappings": true}, "cniDir": "/var/lib/cni/multus", "namespaceIsolation": true,
		"kubeconfig": r.Kubeconfig(), "agent": map[string]any{"socket": r.Socket}, "logLevel": "debug",
	}
	if diff := cmp.Diff(want, r.plugin(s)); diff != "" {
		t.Error(diff)
	}
	if r.in(s.File) != "0-plexus.conflist" || s.Conf.DataDir != "/var/lib/cni/multus" || !strings.Contains(fmt.Sprint(s.Notes), "keeps the journal in /var/lib/cni/multus") {
		t.Errorf("%+v", s)
	}
	// plexusctl migrate --back
	r.drop("00-plexus.conf")
	r.put("00-multus.conf", multus)
	s, err := r.Configure(t.Context())
	if err == nil || s.File != "" || strings.Contains(r.names(r.ConfDir), "plexus.conf") {
		t.Errorf("%+v, %v: %s", s, err, r.names(r.ConfDir))
	}
}

// Settings that name the cluster network leave nothing to adopt.
func TestConfigureBySettings(t *testing.T) {
	r := newRig(t).settings(`{"name": "n", "cniVersion": "1.1.0", "delegates": [{"name": "a", "type": "bridge"}], "capabilities": {"ips": true}}`)
	r.put("00-multus.conf", multus)
	s := r.configure()
	if r.in(s.File) != "0-plexus.conflist" || s.Adopted != "" {
		t.Errorf("%+v", s)
	}
	keys := r.plugin(s)
	if keys["name"] != "n" || keys["cniVersion"] != "1.1.0" || keys["clusterNetwork"] != nil {
		t.Errorf("%v", keys)
	}
	r = newRig(t).settings(`{"CLUSTERNETWORK": "kube-system/calico"}`)
	keys = r.plugin(r.configure())
	if keys["name"] != "plexus" || keys["cniVersion"] != "1.0.0" || keys["clusterNetwork"] != "kube-system/calico" {
		t.Errorf("%v", keys)
	}
}

// After the first pass the folder changes; ours follows.
func TestConfigureFollows(t *testing.T) {
	const ours = "00-plexus.conflist"
	for _, c := range []struct {
		name    string
		change  func(r *rig)
		file    string
		adopted string
		changed bool
		refused bool
	}{
		{"nothing", func(*rig) {}, ours, "10-calico.conflist", false, false},
		{"ours is deleted", func(r *rig) { r.drop(ours) }, ours, "10-calico.conflist", true, false},
		{"ours is changed", func(r *rig) { r.put(ours, calico) }, "0-plexus.conflist", ours, true, false},
		{"ours is cut off", func(r *rig) { r.put(ours, "{") }, ours, "10-calico.conflist", true, false},
		{"another sorts first", func(r *rig) { r.put("05-cilium.conflist", flannel) }, ours, "05-cilium.conflist", true, false},
		{"another sorts before ours", func(r *rig) { r.put("00-cilium.conflist", flannel) }, "0-plexus.conflist", "00-cilium.conflist", true, false},
		{"capabilities", func(r *rig) {
			r.put("10-calico.conflist", strings.Replace(calico, `"never": false`, `"never": true`, 1))
		}, ours, "10-calico.conflist", true, false},
		{"the version", func(r *rig) { r.put("10-calico.conflist", strings.Replace(calico, "0.3.1", "1.0.0", 1)) }, ours, "10-calico.conflist", true, false},
		{"the name", func(r *rig) { r.put("10-calico.conflist", strings.Replace(calico, "k8s-pod", "other", 1)) }, ours, "10-calico.conflist", true, false},
		{"what is no concern of ours", func(r *rig) { r.put("10-calico.conflist", strings.Replace(calico, "kubernetes", "etcdv3", 1)) }, ours, "10-calico.conflist", false, false},
		{"it is being written", func(r *rig) { r.put("10-calico.conflist", calico[:50]) }, ours, "10-calico.conflist", false, false},
		{"it is gone", func(r *rig) { r.drop("10-calico.conflist") }, ours, "20-flannel.conflist", true, false},
		{"all are gone", func(r *rig) { r.drop("10-calico.conflist"); r.drop("20-flannel.conflist") }, "", "", true, false},
		{"Multus comes", func(r *rig) { r.put("00-multus.conf", multus) }, "0-plexus.conflist", "10-calico.conflist", true, false},
		{"Multus comes while it is written", func(r *rig) { r.put("00-multus.conf", multus); r.put("10-calico.conflist", "{") }, "0-plexus.conflist", "10-calico.conflist", true, false},
		{"Multus comes back in its place", func(r *rig) { r.put("00-multus.conf", multus); r.drop("10-calico.conflist") }, "", "", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.put("10-calico.conflist", calico)
			r.put("20-flannel.conflist", flannel)
			r.configure()
			c.change(r)
			s, err := r.Configure(t.Context())
			if (err != nil) != c.refused {
				t.Fatal(err)
			}
			if r.in(s.File) != c.file || r.in(s.Adopted) != c.adopted || s.Changed != c.changed {
				t.Errorf("file %q adopts %q, changed %v, want %q, %q, %v", r.in(s.File), r.in(s.Adopted), s.Changed, c.file, c.adopted, c.changed)
			}
			again, err := r.Configure(t.Context())
			if (err != nil) != c.refused || again.Changed || again.File != s.File {
				t.Errorf("a second pass: %+v, %v", again, err)
			}
			if c.file != "" && strings.Count(r.names(r.ConfDir), "plexus.conflist") != 1 && c.adopted != ours {
				t.Errorf("there are %s", r.names(r.ConfDir))
			}
		})
	}
}

// A name once taken stays, as long as it sorts first.
func TestNameStays(t *testing.T) {
	r := newRig(t)
	r.put("10-calico.conflist", calico)
	r.put("00-multus.conf.not", "")
	r.put("00-a.conflist", flannel)
	if s := r.configure(); r.in(s.File) != "0-plexus.conflist" {
		t.Errorf("%+v", s)
	}
	r.drop("00-a.conflist")
	if s := r.configure(); r.in(s.File) != "0-plexus.conflist" || r.in(s.Adopted) != "10-calico.conflist" {
		t.Errorf("%+v", s)
	}
}

// What is no regular file blocks nothing; what cannot be written is named.
func TestConfigureOddFiles(t *testing.T) {
	r := newRig(t)
	for _, do := range []error{
		unix.Mkfifo(filepath.Join(r.ConfDir, "05-fifo.conf"), 0o600),
		os.Symlink("/nowhere", filepath.Join(r.ConfDir, "06-link.conf")),
		os.Symlink("elsewhere/real", filepath.Join(r.ConfDir, "10-link.conflist")),
		os.Mkdir(filepath.Join(r.ConfDir, "07-folder.conf"), 0o755),
		os.WriteFile(filepath.Join(r.ConfDir, "08-huge.conf"), make([]byte, maxFile+1), 0o600),
		os.WriteFile(filepath.Join(r.ConfDir, tempPrefix+"77"), []byte("{"), 0o600),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	r.put("elsewhere/real", calico)
	if s := r.configure(); r.in(s.Adopted) != "10-link.conflist" || len(s.Notes) != 3 {
		t.Errorf("%+v", s)
	}
	if strings.Contains(r.names(r.ConfDir), tempPrefix) {
		t.Errorf("there are %s", r.names(r.ConfDir))
	}
	r = newRig(t)
	r.put("10-calico.conflist", calico)
	if err := os.Mkdir(filepath.Join(r.ConfDir, "00-plexus.conflist"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Configure(t.Context()); !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EISDIR) {
		t.Errorf("error %v", err)
	}
	if err := os.RemoveAll(r.ConfDir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.ConfDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Configure(t.Context()); err == nil || !strings.Contains(err.Error(), "folder of configurations") {
		t.Errorf("error %v", err)
	}
}

// A file that is removed between the folder's list and its own reading is none;
// otherwise it would take our name away.
func TestReadFilesThatAreGone(t *testing.T) {
	r := newRig(t)
	r.put("10-calico.conflist", calico)
	if err := os.Symlink("/nowhere", filepath.Join(r.ConfDir, "06-link.conf")); err != nil {
		t.Fatal(err)
	}
	all := readFiles(r.ConfDir, []string{"00-plexus.conflist", "06-link.conf", "10-calico.conflist"})
	if len(all) != 2 || all[0].name != "06-link.conf" || all[0].err == nil || string(all[1].data) != calico {
		t.Errorf("%v", all)
	}
}

func TestParseSettings(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"  \n", ""}, {"{}", ""},
		{`{"defaultNetworks": ["a"], "parallel": true}`, ""},
		{`{"clusterNetwork": "a", "name": "n"}`, ""},
		{`null`, "it is null"}, {`[]`, "want a JSON object"}, {`{`, "want a JSON object"},
		{`{"type": "multus"}`, `key "type" is set by the installer`},
		{`{"TYPE": "multus"}`, `key "type" is set by the installer`},
		{`{"name": "n"}`, `key "name" is set by the installer`},
		{`{"name": "n", "clusterNetwork": ""}`, `key "name" is set by the installer`},
		{`{"kubeconfig": "/a"}`, `key "kubeconfig"`}, {`{"Agent": {}}`, `key "agent"`}, {`{"dataDir": "/a"}`, `key "dataDir"`},
		{`{"clusterNetwork": "a", "ClusterNetwork": "b"}`, "different case"},
		{`{"logLevel": "loud"}`, `key "logLevel"`}, {`{"logLevels": "debug"}`, `did you mean "logLevel"`}, {`{"cniConf": "/a"}`, `key "cniConf"`}, {`{"note": "a"}`, `key "note"`},
		{`{"clusterNetwork": 7}`, `key "clusterNetwork"`},
	} {
		_, err := ParseSettings([]byte(c.text))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.text, err, c.want)
		}
	}
}

// What deploy/ gives every node is taken by it.
func TestDeployedSettings(t *testing.T) {
	data, err := os.ReadFile("../deploy/kustomize/base/settings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Data map[string]string `json:"data"`
	}
	if err := yaml.Unmarshal(data, &object); err != nil {
		t.Fatal(err)
	}
	if text := object.Data["settings.json"]; text == "" {
		t.Error("no settings")
	} else if _, err := ParseSettings([]byte(text)); err != nil {
		t.Error(err)
	}
}

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

	"github.com/plexus-cni/plexus/journal"
)

// multusSandbox is the sandbox that Multus has attached in the tests.
const multusSandbox = "3f1c9d0a7b52e4d68c10"

// multusRig is a node that Multus runs, in a folder of the test's.
type multusRig struct {
	Multus
	t       *testing.T
	dir     string
	dataDir string // plexus'
	name    string // file of Multus' configuration
}

// newMultusRig has a pod with the cluster network and a second one.
func newMultusRig(t *testing.T, name string) *multusRig {
	t.Helper()
	dir := t.TempDir()
	r := &multusRig{
		Multus: Multus{ConfDir: dir + "/net.d", Delegates: dir + "/multus", BinDirs: []string{"/opt/cni/bin"}},
		t:      t, dir: dir, dataDir: dir + "/plexus", name: name,
	}
	r.put("net.d/"+name, fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus",
		"socketDir": "/run/multus/", "dataDir": %q, "delegates": [{"name": "pods", "type": "bridge"}]}`, r.dataDir))
	r.put("net.d/99-pods.conf", `{"cniVersion": "1.0.0", "name": "pods", "type": "bridge"}`)
	r.put("multus/"+multusSandbox, delegatesOf(t,
		map[string]any{"Name": "pods", "Bytes": []byte(`{"cniVersion": "1.0.0", "name": "pods", "type": "bridge"}`)},
		map[string]any{"Name": "default/fast", "ifnameRequest": "fast0", "macRequest": "02:00:00:00:00:07",
			"Bytes": []byte(`{"cniVersion": "1.0.0", "name": "fast", "plugins": [{"type": "ovsdpdk"}]}`)}))
	r.put("multus/results/pods-"+multusSandbox+"-eth0", resultOf(multusSandbox, "pods", "eth0"))
	r.put("multus/results/fast-"+multusSandbox+"-fast0", resultOf(multusSandbox, "fast", "fast0"))
	return r
}

func delegatesOf(t *testing.T, all ...map[string]any) string {
	t.Helper()
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// resultOf is a file of libcni's cache.
func resultOf(sandbox, network, ifName string) string {
	return fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "ifName": %q, "networkName": %q, "netns": "/run/netns/p",
		"cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID", "u-1"]],
		"capabilityArgs": {"mac": "02:00:00:00:00:07"}, "result": {"cniVersion": "1.0.0", "dns": {}}}`, sandbox, ifName, network)
}

// put writes a file below the rig's folder.
func (r *multusRig) put(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		r.t.Fatal(err)
	}
}

// files are all files of the rig with their contents, by path below its folder.
func (r *multusRig) files() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, r.dir+"/")] = string(data)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func (r *multusRig) read() *Migration {
	r.t.Helper()
	m, err := FromMultus(r.Multus)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// first is the plugin of the runtime's first configuration.
func (r *multusRig) first() string {
	r.t.Helper()
	files, err := readFolder(r.ConfDir)
	if err != nil || len(files) == 0 || files[0].err != nil {
		r.t.Fatalf("%v, %v", files, err)
	}
	return typeOf(files[0].data)
}

// recorded is whether plexus' journal has the sandbox.
func (r *multusRig) recorded(sandbox string) bool {
	r.t.Helper()
	rec, err := journal.Open(r.dataDir).Read(sandbox)
	if err != nil {
		r.t.Error(err)
	}
	return rec != nil && rec.Damage == ""
}

package kube_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

func network(m *kube.Manifests, w conf.Reference) (*conf.Definition, error) {
	return m.Network(context.Background(), w)
}

func TestANetworkOfThePodIsANAD(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", podWeb+"---\n"+nadFast), ConfDir: folder(t, "fast.conf", `{"name": "fast", "type": "file"}`, "extra.conf", `{"name": "extra", "type": "file"}`)}
	t.Run("found by namespace and name", func(t *testing.T) {
		d, err := network(m, wantedNAD("shop", "fast"))
		checkError(t, err)
		checkEqual(t, d, &conf.Definition{Origin: "NetworkAttachmentDefinition shop/fast", Name: "shop/fast", Fallback: "fast", Config: []byte(`{"type": "macvlan", "from": "NAD"}`), OfNode: true})
	})
	for _, test := range []struct{ name, namespace, network string }{
		{"not in another namespace", "lab", "fast"},
		{"not by the name of a file's network", "shop", "extra"},
		{"not by a path", "shop", "/etc/passwd"},
		{"not by a path upwards", "..", "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := network(m, wantedNAD(test.namespace, test.network))
			checkError(t, err, "NetworkAttachmentDefinition "+test.namespace+"/"+test.network, "does not exist", m.Dir)
		})
	}
	t.Run("without a folder of manifests there is none, and the error says why", func(t *testing.T) {
		_, err := network(&kube.Manifests{ConfDir: m.ConfDir}, wantedNAD("shop", "fast"))
		checkError(t, err, "shop/fast", "no folder of manifests")
	})
	t.Run("a broken neighbour hides it not", func(t *testing.T) {
		d, err := network(&kube.Manifests{Dir: folder(t, "a.yaml", broken, "b.yaml", nadFast)}, wantedNAD("shop", "fast"))
		checkError(t, err)
		checkEqual(t, d.Name, "shop/fast")
	})
	t.Run("a broken neighbour is named when it is not found, for it may be in there", func(t *testing.T) {
		_, err := network(&kube.Manifests{Dir: folder(t, "a.yaml", broken, "b.yaml", nadFast)}, wantedNAD("shop", "other"))
		checkError(t, err, "a.yaml", "document 1")
	})
}

func TestANADWithoutConfigIsTheNetworkOfThatNameInConfDir(t *testing.T) {
	const wanted = `{"name": "bare", "type": "bridge"}`
	for _, test := range []struct {
		name, nad string
		files     []string
		file      string // of the answer
	}{
		{"in the file of that name", nadBare, []string{"bare.conf", wanted}, "bare.conf"},
		{"in any file", nadBare, []string{"10-x.conf", `{"name": "x", "type": "x"}`, "20-y.json", wanted}, "20-y.json"},
		{"in a list", nadBare, []string{"y.conflist", `{"name": "bare", "plugins": [{"type": "bridge"}]}`}, "y.conflist"},
		{"the file's name does not count", nadBare, []string{"bare.conf", `{"name": "x", "type": "x"}`, "x.conf", wanted}, "x.conf"},
		{"the first in the order of names", nadBare, []string{"b.conf", wanted, "a.conf", wanted}, "a.conf"},
		{"an empty config is none", nadBare + "spec: {config: \" \\n\"}\n", []string{"y.conf", wanted}, "y.conf"},
		{"a malformed neighbour is skipped", nadBare, []string{"a.conf", "{", "b.conf", `{"name": 7}`, "c.conf", "", "y.conf", wanted}, "y.conf"},
		{"other files are no networks", nadBare, []string{"a.txt", wanted, ".a.conf", wanted, "a.conf.bak", wanted, "y.conf", wanted}, "y.conf"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &kube.Manifests{Dir: folder(t, "nad.yaml", test.nad), ConfDir: folder(t, test.files...)}
			d, err := network(m, wantedNAD("shop", "bare"))
			checkError(t, err)
			file := filepath.Join(m.ConfDir, test.file)
			config, err := os.ReadFile(file)
			checkError(t, err)
			checkEqual(t, d, &conf.Definition{Origin: "NetworkAttachmentDefinition shop/bare (file " + file + ")", Name: "shop/bare", Fallback: "bare", Config: config, OfNode: true})
		})
	}
	t.Run("asked for twice it is the same", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t, "nad.yaml", nadBare), ConfDir: folder(t, "y.conf", wanted)}
		first, err := network(m, wantedNAD("shop", "bare"))
		checkError(t, err)
		second, err := network(m, wantedNAD("shop", "bare"))
		checkError(t, err)
		checkEqual(t, second, first)
	})
	t.Run("none there: both places are named", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t, "nad.yaml", nadBare), ConfDir: folder(t, "x.conf", `{"name": "x", "type": "x"}`)}
		_, err := network(m, wantedNAD("shop", "bare"))
		checkError(t, err, "NetworkAttachmentDefinition shop/bare", m.ConfDir, `"bare"`)
	})
	t.Run("no confDir: the same", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t, "nad.yaml", nadBare), ConfDir: "/does/not/exist"}
		_, err := network(m, wantedNAD("shop", "bare"))
		checkError(t, err, "NetworkAttachmentDefinition shop/bare", "/does/not/exist")
	})
}

func TestANetworkOfTheConfiguration(t *testing.T) {
	const nad = "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: both, namespace: kube-system}\nspec: {config: '{\"type\": \"nad\"}'}\n"
	dir := folder(t, "nad.yaml", nad)
	confDir := folder(t, "10-calico.conflist", `{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}`, "20-both.conf", `{"name": "both", "type": "file"}`)
	m := &kube.Manifests{Dir: dir, ConfDir: confDir}
	first := "file " + filepath.Join(confDir, "10-calico.conflist")
	for _, test := range []struct {
		name, network string
		from          *kube.Manifests
		origin        string
		says          []string
	}{
		{"a NAD of multusNamespace comes first", "both", m, "NetworkAttachmentDefinition kube-system/both", nil},
		{"a network of confDir by its name", "k8s-pod-network", m, first, nil},
		{"the same without a folder of manifests", "k8s-pod-network", &kube.Manifests{ConfDir: confDir}, first, nil},
		{"a folder is its first file", confDir, m, first, nil},
		{"a folder with a slash at its end", confDir + "/", m, first, nil},
		{"an absolute file", filepath.Join(confDir, "20-both.conf"), m, "file " + filepath.Join(confDir, "20-both.conf"), nil},
		{"a name that is nowhere", "nobody", m, "", []string{`"nobody"`, "NetworkAttachmentDefinition", "kube-system", confDir}},
		{"a file's name is not its network's", "10-calico", m, "", []string{`"10-calico"`}},
		{"a relative path is none of these", "net.d/10-calico.conflist", m, "", []string{"absolute path"}},
		{"a file that is not there", "/does/not/exist.conf", m, "", []string{"/does/not/exist.conf"}},
		{"a device", "/dev/null", m, "", []string{"/dev/null", "regular file"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := network(test.from, wantedAnyForm(test.network))
			checkError(t, err, test.says...)
			if test.says == nil {
				checkEqual(t, d.Origin, test.origin)
			}
		})
	}
	t.Run("a file has no name of its own but that of its network", func(t *testing.T) {
		d, err := network(m, wantedAnyForm(filepath.Join(confDir, "20-both.conf")))
		checkError(t, err)
		checkEqual(t, d.Name+"|"+d.Fallback, "|20-both")
	})
	t.Run("an empty folder", func(t *testing.T) {
		empty := folder(t)
		_, err := network(m, wantedAnyForm(empty))
		checkError(t, err, empty, ".conflist")
	})
	t.Run("a pipe is refused rather than waited for", func(t *testing.T) {
		pipe := filepath.Join(t.TempDir(), "x.conf")
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := network(m, wantedAnyForm(pipe))
		checkError(t, err, pipe, "regular file")
	})
	t.Run("a malformed neighbour is skipped", func(t *testing.T) {
		m := &kube.Manifests{ConfDir: folder(t, "a.conf", "{", "b.conf", `{"name": "calico", "type": "calico"}`)}
		d, err := network(m, wantedAnyForm("calico"))
		checkError(t, err)
		checkEqual(t, d.Origin, "file "+filepath.Join(m.ConfDir, "b.conf"))
	})
}

func TestABrokenManifestHidesNoNetworkOfConfDir(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", broken), ConfDir: folder(t, "calico.conf", `{"name": "calico", "type": "calico"}`)}
	d, err := network(m, wantedAnyForm("calico"))
	checkError(t, err)
	checkEqual(t, d.Origin, "file "+filepath.Join(m.ConfDir, "calico.conf"))
	t.Run("yet it is named when the network is nowhere", func(t *testing.T) {
		_, err := network(m, wantedAnyForm("nobody"))
		checkError(t, err, `"nobody"`, m.ConfDir, filepath.Join(m.Dir, "a.yaml"))
	})
}

func TestABrokenNetworkFileIsNamedBesideWhatWasLookedFor(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "nad.yaml", nadBare), ConfDir: folder(t, "a.conf", "{")}
	t.Run("a NAD without config", func(t *testing.T) {
		_, err := network(m, wantedNAD("shop", "bare"))
		checkError(t, err, "NetworkAttachmentDefinition shop/bare", filepath.Join(m.ConfDir, "a.conf"))
	})
	t.Run("a network of the configuration", func(t *testing.T) {
		_, err := network(m, wantedAnyForm("calico"))
		checkError(t, err, `"calico"`, filepath.Join(m.ConfDir, "a.conf"))
	})
}

func TestANADThatIsMissingIsNamedBesideABrokenManifest(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", broken)}
	_, err := network(m, wantedNAD("shop", "fast"))
	checkError(t, err, "NetworkAttachmentDefinition shop/fast", filepath.Join(m.Dir, "a.yaml"))
}

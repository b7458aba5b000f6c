package delegates

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
)

// What is remembered of an attachment is, byte for byte but for the order of keys, what
// libcni keeps of it, and libcni reads it.
func TestRememberedAsByLibcni(t *testing.T) {
	for name, answer := range map[string]string{
		"0.2.0": `{"cniVersion": "0.2.0", "ip4": {"ip": "192.0.2.7/24", "gateway": "192.0.2.1"}, "dns": {}}`,
		"0.4.0": `{"cniVersion": "0.4.0", "interfaces": [{"name": "eth0"}], "ips": [{"version": "4", "interface": 0, "address": "192.0.2.7/24"}], "dns": {"search": ["a"]}}`,
		"1.0.0": `{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}], "routes": [{"dst": "0.0.0.0/0"}]}`,
		"1.1.0": `{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 9000, "sandbox": "/n", "socketPath": "/s"}], "routes": [{"dst": "::/0", "mtu": 1500}], "dns": {}}`,
		"empty": `{"cniVersion": "1.0.0"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script(t, dir, "plugin", "cat > /dev/null; echo '"+answer+"'")
			cniVersion, _, _ := strings.Cut(strings.TrimPrefix(answer, `{"cniVersion": "`), `"`)
			e := &Engine{Journal: OpenJournal(filepath.Join(dir, "data"))}
			entry := &Entry{Network: conf.Network{
				Name: "shop/n", IfName: "eth0", Args: conf.Args{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "p"}}, CapabilityArgs: map[string]any{"ips": []string{"192.0.2.7/24"}},
				List: conf.List{Name: "n", CNIVersion: cniVersion, Plugins: []json.RawMessage{json.RawMessage(`{"type": "plugin", "capabilities": {"ips": true}}`)}},
			}}
			tx := &Transaction{Path: []string{dir}, Attachments: []*Entry{entry}}
			c := e.chain("abc", tx, entry, "/run/netns/x")
			result, err := c.add(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			result.Routes = nil // went to another attachment
			if _, err := os.Stat(c.cacheFile()); err == nil {
				t.Error("it is remembered before the transaction is")
			}
			if err := tx.cache(); err != nil {
				t.Fatal(err)
			}
			list, err := c.list()
			if err != nil {
				t.Fatal(err)
			}
			theirs := libcni.NewCNIConfigWithCacheDir(tx.Path, filepath.Join(dir, "theirs"), nil)
			if _, err := theirs.AddNetworkList(context.Background(), list.NetworkConfigList, c.runtimeConf()); err != nil {
				t.Fatal(err)
			}
			read := func(file string) (v map[string]any) {
				t.Helper()
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(data, &v); err != nil {
					t.Fatal(err)
				}
				return v
			}
			want := read(filepath.Join(dir, "theirs", "results", filepath.Base(c.cacheFile())))
			if diff := cmp.Diff(want, read(c.cacheFile())); diff != "" {
				t.Errorf("libcni keeps (-), plexus (+):\n%s", diff)
			}
			ours := libcni.NewCNIConfigWithCacheDir(nil, e.Journal.DataDir(), nil)
			got, err := ours.GetNetworkListCachedResult(list.NetworkConfigList, c.runtimeConf())
			if err != nil || got == nil {
				t.Fatalf("libcni reads %v, %v", got, err)
			}
			if got.Version() != cniVersion {
				t.Errorf("of version %s", got.Version())
			}
			attached, err := ours.GetCachedAttachments("abc")
			if err != nil || len(attached) != 1 || attached[0].Network != "n" || attached[0].IfName != "eth0" {
				t.Errorf("attachments %+v, %v", attached, err)
			}
			if _, err := version.NewResult(cniVersion, []byte(answer)); err != nil {
				t.Error(err)
			}
		})
	}
}

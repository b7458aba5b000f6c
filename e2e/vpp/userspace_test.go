package vpp

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// The userspace-cni configuration for memif on VPP runs as it is: bridge mode,
// with and without kubeconfig, and L3, where the vswitch has the gateway.
func TestMemifUserspace(t *testing.T) {
	_, stateOf := site.VPPAt(t, "/run/vpp/api.sock")
	ctx := must.Deadline(t)
	example, err := os.ReadFile(filepath.Join(must.Root(t), "examples/userspace-vpp.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := site.New(t, nil)
	s.Conf = must.JSON(t, map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus", "manifests": s.Manifests, "dataDir": s.DataDir, "endpoints": site.Endpoints, "socketDirs": site.SocketDirs,
		"delegates": []any{site.ClusterBridge(filepath.Join(s.Dir, "ipam"))},
	})
	for name, change := range map[string]func(string) string{
		"bridge": func(text string) string { return text },
		"kubeconfig": func(text string) string {
			return strings.Replace(text, `"type": "userspace",`, `"type": "userspace", "kubeconfig": "/etc/k",`, 1)
		},
		"interface": func(text string) string {
			return strings.Replace(text, `"netType": "bridge"`, `"netType": "interface"`, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.T = t
			s.Manifest("example.yaml", change(string(example)))
			site.EmptyDirOf(t, filepath.Join(s.Manifests, "example.yaml"))
			p := site.NewPod(t, "userspace")
			s.MustAdd("warmup000000", p, "userspace-memif")
			s.MustDel("warmup000000", p, "userspace-memif")
			before, state := s.World(nil), stateOf()
			const sandbox = "0958c8871b32f00d"
			r := s.MustAdd(sandbox, p, "userspace-memif")
			socket := r.Interfaces[len(r.Interfaces)-1].SocketPath
			dir := filepath.Dir(socket)
			if !strings.HasSuffix(socket, "/memif-0958c8871b32-net1.sock") || !strings.Contains(dir, "empty-dir/shared-dir") {
				t.Errorf("socket %s", socket)
			}
			data, err := os.ReadFile(filepath.Join(dir, "configData-0958c8871b32-net1.json"))
			if err != nil {
				t.Fatal(err)
			}
			var handed struct {
				Config struct {
					IfType string
					Memif  struct{ Role, Mode, SocketFile string }
				}
			}
			if err := json.Unmarshal(data, &handed); err != nil {
				t.Fatal(err)
			}
			if m := handed.Config.Memif; handed.Config.IfType != "memif" || m.Role != "slave" || m.Mode != "ethernet" || m.SocketFile != filepath.Base(socket) {
				t.Errorf("the container gets %s", data)
			}
			status, err := os.ReadFile(filepath.Join(s.Manifests, "userspace-memif.status.json"))
			if err != nil {
				t.Fatal(err)
			}
			if told := strings.Contains(string(status), "userspace/configuration-data"); told != (name == "kubeconfig") {
				t.Errorf("annotation of the configuration: %v: %s", told, status)
			}
			short := filepath.Join(node.Dir(), "short.sock") // the peer's own way to a path that is too long
			if err := os.Symlink(dir, short); err != nil {
				t.Fatal(err)
			}
			peer, err := memif.Dial(ctx, filepath.Join(short, filepath.Base(socket)), 0, memif.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := peer.WaitLink(ctx); err != nil {
				t.Error(err)
			}
			if name == "interface" {
				own := netip.MustParsePrefix(r.IPs[1].Address.String()).Addr()
				if _, err := peer.Ping(ctx, own, netip.MustParseAddr("10.56.217.1")); err != nil {
					t.Errorf("the gateway: %v", err)
				}
			} else if !strings.Contains(stateOf(), "bridge-domain 4 ") {
				t.Errorf("no bridge domain 4:\n%s", stateOf())
			}
			peer.Close()
			if err := os.Remove(short); err != nil {
				t.Error(err)
			}
			if err := s.Check(sandbox, p, "userspace-memif"); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.MustDel(sandbox, p, "userspace-memif")
			if after := stateOf(); after != state {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, state)
			}
			site.SameWorld(t, before, s.World(nil))
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	s.T = t
}

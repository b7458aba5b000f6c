package site

import (
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
)

// MemifNAD is a network of type vppmemif.
func MemifNAD(api string, s *Site, keys map[string]any) map[string]any {
	all := map[string]any{"cniVersion": "1.1.0", "type": "vppmemif", "apiSocket": api, "socket": map[string]any{"dir": filepath.Join(s.Dir, "memif")}}
	for k, v := range keys {
		all[k] = v
	}
	return all
}

// NewMemif has a bridge cluster network and the memif networks blue, red, tagged and routed
// on the VPP at an API socket.
func NewMemif(t testing.TB, api string) *Site {
	s := New(t, nil)
	s.Conf = must.JSON(t, map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus", "manifests": s.Manifests, "dataDir": s.DataDir, "endpoints": []string{api}, "socketDirs": SocketDirs,
		"delegates": []any{ClusterBridge(filepath.Join(s.Dir, "ipam"))},
	})
	s.NAD("blue", MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}}))
	s.NAD("red", MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "red"}}))
	s.NAD("tagged", MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "vlan": 7}))
	s.NAD("routed", MemifNAD(api, s, map[string]any{"addresses": []any{"192.168.9.1/24"}, "ipam": map[string]any{
		"type": "host-local", "subnet": "192.168.9.0/24", "rangeStart": "192.168.9.10", "dataDir": filepath.Join(s.Dir, "ipam")}}))
	p := NewPod(t, "warmup")
	s.Pod("warmup", "blue, routed")
	s.MustAdd("warmup0", p, "warmup")
	s.MustDel("warmup0", p, "warmup")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

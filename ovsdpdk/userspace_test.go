package ovsdpdk

import (
	"encoding/json"
	"log/slog"
	"testing"
)

func newUserspace(t testing.TB) *Delegate {
	return NewUserspace(slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// userspaceJSON is a userspace-cni configuration; vhost is the host's.
func userspaceJSON(t testing.TB, sharedDir string, vhost map[string]any) json.RawMessage {
	t.Helper()
	return toJSON(t, map[string]any{
		"cniVersion": "1.1.0", "name": "fast", "type": "userspace", "sharedDir": sharedDir,
		"host": map[string]any{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge",
			"vhost": vhost, "bridge": map[string]any{"bridgeName": testBridge}},
		"container": map[string]any{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface"},
	})
}

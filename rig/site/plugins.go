package site

import (
	"path/filepath"
)

// Plugin is a plugin's configuration with the capabilities named.
func Plugin(typ string, keys map[string]any, capabilities ...string) map[string]any {
	all := map[string]any{"type": typ}
	for k, v := range keys {
		all[k] = v
	}
	if len(capabilities) > 0 {
		can := map[string]bool{}
		for _, name := range capabilities {
			can[name] = true
		}
		all["capabilities"] = can
	}
	return all
}

// ChainNAD writes a NAD that is a list of plugins.
func (s *Site) ChainNAD(name string, plugins ...map[string]any) {
	s.T.Helper()
	s.NAD(name, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": plugins})
}

// HostLocal is an ipam of the site.
func (s *Site) HostLocal(subnet string) map[string]any {
	return map[string]any{"type": "host-local", "subnet": subnet, "dataDir": filepath.Join(s.Dir, "ipam")}
}

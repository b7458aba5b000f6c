package site

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
)

// NewKiller has a pod of three networks by executables, whose agent is at the
// socket. The plugin killer stands between the others: when its file told has the
// number of an execution, that one ends its parent.
func NewKiller(t testing.TB) (s *Site, socket string, told func(at int)) {
	t.Helper()
	s = New(t, nil)
	dir := filepath.Join(s.Dir, "killers")
	must.Do(t, os.Mkdir(dir, 0o755))
	// It passes prevResult on, which is the last key of what it gets or none.
	script := `#!/bin/sh
dir=$(dirname "$0")
config=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME" >> "$dir/count"
if [ "$(cat "$dir/told")" = "$(wc -l < "$dir/count")" ]; then
	kill -9 $PPID
	exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
case $config in
*'"prevResult":'*) printf '%s' "$config" | sed 's/.*"prevResult":\({.*}\),"type".*/\1/' ;;
*) echo '{"cniVersion": "1.1.0"}' ;;
esac
`
	must.Do(t, os.WriteFile(filepath.Join(dir, "killer"), []byte(script), 0o755))
	must.WriteFile(t, filepath.Join(dir, "told"), "none")
	must.WriteFile(t, filepath.Join(dir, "count"), "")
	socket = filepath.Join(s.Dir, "a.sock")
	s.Path += ":" + dir
	killer := map[string]any{"type": "killer"}
	list := func(name string, main map[string]any) map[string]any {
		return map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{killer, main, killer}}
	}
	s = s.With(map[string]any{"agent": map[string]any{"socket": socket}, "confDir": nil, "delegates": []any{
		list("cluster", Plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipam": s.HostLocal("10.244.0.0/16")}))}})
	s.NAD("second", list("second", Plugin("ptp", map[string]any{"ipam": s.HostLocal("10.65.0.0/24")})))
	s.Pod("two", "second")
	told = func(at int) {
		must.WriteFile(t, filepath.Join(dir, "count"), "")
		must.WriteFile(t, filepath.Join(dir, "told"), fmt.Sprint(at))
	}
	return s, socket, told
}

// Apart are lines of a world that are the agent's or the killer's own.
func Apart(world string) string {
	return Without(Without(world, "a.sock"), "/killers/")
}

// AgentSandbox is the container ID of the pod of NewKiller.
const AgentSandbox = "abcdef0123456789"

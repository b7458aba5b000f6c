package site

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
)

// witness is a CNI plugin that keeps the environment and the standard input of
// each command in a file, "VERB-IFNAME", beside it.
const witness = `#!/bin/sh
config=$(cat)
{ env | grep '^CNI_' | grep -v '^CNI_COMMAND' | sort; echo "$config"; } > "$(dirname "$0")/$CNI_COMMAND-$CNI_IFNAME"
if [ "$CNI_COMMAND" = ADD ]; then echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.9.9/24"}]}'; fi
`

// InstallWitness puts the plugin into a folder of CNI_PATH, which it returns.
func (s *Site) InstallWitness() string {
	s.T.Helper()
	dir := filepath.Join(s.Dir, "witness")
	must.Do(s.T, os.MkdirAll(dir, 0o755))
	must.Do(s.T, os.WriteFile(filepath.Join(dir, "witness"), []byte(witness), 0o755))
	s.Path += ":" + dir
	return dir
}

// Seen is what the witness got with a command: its environment, and its
// configuration.
func Seen(t testing.TB, dir, command string) (env []string, config map[string]any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(must.ReadFile(t, filepath.Join(dir, command))), "\n")
	must.Decode(t, []byte(lines[len(lines)-1]), &config)
	return lines[:len(lines)-1], config
}

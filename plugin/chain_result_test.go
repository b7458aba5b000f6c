package plugin

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// A plugin's result with a null in it is refused, and nothing panics.
func TestResultsWithNull(t *testing.T) {
	for _, result := range []string{
		`{"cniVersion": "1.1.0", "interfaces": [null]}`, `{"cniVersion": "0.3.1", "interfaces": [null]}`, `{"cniVersion": "1.0.0", "ips": [null]}`,
		`{"cniVersion": "1.0.0", "ips": [{}]}`, `{"cniVersion": "1.0.0", "routes": [null]}`, `{"cniVersion": "1.0.0", "routes": [{}]}`,
	} {
		dir := t.TempDir()
		script := fmt.Sprintf("#!/bin/sh\ncat > /dev/null\n[ \"$CNI_COMMAND\" = ADD ] && echo '%s'\nexit 0\n", result)
		if err := os.WriteFile(filepath.Join(dir, "odd"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		got, err := chainOf(t, Request{Path: []string{dir}}, `{"type": "odd"}`).Add(t.Context())
		if err == nil || !strings.Contains(err.Error(), "result") && !strings.Contains(err.Error(), "internal error") {
			t.Errorf("%s: result %v, error %v", result, got, err)
		}
	}
}

// chainOf is the list of one plugin's configuration, for an attachment net1 of sandbox abc.
func chainOf(t *testing.T, of Request, configs ...string) *Chain {
	t.Helper()
	of.Sandbox, of.Netns = "abc", "/proc/self/ns/net"
	of.Network = conf.Network{Name: "n", IfName: "net1", List: conf.List{CNIVersion: "1.0.0", Name: "n"}}
	for _, config := range configs {
		of.Network.List.Plugins = append(of.Network.List.Plugins, json.RawMessage(config))
	}
	c, err := (&Runner{DataDir: t.TempDir(), Stderr: io.Discard}).Chain(of)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

package delegates

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
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
		e := &Engine{Journal: OpenJournal(dir), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Stderr: io.Discard}
		entry := &Entry{Network: conf.Network{Name: "n", IfName: "net1", List: conf.List{CNIVersion: "1.0.0", Name: "n", Plugins: []json.RawMessage{json.RawMessage(`{"type": "odd"}`)}}}}
		got, err := e.chain("abc", &Transaction{Path: []string{dir}}, entry, "/proc/self/ns/net").add(t.Context())
		if err == nil || !strings.Contains(err.Error(), "result") && !strings.Contains(err.Error(), "internal error") {
			t.Errorf("%s: result %v, error %v", result, got, err)
		}
	}
}

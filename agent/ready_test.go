package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// What one tenant's network waits for keeps the agent from nothing: it is ready while
// the first comparison with the world still goes on.
func TestReadyBesideTheFirstComparison(t *testing.T) {
	dir := t.TempDir()
	fifo, begun := filepath.Join(dir, "fifo"), filepath.Join(dir, "begun")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ncat >/dev/null\n: > " + begun + "\nread -r x < " + fifo + "\n"
	if err := os.WriteFile(filepath.Join(dir, "hang"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cut := record("half", "u1", "/none")
	tx := cut.Transactions[0]
	tx.Phase, tx.Path = journal.PhaseAdding, []string{dir}
	tx.Conf = json.RawMessage(`{"cniVersion":"1.1.0","name":"node","type":"plexus","delegates":[{"type":"hang"}]}`)
	tx.Attachments[0].List = conf.List{CNIVersion: "1.1.0", Name: "one", Plugins: []json.RawMessage{json.RawMessage(`{"type":"hang"}`)}}
	data := filepath.Join(dir, "data")
	write(t, data, cut)
	a := serveAt(t, filepath.Join(dir, "a.sock"), data)
	t.Cleanup(func() { // the plugin ends, and then the agent
		if end, err := os.OpenFile(fifo, os.O_RDWR, 0); err == nil {
			_, _ = end.WriteString("\n")
			_ = end.Close()
		}
	})
	for ctx := bound(t); ; {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the comparison does not begin\n%s", a.log)
		}
		time.Sleep(time.Millisecond)
	}
	if status, text := a.ask("GET", "/readyz"); status != 200 {
		t.Errorf("readyz: %d %s", status, text)
	}
	a.serves()
	if left, err := journal.Open(data).Sandboxes(); err != nil || len(left) != 1 {
		t.Errorf("the comparison has ended: %v %v", left, err)
	}
}

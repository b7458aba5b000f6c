package engine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// standalone is an engine with one executable, "plugin", a shell script, and a request
// for it alone. Dir is the script's folder.
func standalone(t *testing.T, text string) (e *Engine, r *Request, dir string) {
	t.Helper()
	dir = t.TempDir()
	script(t, dir, "plugin", fmt.Sprintf("cd %s; echo $CNI_COMMAND >> executed\n", dir)+text)
	e = &Engine{Journal: openJournal(filepath.Join(dir, "data")), Log: slog.New(slog.DiscardHandler)}
	return e, standaloneRequest(dir), dir
}

func standaloneRequest(dir string) *Request {
	return &Request{
		Network: "n", Stdin: []byte(`{"cniVersion": "1.0.0", "name": "n", "type": "plugin"}`), Sandbox: "abc",
		Netns: "/proc/self/ns/net", IfName: "eth0", Path: []string{dir},
	}
}

// answers passes for a plugin that attaches.
const answers = `cat > config; [ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}]}'`

// executed are the commands that the plugin got.
func executed(t *testing.T, dir string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "executed"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// An ADD that is refused executes nothing: of what is attached, of what is no network
// namespace, of a sandbox that is locked.
func TestARefusedAddExecutesNothing(t *testing.T) {
	t.Parallel()
	e, r, dir := standalone(t, answers)
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got := executed(t, dir); len(got) != 1 {
		t.Fatalf("executed %v, want ADD once", got)
	}
	for range 10 {
		if _, err := e.Add(t.Context(), r); err == nil || !strings.Contains(err.Error(), "DEL it first") {
			t.Errorf("%v, want that it is attached", err)
		}
	}
	none := *r
	none.Sandbox, none.Netns = "none", "/proc/self/exe"
	for range 10 {
		if _, err := e.Add(t.Context(), &none); err == nil || !strings.Contains(err.Error(), "no network namespace") {
			t.Errorf("%v, want that it is no network namespace", err)
		}
	}
	_, held, err := e.Journal.Lock(t.Context(), "locked")
	if err != nil {
		t.Fatal(err)
	}
	locked := *r
	locked.Sandbox = "locked"
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := e.Add(ctx, &locked); err == nil || !strings.Contains(err.Error(), "lock sandbox locked") {
		t.Errorf("%v, want that it is locked", err)
	}
	held.Release()
	if got := executed(t, dir); len(got) != 1 {
		t.Errorf("executed %v, want ADD once", got)
	}
	if err := e.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
}

package journal

import (
	"os"
	"testing"
	"time"
)

// It is noted for an hour that a sandbox is undone, until it is attached again.
func TestUndone(t *testing.T) {
	j := Open(t.TempDir())
	for _, sandbox := range []string{"old", "a", "b"} {
		if err := j.Remove(t.Context(), sandbox); err != nil {
			t.Fatal(err)
		}
		if sandbox == "old" {
			before := time.Now().Add(-2 * keepUndone)
			if err := os.Chtimes(j.undoneFile(sandbox), before, before); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Write(t.Context(), &Record{Sandbox: "b"}); err != nil {
		t.Fatal(err)
	}
	if j.IsUndone("old") || !j.IsUndone("a") || j.IsUndone("b") {
		t.Errorf("undone: old %v, a %v, b %v", j.IsUndone("old"), j.IsUndone("a"), j.IsUndone("b"))
	}
}

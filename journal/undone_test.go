package journal

import (
	"os"
	"testing"
	"time"
)

// It is noted for an hour at least that a sandbox is undone, until it is attached again; the
// notes of former hours go.
func TestUndone(t *testing.T) {
	j, now := Open(t.TempDir()), time.Now()
	j.noteUndone("older", now.Add(-2*keepUndone)) // in the order of time
	j.noteUndone("old", now.Add(-keepUndone))
	j.noteUndone("a", now)
	j.noteUndone("b", now)
	j.noteUndone("last", now.Add(keepUndone))
	j.noteUndone("last", now)
	if _, err := j.Begin(t.Context(), &Record{Sandbox: "b"}, false); err != nil {
		t.Fatal(err)
	}
	for sandbox, want := range map[string]bool{"older": false, "a": true, "b": false, "last": true, "never": false} {
		if j.IsUndone(sandbox) != want {
			t.Errorf("%s: undone %v, want %v", sandbox, !want, want)
		}
	}
	if err := j.Finish(t.Context(), "b"); err != nil || !j.IsUndone("b") {
		t.Errorf("b is not noted: %v", err)
	}
	if _, err := os.Stat(j.undoneFiles("older", now.Add(-2*keepUndone))[0]); err == nil {
		t.Error("the note of a former hour stays")
	}
}

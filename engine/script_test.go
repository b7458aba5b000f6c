package engine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/lock"
)

// script makes an executable of /bin/sh. Nothing is executed by other tests meanwhile: a child
// would have the file open, and who executes it would be told that it is being written.
func script(t testing.TB, dir, name, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// await waits for what must come; its limit is no measure.
func await(t *testing.T, what string, come func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !come(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	await(t, path, func() bool {
		data, err := os.ReadFile(path)
		return err == nil && (len(data) > 0 || !strings.HasSuffix(path, "pid"))
	})
}

// openJournal is a journal whose locks are beside it, so that no privilege is needed.
func openJournal(dir string) *journal.Journal { return withLocks(journal.Open(dir)) }

func withLocks(j *journal.Journal) *journal.Journal {
	j.Locks = lock.Table(filepath.Join(j.DataDir(), "locks"))
	return j
}

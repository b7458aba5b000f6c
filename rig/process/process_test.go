package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/plexus-cni/plexus/rig/process"
)

// A process that ends before it is ready: the error has what it printed, by a pipe or a file.
func TestEndsTooEarly(t *testing.T) {
	for name, o := range map[string]process.Options{
		"pipe": {Name: "early"},
		"file": {Name: "early", Log: filepath.Join(t.TempDir(), "log")},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := process.Start(o, "sh", "-c", "echo what is wrong; echo more >&2; exit 7")
			if err != nil {
				t.Fatal(err)
			}
			err = p.Await(t.Context(), "it is ready", func() (bool, error) { return false, nil })
			for _, part := range []string{"it is ready", "early ended (exit status 7)", "what is wrong\nmore"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v does not say %q", err, part)
				}
			}
			p.Kill() // twice is no error
		})
	}
}

// A process that does not heed SIGTERM is killed, one that does ends as it likes.
func TestStop(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it waits for a process that does not end")
	}
	for trap, want := range map[string]string{"exit 3": "exit 3", "": "killed"} {
		var out process.Buffer
		p, err := process.Start(process.Options{Name: "stubborn", Out: &out}, "sh", "-c", "trap '"+trap+"' TERM; echo up; sleep 600 & wait; wait")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Await(t.Context(), "it is up", func() (bool, error) { return out.String() == "up\n", nil }); err != nil {
			t.Fatal(err)
		}
		p.Stop()
		got := "killed"
		if s := p.Status(); s.Exited() {
			got = "exit 3"
		}
		if got != want {
			t.Errorf("trap %q: %v, want %s", trap, p.Status(), want)
		}
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // what the shell waited for
	}
}

func TestMissing(t *testing.T) {
	_, err := process.Start(process.Options{Name: "none"}, "/nonesuch")
	if !process.Missing(err) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Several writers and readers at once; the last of it is kept, and all of it is passed on.
func TestBuffer(t *testing.T) {
	var all process.Buffer
	b := process.Buffer{Most: 10, To: &all}
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 100 {
				_, _ = b.Write([]byte("xyz"))
				_ = b.String()
			}
		})
	}
	writers.Wait()
	if len(b.String()) != 10 || len(all.String()) != 1200 {
		t.Errorf("%d and %d bytes, want 10 and 1200", len(b.String()), len(all.String()))
	}
}

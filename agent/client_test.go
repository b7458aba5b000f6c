package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A stopped agent does not answer, however long an answer may take; one that has
// confirmed the question may take longer than a confirmation, and so may one of a former
// version.
func TestClientOfAStoppedAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	stopped, err := listenUnix(socket) // it accepts nothing
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = (&Client{Socket: socket}).Ask(ctx, "POST", "/v1/resync", nil)
	var away *AwayError
	if !errors.As(err, &away) || ctx.Err() != nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("%v", err)
	}
}

func TestClientWaitsForTheAnswer(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(confirmTimeout + time.Second) // longer than a confirmation may take
		fmt.Fprint(w, "[]")
	})
	dir := t.TempDir()
	newer, err := listenUnix(filepath.Join(dir, "newer"))
	if err != nil {
		t.Fatal(err)
	}
	older, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "older.new")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "older.new"), filepath.Join(dir, "older")); err != nil {
		t.Fatal(err)
	}
	for name, server := range map[string]*http.Server{"newer": {Handler: confirmed(slow)}, "older": {Handler: slow}} {
		listener := newer
		if name == "older" {
			listener = older
		}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
	}
	for _, name := range []string{"newer", "older"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := (&Client{Socket: filepath.Join(dir, name)}).Ask(bound(t), "POST", "/v1/resync", nil)
			if err != nil || string(data) != "[]" {
				t.Errorf("%q %v", data, err)
			}
		})
	}
}

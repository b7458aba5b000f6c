package engine

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/delegates"
)

// A plugin that takes too long is killed, a stopped one too; the error names the plugin,
// the time and the key.
func TestAPluginThatTakesTooLong(t *testing.T) {
	for name, text := range map[string]string{"sleeps": "exec sleep 1000", "is stopped": "kill -STOP $$", "waits for a child": "echo help >&2; sleep 1000 & echo $! > child; wait"} {
		t.Run(name, func(t *testing.T) {
			e, r, dir := standalone(t, "[ $CNI_COMMAND = ADD ] || exit 0\n"+text)
			e.PluginTimeout = 700 * time.Millisecond
			_, err := e.Add(t.Context(), r)
			var coded *delegates.Error
			if !errors.As(err, &coded) || coded.Code != delegates.CodeTryAgain {
				t.Fatalf("%v, want code 11", err)
			}
			for _, want := range []string{`"plugin"`, "700ms", "pluginTimeout"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q in it", err, want)
				}
			}
			ended(t, filepath.Join(dir, "child"))
			if got := executed(t, dir); strings.Join(got, " ") != "ADD DEL" {
				t.Errorf("executed %v, want ADD and what undoes it", got)
			}
		})
	}
	e, r, _ := standalone(t, "[ $CNI_COMMAND = DEL ] && exec sleep 1000\n"+answers)
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	e.PluginTimeout = 500 * time.Millisecond
	if err := e.Del(t.Context(), r); err == nil || !strings.Contains(err.Error(), "pluginTimeout") {
		t.Errorf("DEL: %v, want that the plugin took too long", err)
	}
}

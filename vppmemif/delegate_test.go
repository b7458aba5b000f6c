package vppmemif

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/standin"
)

// Parse returns its warnings and logs none, and refuses so that the caller knows whose
// mistake it is.
func TestDelegateParse(t *testing.T) {
	r := newRig(t, standin.Options{})
	var log strings.Builder
	d := New(slog.New(slog.NewTextHandler(&log, nil)))
	s := r.attachment(sandboxA, map[string]any{"somethingElse": 1})
	n, warnings, err := d.Parse("default/fast", s.Conf)
	if err != nil || n.Endpoint() != r.Socket() {
		t.Errorf("%v, %v", n, err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "somethingElse") || log.Len() > 0 {
		t.Errorf("warnings %q, log %q", warnings, &log)
	}
	_, _, err = d.Parse("default/fast", json.RawMessage(`{"role": "x"}`))
	wantError(t, err, `"role"`, "default/fast")
	if refusal := (*conf.Refusal)(nil); !errors.As(err, &refusal) {
		t.Errorf("%v is no refusal", err)
	}
}

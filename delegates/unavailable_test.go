package delegates

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

// One endpoint that is away does not hide what another one has answered.
func TestAllUnavailable(t *testing.T) {
	vpp := &Unavailable{Endpoint: "/run/vpp/api.sock", Kind: "VPP", Err: fs.ErrNotExist, Hint: "is it running?"}
	ovsdb := &Unavailable{Endpoint: "unix:/run/db.sock", Kind: "OVSDB", Err: errors.Join(errors.New("no answer"), errors.New("twice")), Hint: "is it running?"}
	refused := errors.New("refused")
	for _, c := range []struct {
		name      string
		err       error
		want      int
		temporary bool
	}{
		{"nil", nil, 0, false},
		{"one", vpp, 1, true},
		{"wrapped", fmt.Errorf("undo net1: %w", vpp), 1, true},
		{"joined", fmt.Errorf("sweep: %w", errors.Join(vpp, nil, fmt.Errorf("undo: %w", ovsdb))), 2, true},
		{"with a refusal before", errors.Join(refused, vpp), 0, false},
		{"with a refusal behind", errors.Join(fmt.Errorf("x: %w", vpp), fmt.Errorf("y: %w", refused)), 0, false},
		{"in one text with a refusal", fmt.Errorf("%w: %w", vpp, refused), 0, false},
		{"cancelled", context.DeadlineExceeded, 0, true},
		{"cancelled as well", errors.Join(context.DeadlineExceeded, vpp), 0, true},
		{"another", refused, 0, false},
	} {
		if got := AllUnavailable(c.err); len(got) != c.want {
			t.Errorf("%s: %d endpoints, want %d", c.name, len(got), c.want)
		}
		if got := IsTemporary(c.err); got != c.temporary {
			t.Errorf("%s: temporary is %v", c.name, got)
		}
	}
	if !errors.Is(vpp, fs.ErrNotExist) {
		t.Error("the cause is not found")
	}
}

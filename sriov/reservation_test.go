package sriov

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// A reservation whose writer was killed before it was in place goes with the next
// sweep, and no reservation that is in place.
func TestHalfReservations(t *testing.T) {
	if err := os.MkdirAll(reservationDir, 0o700); err != nil {
		t.Fatal(err)
	}
	whole := &reservation{PCI: "0000:7f:10.1", Owner: "o", Sandbox: "s", IfName: "net1", Original: snapshot{Incarnation: 1}}
	if err := whole.write(); err != nil {
		t.Fatal(err)
	}
	half := reservationFile("0000:7f:10.0") + ".new"
	if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	keep := func(string, string) bool { return true }
	if err := errors.Join(New(slog.New(slog.DiscardHandler)).Sweep(t.Context(), "o", nil, conf.Bounds{}, keep)...); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("the half is still there")
	}
	if c, err := readReservation(whole.PCI); err != nil || c == nil {
		t.Errorf("the whole one: %v, %v", c, err)
	}
	if err := whole.remove(); err != nil {
		t.Error(err)
	}
}

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// sweeps is a delegate whose vswitches answer Sweep with errors.
type sweeps struct {
	passthru
	errs []error
}

func (s sweeps) Sweep(context.Context, string, []string, conf.Bounds, func(string, string) bool) []error {
	return s.errs
}

// DEL without a record is no success when one vswitch has answered that something cannot
// be undone, though another one does not answer. One that does not answer alone is no
// reason to fail.
func TestSalvageJudgesEachEndpoint(t *testing.T) {
	away := func(address string) error {
		return fmt.Errorf("interface x: %w", &delegates.Unavailable{Endpoint: address, Kind: "OVSDB", Err: errors.New("no answer"), Hint: "is it running?"})
	}
	refused := errors.New("delete port: OVSDB refused it")
	for _, c := range []struct {
		name string
		errs []error
		want string // in the error, "" for none
	}{
		{"away", []error{away("a")}, ""},
		{"two away", []error{away("a"), away("b")}, ""},
		{"refused", []error{refused}, "refused"},
		{"refused, and another away", []error{refused, away("b")}, "refused"},
		{"away, and another refused", []error{away("a"), refused}, "refused"},
		{"one endpoint refuses and goes away", []error{errors.Join(refused, away("a"))}, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Engine{
				Delegates: map[string]delegates.Delegate{"fake": sweeps{errs: c.errs}}, Journal: openJournal(t.TempDir()), Log: slog.New(slog.DiscardHandler),
			}
			err := e.Del(t.Context(), &Request{Sandbox: "abc", IfName: "net1", Network: "n", Stdin: []byte(`{"cniVersion": "1.1.0", "name": "n", "type": "fake"}`)})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("DEL: %v, want %q", err, c.want)
			}
		})
	}
}

// An error has the code for "try again" when all of it may be gone then.
func TestCodeOfJoinedErrors(t *testing.T) {
	away := &delegates.Unavailable{Endpoint: "a", Kind: "VPP", Err: errors.New("no answer")}
	for _, c := range []struct {
		err  error
		want uint
	}{
		{fmt.Errorf("add: %w", away), delegates.CodeTryAgain},
		{errors.Join(away, fmt.Errorf("undo: %w", away)), delegates.CodeTryAgain},
		{errors.Join(away, errors.New("refused")), delegates.CodeConfig},
	} {
		var got *delegates.Error
		if !errors.As(delegates.Coded(delegates.CodeConfig, c.err), &got) || got.Code != c.want {
			t.Errorf("%v: %+v, want code %d", c.err, got, c.want)
		}
	}
}

// looks is a delegate whose Inspect waits until all of a pod's attachments are looked at.
type looks struct {
	passthru
	all *sync.WaitGroup
}

// Parse is delegates.Delegate.
func (l looks) Parse(string, []byte) (delegates.Network, []string, error) {
	return looking{all: l.all}, nil, nil
}

type looking struct {
	delegates.BaseNetwork
	all *sync.WaitGroup
}

// Inspect is delegates.Network.
func (l looking) Inspect(ctx context.Context, a *delegates.Attachment) (map[string]string, error) {
	l.all.Done()
	l.all.Wait()
	if a.IfName == "net2" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return map[string]string{"name": a.IfName}, nil
}

// What does not answer keeps no other attachment from being told.
func TestInspectTogether(t *testing.T) {
	all := &sync.WaitGroup{}
	e := &Engine{Delegates: map[string]delegates.Delegate{"fake": looks{all: all}}, Journal: openJournal(t.TempDir()), Log: slog.New(slog.DiscardHandler)}
	tx := &journal.Transaction{Phase: journal.PhaseAttached}
	for i := range 3 {
		list := conf.List{CNIVersion: "1.1.0", Name: "n", Plugins: []json.RawMessage{json.RawMessage(`{"type": "fake"}`)}}
		tx.Attachments = append(tx.Attachments, &journal.Entry{Network: conf.Network{Name: "n", IfName: fmt.Sprint("net", i+1), List: list}})
		all.Add(1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		all.Wait()
		cancel()
	}()
	found := e.Inspect(ctx, &journal.Record{Sandbox: "abc", Transactions: []*journal.Transaction{tx}})
	for i, d := range found {
		name := fmt.Sprint("net", i+1)
		if told := d.Facts["fake"]["name"] == name; d.IfName != name || told == (i == 1) {
			t.Errorf("%d: %+v", i, d)
		}
		if away := strings.Contains(d.Differences, context.Canceled.Error()); away != (i == 1) {
			t.Errorf("%s: %q", name, d.Differences)
		}
	}
}

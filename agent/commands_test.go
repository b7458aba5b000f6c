package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/podnet"
)

// Executables that are gone are in the way of a sandbox. An operator gives up what they have
// made: the log, the history, an event on the pod and a metric tell it.
func TestAbandon(t *testing.T) {
	var events []string
	inner := apiOf(t, `{"metadata":{"namespace":"ns","name":"pod","uid":"u1"},"spec":{"nodeName":"n"},"status":{"phase":"Running"}}`).Config.Handler
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			text, _ := io.ReadAll(r.Body)
			events = append(events, string(text))
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(api.Close)
	a, log := unservedWith(t, api.URL)
	j := a.store.journal
	for _, alone := range []bool{false, true} {
		events = nil
		write(t, j.DataDir(), stuckRecord("abc1"))
		reclaim := func(query string, abandon ...string) (int, string) {
			if alone {
				force := strings.Contains(query, "force")
				r, err := Reclaim(t.Context(), j.DataDir(), "abc", force, abandon, slog.New(slog.NewTextHandler(log, nil)), io.Discard)
				if err != nil {
					return 500, err.Error()
				}
				text, err := json.Marshal(r)
				return 200, fmt.Sprint(string(text), err)
			}
			for _, name := range abandon {
				query += "&abandon=" + name
			}
			w := &kept{header: http.Header{}, status: 200}
			a.inspection.reclaim(w, httptest.NewRequest("POST", "/v1/reclaim?sandbox=abc"+query, nil))
			return w.status, w.body.String()
		}
		for _, c := range []struct {
			query, abandon string
			status         int
			want           string
		}{
			{"", "net1", 409, "is alive"},
			{"&force=true", "", 500, "plexusctl reclaim abc1 --abandon net1"},
			{"", "net7", 500, "no attachment"}, // the sandbox is being removed by now
			{"", "net1", 200, `"abandoned":["net1 (network lost): abandoned by an operator; left may be link net1, address 192.0.2.7/24: gone: `},
		} {
			var abandon []string
			if c.abandon != "" {
				abandon = []string{c.abandon}
			}
			if status, text := reclaim(c.query, abandon...); status != c.status && !(alone && status == 500) || !strings.Contains(text, c.want) {
				t.Errorf("alone %v, %+v: %d %s", alone, c, status, text)
			}
		}
		if left, err := j.Sandboxes(); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
		if !strings.Contains(strings.Join(events, "\n"), "NetworkAbandoned") && !alone || !strings.Contains(log.String(), "abandoned by an operator") {
			t.Errorf("events %q, log %s", events, log)
		}
	}
	history, _ := json.Marshal(a.inspection.telemetry.history.last("abc1", 9))
	if !strings.Contains(string(history), "net1: abandon net1 (network lost): abandoned by an operator") {
		t.Errorf("history: %s", history)
	}
	w := &kept{header: http.Header{}, status: 200}
	a.inspection.telemetry.metrics.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.body.String(), "plexus_abandoned_total 1\n") {
		t.Errorf("the metrics lack it:\n%s", w.body.String())
	}
}

// stuckRecord is a sandbox in this process' network namespace, with an attachment whose plugin
// is gone.
func stuckRecord(sandbox string) *journal.Record {
	rec := record(sandbox, "u1", "/proc/self/ns/net")
	tx := rec.Transactions[0]
	tx.NetnsID = podnet.ID(tx.Netns)
	tx.Attachments = append(tx.Attachments, &journal.Entry{
		Network: conf.Network{Name: "lost", IfName: "net1", List: conf.List{CNIVersion: "1.1.0", Name: "lost", Plugins: []json.RawMessage{json.RawMessage(`{"type":"gone"}`)}}},
		Result:  json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"192.0.2.7/24"}]}`),
	})
	return rec
}

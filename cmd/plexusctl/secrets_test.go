package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

const memifSecret = "s3cr3t-of-a-memif"

// withSecret is a record that has a secret wherever a configuration is recorded.
func withSecret(t *testing.T) *journal.Record {
	rec := left(t)
	plugin := `{"type": "vppmemif", "secret": "` + memifSecret + `", "prevResult": {"x": {"token": "` + memifSecret + `"}}}`
	tx := rec.Transactions[0]
	tx.Conf = json.RawMessage(`{"name": "node", "type": "plexus", "delegates": [{"plugins": [` + plugin + `]}]}`)
	tx.Networks = `[{"name": "shm", "cni-args": {"secret": "` + memifSecret + `"}}]`
	entry := tx.Attachments[1]
	entry.List = list(plugin)
	entry.Origin = json.RawMessage(`{"Bytes": ` + string(mustJSON(t, []byte(plugin))) + `, "Conf": ` + plugin + `}`)
	entry.Args = conf.Args{{"SECRET", memifSecret}}
	entry.CapabilityArgs = map[string]any{"wifi": map[string]any{"password": memifSecret}}
	entry.State = map[string]json.RawMessage{"vppmemif": json.RawMessage(`{"secret": "` + memifSecret + `"}`)}
	return rec
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// No command shows a secret, in no form: of an agent that hides them or not, and of the
// journal.
func TestSecretsAreHidden(t *testing.T) {
	rec := withSecret(t)
	x := explanation(t)
	x.Journal, x.Annotation, x.Plan = []*journal.Record{rec}, rec.Transactions[0].Networks, []conf.Network{rec.Transactions[0].Attachments[1].Network}
	_, host := serving(t, with(t, map[string]any{
		"GET /v1/attachments":                agent.Attachments{Node: "n1", Sandboxes: []*journal.Record{rec}, Damaged: []string{}},
		"GET /v1/explain?pod=default%2Fleft": x,
		"GET /v1/history":                    []agent.Event{{Verb: "ADD", Error: `{"secret": "` + memifSecret + `"}`, Steps: []agent.Step{}}},
	}))
	dir := t.TempDir()
	if err := journal.Open(dir).Write(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"pods", host}, {"pods", "left", host}, {"explain", "left", host}, {"history", host}, {"show", "--data-dir", dir}} {
		for _, f := range forms() {
			out, errs, status := execute(t, "plexusctl", append(command, "-o", f)...)
			if status != 0 {
				t.Errorf("%v -o %s: exit %d: %s", command, f, status, errs)
			}
			encoded := string(mustJSON(t, []byte(memifSecret)))
			if strings.Contains(out+errs, memifSecret) || strings.Contains(out, encoded[1:8]) {
				t.Errorf("%v -o %s shows the secret:\n%s", command, f, out+errs)
			}
			if f == "json" && command[0] != "history" && (!strings.Contains(out, `"secret": "(hidden)"`) || !strings.Contains(out, "SECRET")) {
				t.Errorf("%v -o %s: it does not say that there is one:\n%s", command, f, out)
			}
		}
	}
	if kept, err := journal.Open(dir).Read(rec.Sandbox); err != nil || !strings.Contains(string(kept.Transactions[0].Conf), memifSecret) {
		t.Errorf("the journal keeps what DEL needs: %v", err)
	}
}

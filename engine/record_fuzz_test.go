package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// FuzzRecord feeds the body of a journal file whose checksum is right, as an
// older plexus or plexusctl migrate may have written it: what DEL makes of it
// does not panic, and it is read again as it is.
func FuzzRecord(f *testing.F) {
	add := func(rec *journal.Record) {
		body, err := json.Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	add(recorded())
	for _, config := range exampleNetworks(f) {
		d := conf.Definition{Origin: "example", Fallback: "example", Config: config}
		list, err := d.ParseList("")
		if err != nil {
			f.Fatal(err)
		}
		rec := recorded()
		rec.Transactions[0].Attachments[0].List = *list
		rec.Transactions[0].Attachments[0].CapabilityArgs = map[string]any{"mac": "02:00:00:00:00:01"}
		add(rec)
	}
	f.Add([]byte(`{"sandbox": "abc"}`))
	f.Add([]byte(`{"sandbox": "abc", "transactions": [{"attachments": [{"list": {"plugins": [null]}, "state": null, "args": [["A", "b"]]}]}]}`))
	e := &Engine{Delegates: Builtin(slog.New(slog.NewTextHandler(io.Discard, nil))), Journal: openJournal(f.TempDir())}
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		head := fmt.Sprintf("{\"plexusJournal\":1,\"sha256\":\"%x\"}\n", sum)
		rec, why := journal.Decode("abc", slices.Concat([]byte(head), body, []byte("\n")))
		if (rec == nil) == (why == "") {
			t.Fatalf("record %v, reason %q", rec, why)
		}
		if rec == nil {
			return
		}
		for _, tx := range rec.Transactions {
			e.open(rec.Sandbox, tx, tx.Attachments, "")
		}
		if rec.Find("eth0") != nil {
			rec.Remove(rec.Find("eth0"))
		}
		if err := e.Journal.Write(context.Background(), rec); err != nil {
			return
		}
		again, err := e.Journal.Read("abc")
		if err != nil {
			t.Fatalf("written and read again: %v", err)
		}
		first, _ := json.Marshal(rec)
		second, _ := json.Marshal(again)
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Errorf("written and read again: %s", diff)
		}
	})
}

// exampleNetworks are the JSON objects with a type in examples/*.conf, and
// configs of the NADs in examples/*.yaml.
func exampleNetworks(f *testing.F) [][]byte {
	f.Helper()
	files, err := filepath.Glob("../examples/*")
	if err != nil || len(files) == 0 {
		f.Fatal("no examples", err)
	}
	var all [][]byte
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for at := range data {
			if data[at] != '{' {
				continue
			}
			var network map[string]any
			dec := json.NewDecoder(bytes.NewReader(data[at:]))
			if dec.Decode(&network) != nil || network["type"] == nil || network["type"] == "plexus" || network["type"] == "multus" || network["subnet"] != nil {
				continue
			}
			if text, err := json.Marshal(network); err == nil {
				all = append(all, text)
			}
		}
	}
	return all
}

func recorded() *journal.Record {
	return &journal.Record{Sandbox: "abc", Transactions: []*journal.Transaction{{
		Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Netns: "/run/netns/a", NetnsID: "4:17", Pod: &conf.Pod{Namespace: "default", Name: "a", UID: "u-1"},
		Attachments: []*journal.Entry{{
			Network: conf.Network{Name: "default/fast", IfName: "net1", List: conf.List{CNIVersion: "1.1.0", Name: "fast", Plugins: []json.RawMessage{json.RawMessage(`{"type":"ovsdpdk"}`)}}},
			State:   map[string]json.RawMessage{"ovsdpdk": json.RawMessage(`{"port":"vhu1"}`)},
		}},
	}}}
}

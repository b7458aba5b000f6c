package agent

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// The agent answers no secret of a pod's networks; its journal keeps them.
func TestNoSecretIsAnswered(t *testing.T) {
	a := serving(t)
	const secret = "s3cr3t-of-a-memif"
	rec := record("aaaa", "u1", "/none")
	tx := rec.Transactions[0]
	plugin := json.RawMessage(`{"type":"passthru","secret":"` + secret + `","prevResult":{"memif":{"Secret":"` + secret + `"}}}`)
	tx.Conf = json.RawMessage(`{"cniVersion":"1.1.0","name":"node","type":"plexus","delegates":[` + string(plugin) + `]}`)
	tx.Networks = `[{"name":"a","cni-args":{"password":"` + secret + `"}}]`
	tx.Attachments[0].List.Plugins = []json.RawMessage{plugin}
	write(t, a.data, rec)
	for _, q := range []string{"GET /v1/attachments", "GET /v1/explain?pod=ns/pod", "GET /v1/history", "GET /v1/node", "POST /v1/check", "POST /v1/resync", "GET /metrics"} {
		method, path, _ := strings.Cut(q, " ")
		status, text := a.ask(method, path)
		if status != 200 || strings.Contains(text, secret) {
			t.Errorf("%s: %d %s", q, status, text)
		}
		if strings.HasPrefix(path, "/v1/attachments") && !strings.Contains(text, `"secret":"`+conf.Hidden+`"`) {
			t.Errorf("%s does not say that there is one: %s", q, text)
		}
	}
	if kept, err := journal.Open(a.data).Read("aaaa"); err != nil || !strings.Contains(string(kept.Transactions[0].Conf), secret) {
		t.Errorf("the journal: %+v %v", kept, err)
	}
}

// No key of plexus' own answers names a secret: their values would be hidden.
func TestOwnKeysAreShown(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map || typ.Kind() == reflect.Array {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if key == "" {
				key = f.Name
			}
			if out, err := conf.Redact([]byte(`{"` + key + `":1}`)); err != nil || strings.Contains(string(out), conf.Hidden) {
				t.Errorf("%v: key %s is hidden", typ, key)
			}
			look(f.Type)
		}
	}
	for _, v := range []any{NodeInfo{}, Attachments{}, Explanation{}, Checked{}, Event{}, engine.Finding{}} {
		look(reflect.TypeOf(v))
	}
	if len(seen) < 10 {
		t.Errorf("%d types", len(seen))
	}
}

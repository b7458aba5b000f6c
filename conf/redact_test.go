package conf_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// Secrets are hidden wherever they are in a document, however their key is written;
// everything else stays as it is, in its order.
func TestRedact(t *testing.T) {
	inner := `{"type":"vppmemif","secret":"s3cr3t"}`
	quoted, err := json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(inner))
	for in, want := range map[string]string{
		`{"z":1,"secret":"s3cr3t","a":[true,null,-1.50e3,12345678901234567890]}`:                                                                                  `{"z":1,"secret":"(hidden)","a":[true,null,-1.50e3,12345678901234567890]}`,
		`{"list":{"plugins":[{"Secret":"s3cr3t"},{"a":{"b":[[{"se\u0063ret":["s3cr3t"]}]]}}]}}`:                                                                   `{"list":{"plugins":[{"Secret":"(hidden)"},{"a":{"b":[[{"secret":"(hidden)"}]]}}]}}`,
		`{"\u017fecret":"s3cr3t","to\u212aen":{"a":"s3cr3t"},"secret":"s3cr3t","secret":"s3cr3t"}`:                                                                "{\"\u017fecret\":\"(hidden)\",\"to\u212aen\":\"(hidden)\",\"secret\":\"(hidden)\",\"secret\":\"(hidden)\"}",
		`{"secret":"","token":null,"x":{},"y":[]}`:                                                                                                                `{"secret":"","token":null,"x":{},"y":[]}`,
		`{"memif-secret":7,"bearerToken":"t","PASSWORD":"p","db_passwd":"p","wifiPassphrase":"p","privateKey":"k","key":"k","api-key":"k","credentials":{"a":1}}`: `{"memif-secret":"(hidden)","bearerToken":"(hidden)","PASSWORD":"(hidden)","db_passwd":"(hidden)","wifiPassphrase":"(hidden)","privateKey":"(hidden)","key":"(hidden)","api-key":"(hidden)","credentials":"(hidden)"}`,
		`{"publicKey":"k","keys":1,"monkeys":2,"resourceName":"r","socket":"s"}`:                                                                                  `{"publicKey":"k","keys":1,"monkeys":2,"resourceName":"r","socket":"s"}`,
		`{"annotation":` + string(quoted) + `}`:                                                                                                                   `{"annotation":"{\"type\":\"vppmemif\",\"secret\":\"(hidden)\"}"}`,
		`{"Bytes":"` + encoded + `"}`:                                                                                                                             `{"Bytes":"` + base64.StdEncoding.EncodeToString([]byte(`{"type":"vppmemif","secret":"(hidden)"}`)) + `"}`,
		`{"args":[["K8S_POD_NAME","a"],["MEMIF_SECRET","s3cr3t"],["a","b","c"]]}`:                                                                                 `{"args":[["K8S_POD_NAME","a"],["MEMIF_SECRET","(hidden)"],["a","b","c"]]}`,
		`{"annotation":"[{\"name\": \"a\"} ]","text":"[x","other":"fast@eth1"}`:                                                                                   `{"annotation":"[{\"name\": \"a\"} ]","text":"[x","other":"fast@eth1"}`,
		`{"CNI_ARGS":"K8S_POD_NAME=a;SECRET=s3cr3t;X=1"}`:                                                                                                         `{"CNI_ARGS":"K8S_POD_NAME=a;SECRET=(hidden);X=1"}`,
		`{"a":"<x>&"}`: `{"a":"<x>&"}`,
		` "a" `:        `"a"`, `7`: `7`, `[]`: `[]`, `{}`: `{}`,
	} {
		got, err := conf.Redact([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s\n got %s %v\nwant %s", in, got, err, want)
		}
	}
	for _, in := range []string{``, `{`, `{"secret":"s3cr3t"`, `{"a":1}{"secret":"s3cr3t"}`, `nul`, `{"secret" "s3cr3t"}`, strings.Repeat("[", 100000)} {
		if got, err := conf.Redact([]byte(in)); err == nil || strings.Contains(string(got)+err.Error(), "s3cr3t") {
			t.Errorf("%.40s: %s %v", in, got, err)
		}
	}
}

// FuzzRedact: what comes out says the same as what went in, without the secret.
func FuzzRedact(f *testing.F) {
	f.Add(`{"a":{"secret":"x"}}`)
	f.Add(`[["token","x"],"{\"secret\":1}","A=1;KEY=2"]`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := conf.Redact([]byte(text))
		if (err == nil) != json.Valid([]byte(text)) {
			t.Fatalf("%q: %v", text, err)
		}
		if err != nil {
			return
		}
		again, err := conf.Redact(got)
		if err != nil || string(again) != string(got) {
			t.Errorf("%q: %s, again %s %v", text, got, again, err)
		}
	})
}

package kube_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/plexus-cni/plexus/conf"
)

// A long message is cut to what the API server takes, in bytes as they are sent,
// and not within a character.
func TestLongMessages(t *testing.T) {
	for n := range 4 {
		s := newStandIn(t)
		s.on("POST "+eventsPath, object(`{"kind":"Event","apiVersion":"v1","metadata":{"name":"web.x"}}`))
		cluster(t, s.URL).Event(&conf.Pod{Namespace: "shop", Name: "web", UID: "u-1"}, true, "NetworksFailed", strings.Repeat("x", n)+strings.Repeat("€", 1000))
		var sent struct{ Message string }
		if err := json.Unmarshal([]byte(s.requests("POST ")[0].body), &sent); err != nil {
			t.Fatal(err)
		}
		if len(sent.Message) > 1024 || strings.ContainsRune(sent.Message, utf8.RuneError) || !strings.HasSuffix(sent.Message, "€...") {
			t.Errorf("%d bytes, ends with %q", len(sent.Message), sent.Message[len(sent.Message)-12:])
		}
	}
}

package status

import (
	"encoding/json"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// What a pod's network-status lacks, or tells otherwise, is not published. What others
// wrote beside it, and in which order, matters to nobody.
func TestUnpublished(t *testing.T) {
	tx := func() *journal.Transaction {
		return &journal.Transaction{
			Conf: json.RawMessage(`{}`), Phase: journal.PhaseAttached, Published: []string{"one@eth0"},
			Attachments: []*journal.Entry{
				{Network: conf.Network{Name: "one", IfName: "eth0", Default: true}, Result: json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/n"}],"ips":[{"address":"192.0.2.7/24","interface":0}]}`)},
				{Network: conf.Network{Name: "ns/two", IfName: "net1"}, Result: json.RawMessage(`{"cniVersion":"1.1.0"}`)},
			},
		}
	}
	const (
		one    = `{"name":"one","interface":"eth0","ips":["192.0.2.7"],"mac":"02:00:00:00:00:01","default":true,"dns":{}}`
		two    = `{"name":"ns/two","interface":"net1","default":false,"dns":{},"device-info":{"type":"vhost-user","version":"1.1.0"}}`
		theirs = `{"name":"x","interface":"y","mtu":"of another type"}`
	)
	for _, c := range []struct {
		annotation string
		change     func(*journal.Transaction)
		want       bool
	}{
		{annotation: "[" + one + "," + two + "]"},
		{annotation: "[" + theirs + "," + two + " ,\n" + one + ",7,null]"},
		{annotation: "", want: true},
		{annotation: "null", want: true},
		{annotation: "[]", want: true},
		{annotation: `{"name":"one"}`, want: true},
		{annotation: "[" + one + "," + theirs + "]", want: true},
		{annotation: `[{"name":"one","interface":"eth0","ips":["192.0.2.8"],"mac":"02:00:00:00:00:01","default":true,"dns":{}},` + two + "]", want: true},
		{change: func(tx *journal.Transaction) { tx.Phase = journal.PhaseRemoving }},
		{change: func(tx *journal.Transaction) { tx.Attachments[1].Phase = journal.PhaseAdding }},
		{change: func(tx *journal.Transaction) { tx.Conf = nil }},      // a plugin alone has no status
		{change: func(tx *journal.Transaction) { tx.Published = nil }}, // Multus has published it
	} {
		have := tx()
		if c.change != nil {
			c.change(have)
		}
		pod := &conf.Pod{Annotations: map[string]string{conf.NetworkStatusAnnotation: c.annotation}}
		if got := Unpublished(have, pod); got != c.want {
			t.Errorf("%s: %v, want %v", c.annotation, got, c.want)
		}
	}
	if !Unpublished(tx(), &conf.Pod{}) {
		t.Error("a pod without annotations has been told")
	}
	others := Others(tx(), &conf.Pod{Annotations: map[string]string{conf.NetworkStatusAnnotation: "[" + one + ",7," + theirs + "]"}})
	if len(others) != 1 || string(others[0]) != theirs {
		t.Errorf("others: %s", others)
	}
}

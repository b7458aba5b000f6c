package delegates

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
)

// FuzzResult feeds what a plugin may answer to the merged result and to
// network-status: nothing panics, the plugin's own result is left as it is, and
// every address of an extra network is on an interface.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"interfaces": [{}], "ips": [], "routes": [], "dns": {}}`,
		`{"cniVersion": "1.1.0", "interfaces": [{"name": "br0"}, {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/ns", "mtu": 1500, "socketPath": "/s", "pciID": "0000:00:10.0"}],
			"ips": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 1}, {"address": "fd00::7/64"}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0"}],
			"dns": {"nameservers": ["192.0.2.53"], "domain": "a", "search": ["b"], "options": ["c"]}}`,
		`{"ips": [{"address": "10.0.0.7/24", "interface": 9}, {"address": "10.0.0.8/24", "interface": -1}]}`,
		`{"interfaces": [{"name": "net1"}], "ips": [{"address": "10.0.0.7/0", "interface": 0}]}`,
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, asked bool) {
		r := &types100.Result{}
		if json.Unmarshal([]byte(text), r) != nil || !complete(r) {
			return
		}
		entries := []*Entry{{Network: conf.Network{Name: "cluster", IfName: "eth0", Default: true}}, {Network: conf.Network{Name: "shop/blue", IfName: "net1"}}}
		if asked {
			entries[1].DefaultRoute = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		before, err := json.Marshal(r)
		if err != nil {
			return
		}
		merged := merge(entries, []*types100.Result{{}, r}, "/ns")
		for _, ip := range merged.IPs {
			if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(merged.Interfaces) {
				t.Errorf("address %s is on no interface: %s", ip.Address.String(), before)
			}
		}
		for i, entry := range entries {
			s := networkStatus(entry, r)
			if s.Default != (i == 0) || s.Name != entry.Name {
				t.Errorf("status %+v of %s", s, entry.Name)
			}
			if _, err := json.Marshal(s); err != nil {
				t.Error(err)
			}
		}
		if after, err := json.Marshal(r); err != nil || !bytes.Equal(before, after) {
			t.Errorf("the result was changed: %v\n%s\n%s", err, before, after)
		}
	})
}

// complete reports whether nothing in a result is null: such a one is refused
// before it comes here.
func complete(r *types100.Result) bool {
	return !slices.Contains(r.Interfaces, nil) && !slices.ContainsFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip == nil || ip.Address.IP == nil }) &&
		!slices.ContainsFunc(r.Routes, func(route *types.Route) bool { return route == nil || route.Dst.IP == nil })
}

// FuzzRecord feeds the body of a journal file whose checksum is right, as an
// older plexus or plexusctl migrate may have written it: what DEL makes of it
// does not panic, and it is read again as it is.
func FuzzRecord(f *testing.F) {
	add := func(rec *Record) {
		body, err := json.Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	add(record())
	for _, config := range exampleNetworks(f) {
		d := conf.Definition{Origin: "example", Fallback: "example", Config: config}
		list, err := d.ParseList("")
		if err != nil {
			f.Fatal(err)
		}
		rec := record()
		rec.Transactions[0].Attachments[0].List = *list
		rec.Transactions[0].Attachments[0].CapabilityArgs = map[string]any{"mac": "02:00:00:00:00:01"}
		add(rec)
	}
	f.Add([]byte(`{"sandbox": "abc"}`))
	f.Add([]byte(`{"sandbox": "abc", "transactions": [{"attachments": [{"list": {"plugins": [null]}, "state": null, "args": [["A", "b"]]}]}]}`))
	engine := &Engine{Delegates: Builtin(slog.New(slog.NewTextHandler(io.Discard, nil))), Journal: OpenJournal(f.TempDir())}
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		head, err := json.Marshal(header{journalVersion, hex.EncodeToString(sum[:])})
		if err != nil {
			t.Fatal(err)
		}
		rec, why := decodeRecord("abc", slices.Concat(head, []byte("\n"), body, []byte("\n")))
		if (rec == nil) == (why == "") {
			t.Fatalf("record %v, reason %q", rec, why)
		}
		if rec == nil {
			return
		}
		for _, tx := range rec.Transactions {
			for _, entry := range tx.Attachments {
				c := engine.chain(rec.Sandbox, tx, entry, "")
				for i := range entry.List.Types() {
					if a, err := c.planned(i); err == nil {
						_ = c.ipam(a, entry.Args.String())
					}
				}
			}
		}
		if rec.find("eth0") != nil {
			rec.remove(rec.find("eth0"))
		}
		if err := engine.Journal.Write(context.Background(), rec); err != nil {
			return
		}
		again, err := engine.Journal.Read("abc")
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

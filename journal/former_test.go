package journal

import (
	"encoding"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Files of a former version of plexus: the one of commit e73f0c1, which had the journal in its
// package delegates. Its engine wrote the record, of a sandbox with a network of each built-in
// and of executables.
const (
	formerRecord  = "testdata/e73f0c1.json"
	formerKeys    = "testdata/e73f0c1.keys" // what keys says of its type Record
	formerSandbox = "0123456789abcdef0123456789abcdef"
)

func readTestdata(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A file of the former version is read: whole, while its ADD was under way, and when its last
// form was torn. Written again it says the same.
func TestARecordOfAFormerVersion(t *testing.T) {
	data := readTestdata(t, formerRecord)
	committed := strings.LastIndex(string(data), headerMark)
	for name, c := range map[string]struct {
		data    []byte
		phase   Phase
		damaged bool
	}{
		"attached": {data, PhaseAttached, false},
		"adding":   {data[:committed], PhaseAdding, false},
		"torn":     {data[:len(data)-9], PhaseAdding, true},
	} {
		rec, why := Decode(formerSandbox, c.data)
		if why != "" || (rec.Damage != "") != c.damaged {
			t.Fatalf("%s: %q, %+v", name, why, rec)
		}
		tx := rec.Find("eth0")
		if tx == nil || tx.Phase != c.phase || tx.Pod.Volumes[0].HostPath != "/srv/pod" || tx.NetnsID != "4:4026532001:77" || tx.StatusPlace == "" {
			t.Fatalf("%s: %+v", name, tx)
		}
		var have []string
		for _, entry := range tx.Attachments {
			have = append(have, fmt.Sprint(entry.IfName, " ", entry.Name, " ", entry.List.Types()))
			for typ, state := range entry.State {
				if !slices.Contains(entry.List.Types(), typ) || !json.Valid(state) {
					t.Errorf("%s: %s: state of %s: %s", name, entry.IfName, typ, state)
				}
			}
		}
		want := []string{
			"eth0 cluster [cluster]", "net1 default/ovs [ovsdpdk]", "memif0 default/memif [vppmemif]",
			"net3 default/us [userspace]", "net4 default/vf [sriov]", "net5 default/chain [first last]",
		}
		if !slices.Equal(have, want) {
			t.Errorf("%s: attachments %q", name, have)
		}
		again, err := Encode(rec)
		if err != nil {
			t.Fatal(err)
		}
		former := data[:committed]
		if c.phase == PhaseAttached {
			former = data[committed:]
		}
		if string(again) != string(former) {
			t.Errorf("%s: written again:\n%s\nwas:\n%s", name, again, former)
		}
		if _, err := tx.Results(); (err == nil) != (c.phase == PhaseAttached) {
			t.Errorf("%s: results: %v", name, err)
		}
	}
}

// newKeys are those that the former version does not know, and can do without.
var newKeys = []string{
	"transactions[].abandoned[] string",         // it tells people, and no code
	"transactions[].attachments[].ofNode bool",  // of what a NAD defines it needs no bounds
	"transactions[].pod.kubeletDir string",      // ADD alone looks for a volume's folder by it
	"transactions[].pod.volumes[].create bool",  // the folder is there when the pod runs
	"transactions[].pod.volumes[].kind string",  // ADD alone refuses by it
	"transactions[].pod.volumes[].mount string", // the result has the paths that the pod was told
}

// The former version reads what this one writes: each of its keys is there, and of the same
// kind; the version of the format is the same.
func TestTheFormerVersionReadsRecords(t *testing.T) {
	former := strings.Split(strings.TrimSpace(string(readTestdata(t, formerKeys))), "\n")
	now := keys("", reflect.TypeFor[Record]())
	for _, key := range former {
		if !slices.Contains(now, key) {
			t.Errorf("key %s is gone, or of another kind", key)
		}
	}
	for _, key := range now {
		if !slices.Contains(former, key) && !slices.Contains(newKeys, key) {
			t.Errorf("key %s is new: say in newKeys why the former version can do without", key)
		}
	}
	if journalVersion != 1 {
		t.Errorf("version %d", journalVersion)
	}
}

// keys are the JSON keys of a type with their kinds: "transactions[].ifName string".
func keys(path string, of reflect.Type) []string {
	switch {
	case of.Kind() == reflect.Pointer && !marshals(of):
		return keys(path, of.Elem())
	case marshals(of) || of.Name() == "RawMessage":
		return []string{path + " " + strings.TrimPrefix(of.String(), "*")}
	case of.Kind() == reflect.Slice || of.Kind() == reflect.Array:
		return keys(path+"[]", of.Elem())
	case of.Kind() == reflect.Map:
		return keys(path+"{}", of.Elem())
	case of.Kind() != reflect.Struct:
		return []string{path + " " + of.Kind().String()}
	}
	var all []string
	for i := range of.NumField() {
		f := of.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-" || !f.IsExported():
		case tag == "" && f.Anonymous:
			all = append(all, keys(path, f.Type)...)
		default:
			all = append(all, keys(strings.TrimPrefix(path+"."+tag, "."), f.Type)...)
		}
	}
	return all
}

// marshals reports whether a type has its own form in JSON.
func marshals(of reflect.Type) bool {
	return of.Implements(reflect.TypeFor[json.Marshaler]()) || of.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

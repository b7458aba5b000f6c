package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

// newJournalSite has pods of four networks: the cluster network and one more
// by executables, a vhost-user port with addresses, and one of userspace-cni's
// dialect that hands its configuration to the container.
func newJournalSite(t *testing.T, v *ovs.Switch) *site.Site {
	t.Helper()
	site.DefaultPlaces(t, v)
	s := site.NewVhostSwept(t, v)
	other := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
	other["name"], other["bridge"], other["isDefaultGateway"], other["isGateway"] = "other", "cni-j", false, true
	other["ipam"].(map[string]any)["subnet"] = "10.246.0.0/16"
	s.NAD("other", other)
	s.NAD("old", map[string]any{
		"cniVersion": "0.3.1", "type": "userspace", "sharedDir": filepath.Join(s.Dir, "vhost"),
		"host": map[string]any{
			"engine": "ovs-dpdk", "iftype": "vhostuser",
			"vhost": map[string]any{"mode": "client"}, "bridge": map[string]any{"bridgeName": "br-old"},
		},
		"ipam": map[string]any{"type": "host-local", "subnet": "192.168.6.0/24", "dataDir": filepath.Join(s.Dir, "ipam")},
	})
	s.Pod("victim", "fast, other, old")
	s.Pod("bystander", "fast, other, old")
	warm := site.NewPod(t, "warm")
	s.MustAdd(site.SandboxID(200), warm, "victim")
	s.MustDel(site.SandboxID(200), warm, "victim")
	must.Do(t, warm.Close())
	return s
}

const (
	victim    = "d00d00d00d00d00d"
	bystander = "bead5bead5bead5b"
)

// damages are the ways in which a journal file can go bad, and what plexus says
// of each. They change the victim's file, which has the record that ADD began with
// and the one that it ended with. whole: one of them is in force after it.
var damages = []struct {
	name   string
	damage func(good, others []byte) []byte // nil: a directory
	says   string
	whole  bool
}{
	{"empty", func([]byte, []byte) []byte { return []byte{} }, "empty", false},
	{"a newline", func([]byte, []byte) []byte { return []byte("\n") }, "no plexus header", false},
	{"truncated to one byte", func(good, _ []byte) []byte { return good[:1] }, "no plexus header", false},
	{"truncated within the header", func(good, _ []byte) []byte { return good[:bytes.IndexByte(good, '\n')/2] }, "no plexus header", false},
	{"truncated to the header", func(good, _ []byte) []byte { return good[:bytes.IndexByte(good, '\n')] }, "checksum", false},
	{"truncated in the middle of its first record", func(good, _ []byte) []byte { return good[:len(begun(good))/2] }, "checksum", false},
	{"truncated by two bytes", func(good, _ []byte) []byte { return good[:len(good)-2] }, "checksum", true},
	{"half of its second record", func(good, _ []byte) []byte { return good[:(len(begun(good))+len(good))/2] }, "checksum", true},
	{"a flipped byte in the header", func(good, _ []byte) []byte {
		return flipped(begun(good), bytes.Index(good, []byte("plexusJournal")))
	}, "no plexus header", false},
	{"a flipped byte in the checksum", func(good, _ []byte) []byte { return flipped(begun(good), bytes.IndexByte(good, '\n')-5) }, "checksum", false},
	{"a flipped byte in the only record", func(good, _ []byte) []byte { return flipped(begun(good), len(begun(good))/2) }, "checksum", false},
	{"a flipped last brace", func(good, _ []byte) []byte { return flipped(good, len(good)-2) }, "checksum", true},
	{"foreign text", func([]byte, []byte) []byte { return []byte("apiVersion: v1\nkind: Pod\n") }, "no plexus header", false},
	{"foreign JSON", func([]byte, []byte) []byte { return []byte(`{"kind": "cniCacheV1"}` + "\n") }, "no plexus header", false},
	{"zeros, as after a crash of the node", func(good, _ []byte) []byte { return make([]byte, len(good)) }, "no plexus header", false},
	{"appended text", func(good, _ []byte) []byte { return append(bytes.Clone(good), "more"...) }, "no plexus header", true},
	{"version 99", func(good, _ []byte) []byte {
		return bytes.ReplaceAll(good, []byte(`"plexusJournal":1`), []byte(`"plexusJournal":99`))
	}, "version 99", false},
	{"another sandbox's record", func(_, others []byte) []byte { return others }, bystander, false},
	{"a directory", nil, "directory", false},
}

// begun is the record that ADD began with.
func begun(good []byte) []byte { return good[:bytes.LastIndex(good, []byte(`{"plexusJournal"`))] }

func flipped(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0x04
	return out
}

// A damaged journal file is named together with what is wrong with it. DEL undoes
// everything all the same, addresses included: by the record in it that is whole, or, when
// there is none, by what else is known; then the file is kept, and DEL fails once. ADD and
// CHECK refuse; other pods notice nothing.
func TestDamagedJournal(t *testing.T) {
	v := site.OVS(t)
	home := newJournalSite(t, v)
	other := site.NewPod(t, "bystander")
	home.MustAdd(bystander, other, "bystander")
	theirs := site.Links(t, other)
	again := map[string]bool{}
	for _, test := range damages {
		t.Run(test.name, func(t *testing.T) {
			s := home.On(t)
			before := site.Without(s.World(v), "/damaged")
			p := site.NewPod(t, "victim")
			fresh := site.Links(t, p)
			s.MustAdd(victim, p, "victim")
			file := s.JournalFile(victim)
			good := []byte(must.ReadFile(t, file))
			var bad []byte
			if test.damage != nil {
				bad = test.damage(good, []byte(must.ReadFile(t, s.JournalFile(bystander))))
				if bytes.Equal(good, bad) {
					t.Fatal("nothing was damaged")
				}
				must.Do(t, os.WriteFile(file, bad, 0o600))
			} else {
				must.Do(t, os.Remove(file))
				must.Do(t, os.Mkdir(file, 0o700))
			}

			for _, verb := range []string{"CHECK", "ADD"} {
				_, stderr, err := s.Call(site.Request{Verb: verb, Sandbox: victim, Netns: p.Path(), Pod: "victim"})
				site.NoPanic(t, stderr)
				site.Says(t, err, file, test.says)
				if after, errRead := os.ReadFile(file); test.damage != nil && (errRead != nil || !bytes.Equal(after, bad)) {
					t.Errorf("%s changed the damaged file: %v", verb, errRead)
				}
			}

			kept := len(damaged(s))
			_, stderr, err := s.Call(site.Request{Verb: "DEL", Sandbox: victim, Netns: p.Path(), Pod: "victim"})
			site.NoPanic(t, stderr)
			if test.whole {
				if err != nil || !strings.Contains(stderr, file) || !strings.Contains(stderr, test.says) {
					t.Errorf("DEL: %v\n%s", err, stderr)
				}
				if now := len(damaged(s)); now != kept {
					t.Errorf("%d files are set aside, %d before", now, kept)
				}
			} else {
				site.Says(t, err, file, test.says, filepath.Join(s.DataDir, "damaged"), "The next DEL succeeds")
				site.HasCode(t, err, 11)
				keptAside(s, kept, bad)
			}
			site.SameWorld(t, fresh, site.Links(t, p))
			site.SameWorld(t, theirs, site.Links(t, other))
			s.MustCheck(bystander, other, "bystander")

			_, stderr, err = s.Call(site.Request{Verb: "DEL", Sandbox: victim, Netns: p.Path(), Pod: "victim"})
			if err != nil || strings.Contains(stderr, file) {
				t.Errorf("second DEL: %v\n%s", err, stderr)
			}
			// The sandbox is as good as new. What comes after depends on what DEL left: on a
			// record that was whole, or on one that was set aside, a file or a folder.
			if after := fmt.Sprint(test.whole, test.damage == nil); !again[after] {
				again[after] = true
				s.MustAdd(victim, p, "victim")
				s.MustCheck(victim, p, "victim")
				s.MustDel(victim, p, "victim")
			}
			must.Do(t, p.Close())
			site.SameWorld(t, before, site.Without(s.World(v), "/damaged"))
		})
	}
	home.MustDel(bystander, other, "bystander")
}

// damaged are the files that plexus has set aside.
func damaged(s *site.Site) []string {
	s.T.Helper()
	files, err := filepath.Glob(filepath.Join(s.DataDir, "damaged", "*"))
	must.Do(s.T, err)
	return files
}

// keptAside wants one file more than kept among those set aside, with what the
// damaged one had in it; nil is a directory.
func keptAside(s *site.Site, kept int, bad []byte) {
	s.T.Helper()
	files := damaged(s)
	if len(files) != kept+1 {
		s.T.Errorf("set aside: %q, want one more than %d", files, kept)
		return
	}
	for _, file := range files {
		st, err := os.Stat(file)
		must.Do(s.T, err)
		if st.IsDir() != (bad == nil) {
			continue
		}
		if bad == nil || must.ReadFile(s.T, file) == string(bad) {
			return
		}
	}
	s.T.Errorf("none of %q has what was in the damaged file", files)
}

// The journal is lost, and more with it: DEL undoes the pod all the same.
func TestLostJournal(t *testing.T) {
	v := site.OVS(t)
	home := newJournalSite(t, v)
	other := site.NewPod(t, "bystander")
	for _, test := range []struct {
		name  string
		lose  func(t *testing.T, s *site.Site)
		netns bool
	}{
		{"the sandbox's file", func(t *testing.T, s *site.Site) { must.Do(t, os.Remove(s.JournalFile(victim))) }, true},
		{"the sandbox's file and the namespace", func(t *testing.T, s *site.Site) { must.Do(t, os.Remove(s.JournalFile(victim))) }, false},
		{"the Pod too", func(t *testing.T, s *site.Site) {
			must.Do(t, os.Remove(s.JournalFile(victim)))
			must.Do(t, os.Remove(filepath.Join(s.Manifests, "victim.pod.yaml")))
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := home.On(t)
			s.Pod("victim", "fast, other, old")
			clean := s.World(v)
			s.MustAdd(bystander, other, "bystander")
			theirs := site.Links(t, other)
			before := s.World(v)
			p := site.NewPod(t, "victim")
			fresh := site.Links(t, p)
			s.MustAdd(victim, p, "victim")
			test.lose(t, s)
			netns := p.Path()
			if !test.netns {
				must.Do(t, p.Close())
				netns = ""
			}
			_, stderr, err := s.Call(site.Request{Verb: "DEL", Sandbox: victim, Netns: netns, Pod: "victim"})
			site.NoPanic(t, stderr)
			if err != nil {
				t.Errorf("DEL: %v\n%s", err, stderr)
			}
			if test.netns {
				site.SameWorld(t, fresh, site.Links(t, p))
			}
			must.Do(t, p.Close())
			s.Pod("victim", "fast, other, old")
			s.BecomesWorld(v, before)
			site.SameWorld(t, theirs, site.Links(t, other))
			s.MustCheck(bystander, other, "bystander")
			s.MustDel(victim, nil, "victim")
			s.MustDel(bystander, other, "bystander")
			site.SameWorld(t, clean, s.World(v))
		})
	}
}

// The journal and libcni's cache are both lost: DEL plans the pod again. What carries plexus'
// marks goes, with the files beside the socket, and what executables have made: links and
// addresses.
func TestLostJournalAndCache(t *testing.T) {
	v := site.OVS(t)
	s := newJournalSite(t, v)
	other, p := site.NewPod(t, "bystander"), site.NewPod(t, "victim")
	s.MustAdd(bystander, other, "bystander")
	before, fresh := s.World(v), site.Links(t, p)
	s.MustAdd(victim, p, "victim")
	must.Do(t, os.Remove(s.JournalFile(victim)))
	results, err := filepath.Glob(filepath.Join(s.DataDir, "results", "*"+victim+"*"))
	must.Do(t, err)
	if len(results) != 4 {
		t.Fatalf("cached results %q, want four", results)
	}
	for _, file := range results {
		must.Do(t, os.Remove(file))
	}
	s.MustDel(victim, p, "victim")
	site.SameWorld(t, before, s.World(v))
	site.SameWorld(t, fresh, site.Links(t, p))
	if rows := s.World(v); strings.Contains(rows, "plexus-sandbox:"+victim) {
		t.Errorf("rows are left behind:\n%s", rows)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "vhost", shareddir.OwnName(victim))); !os.IsNotExist(err) {
		t.Errorf("the socket folder is left behind: %v", err)
	}
	s.MustCheck(bystander, other, "bystander")
	s.MustDel(bystander, other, "bystander")
}

// A damaged file of one sandbox hinders no other: ADD, CHECK and DEL of theirs
// work, and nothing of the damaged one's goes by their DEL.
func TestDamagedJournalOfAnother(t *testing.T) {
	v := site.OVS(t)
	s := newJournalSite(t, v)
	p, other := site.NewPod(t, "victim"), site.NewPod(t, "bystander")
	s.MustAdd(victim, p, "victim")
	must.WriteFile(t, s.JournalFile(victim), "nothing of plexus")
	before := s.World(v)
	s.MustAdd(bystander, other, "bystander")
	s.MustCheck(bystander, other, "bystander")
	s.MustDel(bystander, other, "bystander")
	s.MustDel(site.SandboxID(210), nil, "bystander") // it never was, so the marks are looked through
	site.SameWorld(t, before, s.World(v))
	site.Says(t, s.Del(victim, p, "victim"), "The next DEL succeeds")
	s.MustDel(victim, p, "victim")
}

// DEL on a damaged journal that cannot be finished, as OVSDB is down, fails, and
// the next one finishes.
func TestDamagedJournalWhileOVSDBIsDown(t *testing.T) {
	v := site.OVS(t)
	s := newJournalSite(t, v)
	p := site.NewPod(t, "victim")
	before, fresh := site.Without(s.World(v), "/damaged"), site.Links(t, p)
	s.MustAdd(victim, p, "victim")
	must.WriteFile(t, s.JournalFile(victim), "")
	must.Do(t, v.StopOVSDB())
	_, stderr, err := s.Call(site.Request{Verb: "DEL", Sandbox: victim, Netns: p.Path(), Pod: "victim"})
	must.Do(t, v.StartOVSDB(must.Deadline(t)))
	site.NoPanic(t, stderr)
	site.Says(t, err, "OVSDB at "+v.OVSDB()+" is unreachable", "The next DEL tries again what could not be undone")
	s.MustDel(victim, p, "victim")
	site.SameWorld(t, fresh, site.Links(t, p))
	site.SameWorld(t, before, site.Without(s.World(v), "/damaged"))
}

// The node loses its power after an ADD of the cluster network alone, whose record
// nobody has waited for to be on the disk: its DEL frees the address by the
// configuration.
func TestLostPower(t *testing.T) {
	s := newJournalSite(t, site.OVS(t))
	s.Pod("plain", "")
	empty := func(file string) error { return os.Truncate(file, 0) }
	keep := func(string) error { return nil }
	for name, lose := range map[string]struct{ journal, cache func(file string) error }{
		"no files":                      {os.Remove, os.Remove},
		"an empty file":                 {empty, os.Remove},
		"empty files":                   {empty, empty},
		"a record beside an empty file": {keep, empty},
	} {
		before := s.World(nil)
		p := site.NewPod(t, "plain")
		s.MustAdd(victim, p, "plain")
		must.Do(t, p.Close())
		must.Do(t, lose.journal(s.JournalFile(victim)))
		results, err := filepath.Glob(filepath.Join(s.DataDir, "results", "*"+victim+"*"))
		must.Do(t, err)
		for _, file := range results {
			must.Do(t, lose.cache(file))
		}
		if err := s.Del(victim, nil, "plain"); name == "an empty file" || name == "empty files" {
			site.Says(t, err, "The next DEL succeeds")
		} else {
			must.Do(t, err)
		}
		s.MustDel(victim, nil, "plain")
		if t.Failed() {
			t.Fatal(name)
		}
		must.Do(t, os.RemoveAll(filepath.Join(s.DataDir, "damaged")))
		s.BecomesWorld(nil, before)
	}
}

// The node loses its power after ADD: what Begin has written is on the disk, what
// Commit has appended is there in part, and libcni's cache is lost. DEL undoes every
// network all the same, with the addresses of the secondary ones.
func TestTornCommit(t *testing.T) {
	home := newJournalSite(t, site.OVS(t))
	for name, tear := range map[string]func(committed []byte) []byte{
		"torn":            func(committed []byte) []byte { return committed[:len(committed)/2] },
		"zero-filled":     func(committed []byte) []byte { return make([]byte, len(committed)) },
		"one bit flipped": func(committed []byte) []byte { return flipped(committed, len(committed)/2) },
	} {
		t.Run(name, func(t *testing.T) {
			s := home.On(t)
			before := s.World(site.OVS(t))
			p := site.NewPod(t, "victim")
			s.MustAdd(victim, p, "victim")
			must.Do(t, p.Close())
			file := s.JournalFile(victim)
			data := []byte(must.ReadFile(t, file))
			first := begun(data)
			if len(first) == 0 {
				t.Fatalf("Commit has appended nothing: %s", data)
			}
			must.WriteFile(t, file, string(slices.Concat(first, tear(data[len(first):]))))
			must.Do(t, os.RemoveAll(filepath.Join(s.DataDir, "results")))
			s.MustDel(victim, nil, "victim")
			must.Do(t, os.MkdirAll(filepath.Join(s.DataDir, "results"), 0o700))
			site.SameWorld(t, before, s.World(site.OVS(t)))
		})
	}
}

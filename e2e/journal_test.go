package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/shareddir"
)

// newJournalSite has pods of four networks: the cluster network and one more
// by executables, a vhost-user port with addresses, and one of userspace-cni's
// dialect that hands its configuration to the container.
func newJournalSite(t *testing.T, v *ovs.Switch) *site {
	t.Helper()
	defaultPlaces(t, v)
	s := vhostSite(t, v)
	other := clusterBridge(filepath.Join(s.dir, "ipam"))
	other["name"], other["bridge"], other["isDefaultGateway"], other["isGateway"] = "other", "cni-j", false, true
	other["ipam"].(map[string]any)["subnet"] = "10.246.0.0/16"
	s.nad("other", other)
	s.nad("old", map[string]any{
		"cniVersion": "0.3.1", "type": "userspace", "sharedDir": filepath.Join(s.dir, "vhost"),
		"host": map[string]any{
			"engine": "ovs-dpdk", "iftype": "vhostuser",
			"vhost": map[string]any{"mode": "client"}, "bridge": map[string]any{"bridgeName": "br-old"},
		},
		"ipam": map[string]any{"type": "host-local", "subnet": "192.168.6.0/24", "dataDir": filepath.Join(s.dir, "ipam")},
	})
	s.pod("victim", "fast, other, old")
	s.pod("bystander", "fast, other, old")
	warm := newPod(t, "warm")
	s.mustAdd(sandboxID(200), warm, "victim")
	s.mustDel(sandboxID(200), warm, "victim")
	must(t, warm.Close())
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
	v := startOVS(t)
	home := newJournalSite(t, v)
	other := newPod(t, "bystander")
	home.mustAdd(bystander, other, "bystander")
	theirs := links(t, other)
	for _, test := range damages {
		t.Run(test.name, func(t *testing.T) {
			s := home.on(t)
			before := without(s.world(v), "/damaged")
			p := newPod(t, "victim")
			fresh := links(t, p)
			s.mustAdd(victim, p, "victim")
			file := s.journalFile(victim)
			good := []byte(readFile(t, file))
			var bad []byte
			if test.damage != nil {
				bad = test.damage(good, []byte(readFile(t, s.journalFile(bystander))))
				if bytes.Equal(good, bad) {
					t.Fatal("nothing was damaged")
				}
				must(t, os.WriteFile(file, bad, 0o600))
			} else {
				must(t, os.Remove(file))
				must(t, os.Mkdir(file, 0o700))
			}

			for _, verb := range []string{"CHECK", "ADD"} {
				_, stderr, err := s.call(request{verb: verb, sandbox: victim, netns: p.Path(), pod: "victim"})
				noPanic(t, stderr)
				says(t, err, file, test.says)
				if after, errRead := os.ReadFile(file); test.damage != nil && (errRead != nil || !bytes.Equal(after, bad)) {
					t.Errorf("%s changed the damaged file: %v", verb, errRead)
				}
			}

			kept := len(s.damaged())
			_, stderr, err := s.call(request{verb: "DEL", sandbox: victim, netns: p.Path(), pod: "victim"})
			noPanic(t, stderr)
			if test.whole {
				if err != nil || !strings.Contains(stderr, file) || !strings.Contains(stderr, test.says) {
					t.Errorf("DEL: %v\n%s", err, stderr)
				}
				if now := len(s.damaged()); now != kept {
					t.Errorf("%d files are set aside, %d before", now, kept)
				}
			} else {
				says(t, err, file, test.says, filepath.Join(s.dataDir, "damaged"), "The next DEL succeeds")
				hasCode(t, err, 11)
				s.keptAside(kept, bad)
			}
			sameWorld(t, fresh, links(t, p))
			sameWorld(t, theirs, links(t, other))
			s.mustCheck(bystander, other, "bystander")

			_, stderr, err = s.call(request{verb: "DEL", sandbox: victim, netns: p.Path(), pod: "victim"})
			if err != nil || strings.Contains(stderr, file) {
				t.Errorf("second DEL: %v\n%s", err, stderr)
			}
			s.mustAdd(victim, p, "victim") // the sandbox is as good as new
			s.mustCheck(victim, p, "victim")
			s.mustDel(victim, p, "victim")
			must(t, p.Close())
			sameWorld(t, before, without(s.world(v), "/damaged"))
		})
	}
	home.mustDel(bystander, other, "bystander")
}

// damaged are the files that plexus has set aside.
func (s *site) damaged() []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dataDir, "damaged", "*"))
	must(s.t, err)
	return files
}

// keptAside wants one file more than kept among those set aside, with what the
// damaged one had in it; nil is a directory.
func (s *site) keptAside(kept int, bad []byte) {
	s.t.Helper()
	files := s.damaged()
	if len(files) != kept+1 {
		s.t.Errorf("set aside: %q, want one more than %d", files, kept)
		return
	}
	for _, file := range files {
		st, err := os.Stat(file)
		must(s.t, err)
		if st.IsDir() != (bad == nil) {
			continue
		}
		if bad == nil || readFile(s.t, file) == string(bad) {
			return
		}
	}
	s.t.Errorf("none of %q has what was in the damaged file", files)
}

// The journal is lost, and more with it: DEL undoes the pod all the same.
func TestLostJournal(t *testing.T) {
	v := startOVS(t)
	home := newJournalSite(t, v)
	other := newPod(t, "bystander")
	for _, test := range []struct {
		name  string
		lose  func(t *testing.T, s *site)
		netns bool
	}{
		{"the sandbox's file", func(t *testing.T, s *site) { must(t, os.Remove(s.journalFile(victim))) }, true},
		{"the sandbox's file and the namespace", func(t *testing.T, s *site) { must(t, os.Remove(s.journalFile(victim))) }, false},
		{"the Pod too", func(t *testing.T, s *site) {
			must(t, os.Remove(s.journalFile(victim)))
			must(t, os.Remove(filepath.Join(s.manifests, "victim.pod.yaml")))
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := home.on(t)
			s.pod("victim", "fast, other, old")
			clean := s.world(v)
			s.mustAdd(bystander, other, "bystander")
			theirs := links(t, other)
			before := s.world(v)
			p := newPod(t, "victim")
			fresh := links(t, p)
			s.mustAdd(victim, p, "victim")
			test.lose(t, s)
			netns := p.Path()
			if !test.netns {
				must(t, p.Close())
				netns = ""
			}
			_, stderr, err := s.call(request{verb: "DEL", sandbox: victim, netns: netns, pod: "victim"})
			noPanic(t, stderr)
			if err != nil {
				t.Errorf("DEL: %v\n%s", err, stderr)
			}
			if test.netns {
				sameWorld(t, fresh, links(t, p))
			}
			must(t, p.Close())
			s.pod("victim", "fast, other, old")
			s.becomesWorld(v, before)
			sameWorld(t, theirs, links(t, other))
			s.mustCheck(bystander, other, "bystander")
			s.mustDel(victim, nil, "victim")
			s.mustDel(bystander, other, "bystander")
			sameWorld(t, clean, s.world(v))
		})
	}
}

// The journal and libcni's cache are both lost: what carries plexus' marks
// still goes, with the files beside the socket.
func TestLostJournalAndCache(t *testing.T) {
	v := startOVS(t)
	s := newJournalSite(t, v)
	other, p := newPod(t, "bystander"), newPod(t, "victim")
	s.mustAdd(bystander, other, "bystander")
	s.mustAdd(victim, p, "victim")
	must(t, os.Remove(s.journalFile(victim)))
	results, err := filepath.Glob(filepath.Join(s.dataDir, "results", "*"+victim+"*"))
	must(t, err)
	if len(results) != 4 {
		t.Fatalf("cached results %q, want four", results)
	}
	for _, file := range results {
		must(t, os.Remove(file))
	}
	s.mustDel(victim, p, "victim")
	if rows := s.world(v); strings.Contains(rows, "plexus-sandbox:"+victim) {
		t.Errorf("rows are left behind:\n%s", rows)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "vhost", shareddir.OwnName(victim))); !os.IsNotExist(err) {
		t.Errorf("the socket folder is left behind: %v", err)
	}
	s.mustCheck(bystander, other, "bystander")
	s.mustDel(bystander, other, "bystander")
}

// A damaged file of one sandbox hinders no other: ADD, CHECK and DEL of theirs
// work, and nothing of the damaged one's goes by their DEL.
func TestDamagedJournalOfAnother(t *testing.T) {
	v := startOVS(t)
	s := newJournalSite(t, v)
	p, other := newPod(t, "victim"), newPod(t, "bystander")
	s.mustAdd(victim, p, "victim")
	writeFile(t, s.journalFile(victim), "nothing of plexus")
	before := s.world(v)
	s.mustAdd(bystander, other, "bystander")
	s.mustCheck(bystander, other, "bystander")
	s.mustDel(bystander, other, "bystander")
	s.mustDel(sandboxID(210), nil, "bystander") // it never was, so the marks are looked through
	sameWorld(t, before, s.world(v))
	says(t, s.del(victim, p, "victim"), "The next DEL succeeds")
	s.mustDel(victim, p, "victim")
}

// DEL on a damaged journal that cannot be finished, as OVSDB is down, fails, and
// the next one finishes.
func TestDamagedJournalWhileOVSDBIsDown(t *testing.T) {
	v := startOVS(t)
	s := newJournalSite(t, v)
	p := newPod(t, "victim")
	before, fresh := without(s.world(v), "/damaged"), links(t, p)
	s.mustAdd(victim, p, "victim")
	writeFile(t, s.journalFile(victim), "")
	must(t, v.StopOVSDB())
	_, stderr, err := s.call(request{verb: "DEL", sandbox: victim, netns: p.Path(), pod: "victim"})
	must(t, v.StartOVSDB(deadline(t)))
	noPanic(t, stderr)
	says(t, err, "OVSDB at "+v.OVSDB()+" is unreachable", "The next DEL tries again what could not be undone")
	s.mustDel(victim, p, "victim")
	sameWorld(t, fresh, links(t, p))
	sameWorld(t, before, without(s.world(v), "/damaged"))
}

// The node loses its power after an ADD of the cluster network alone, whose record
// nobody has waited for to be on the disk: its DEL frees the address by the
// configuration.
func TestLostPower(t *testing.T) {
	s := newJournalSite(t, startOVS(t))
	s.pod("plain", "")
	empty := func(file string) error { return os.Truncate(file, 0) }
	keep := func(string) error { return nil }
	for name, lose := range map[string]struct{ journal, cache func(file string) error }{
		"no files":                      {os.Remove, os.Remove},
		"an empty file":                 {empty, os.Remove},
		"empty files":                   {empty, empty},
		"a record beside an empty file": {keep, empty},
	} {
		before := s.world(nil)
		p := newPod(t, "plain")
		s.mustAdd(victim, p, "plain")
		must(t, p.Close())
		must(t, lose.journal(s.journalFile(victim)))
		results, err := filepath.Glob(filepath.Join(s.dataDir, "results", "*"+victim+"*"))
		must(t, err)
		for _, file := range results {
			must(t, lose.cache(file))
		}
		if err := s.del(victim, nil, "plain"); name == "an empty file" || name == "empty files" {
			says(t, err, "The next DEL succeeds")
		} else {
			must(t, err)
		}
		s.mustDel(victim, nil, "plain")
		if t.Failed() {
			t.Fatal(name)
		}
		must(t, os.RemoveAll(filepath.Join(s.dataDir, "damaged")))
		s.becomesWorld(nil, before)
	}
}

// The node loses its power after ADD: what Begin has written is on the disk, what
// Commit has appended is there in part, and libcni's cache is lost. DEL undoes every
// network all the same, with the addresses of the secondary ones.
func TestTornCommit(t *testing.T) {
	home := newJournalSite(t, startOVS(t))
	for name, tear := range map[string]func(committed []byte) []byte{
		"torn":            func(committed []byte) []byte { return committed[:len(committed)/2] },
		"zero-filled":     func(committed []byte) []byte { return make([]byte, len(committed)) },
		"one bit flipped": func(committed []byte) []byte { return flipped(committed, len(committed)/2) },
	} {
		t.Run(name, func(t *testing.T) {
			s := home.on(t)
			before := s.world(vswitch.running)
			p := newPod(t, "victim")
			s.mustAdd(victim, p, "victim")
			must(t, p.Close())
			file := s.journalFile(victim)
			data := []byte(readFile(t, file))
			first := begun(data)
			if len(first) == 0 {
				t.Fatalf("Commit has appended nothing: %s", data)
			}
			writeFile(t, file, string(slices.Concat(first, tear(data[len(first):]))))
			must(t, os.RemoveAll(filepath.Join(s.dataDir, "results")))
			s.mustDel(victim, nil, "victim")
			must(t, os.MkdirAll(filepath.Join(s.dataDir, "results"), 0o700))
			sameWorld(t, before, s.world(vswitch.running))
		})
	}
}

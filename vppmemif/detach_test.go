package vppmemif

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
)

// namesFrom are the requests since the first from ones, less those of connections.
func (r *rig) namesFrom(from int) (names []string) {
	for _, m := range r.Messages()[from:] {
		if !strings.HasPrefix(m.Name, "sockclnt") {
			names = append(names, m.Name)
		}
	}
	return names
}

// eight is a pod of eight memifs in two bridge domains.
func eight(t *testing.T) *several {
	t.Helper()
	r := newRig(t, standin.Options{})
	s := &several{rig: r, d: newDelegate(t)}
	for i := range 8 {
		a := r.attachment(sandboxA, named([]string{"blue", "red"}[i%2]))
		a.IfName = fmt.Sprintf("net%d", i+1)
		s.subjects = append(s.subjects, a)
	}
	return s
}

// times is a request, and how often it is sent in a row.
type times struct {
	n    int
	name string
}

func wantSent(t *testing.T, sent []string, want ...times) {
	t.Helper()
	var all []string
	for _, w := range want {
		all = append(all, slices.Repeat([]string{w.name}, w.n)...)
	}
	if !slices.Equal(sent, all) {
		t.Errorf("sent %q, want %q", sent, all)
	}
}

// Eight memifs of a pod are made and removed in one conversation each: VPP is asked once
// for what it has, and no request waits for an answer that it does not need.
func TestEight(t *testing.T) {
	s := eight(t)
	before := s.world()
	var err error
	if s.pod, err = newPodOf(bounded(t), s.d, s.subjects); err != nil {
		t.Fatal(err)
	}
	from := len(s.Messages())
	if err := s.pod.attach(bounded(t)); err != nil {
		t.Fatal(err)
	}
	sent := s.namesFrom(from)
	wantSent(t, sent[:20], times{8, "memif_socket_filename_add_del_v2"}, times{1, "bridge_domain_dump"}, times{1, "control_ping"},
		times{8, "memif_create_v2"}, times{2, "bridge_domain_add_del_v2"})
	var place []string
	for range 8 {
		place = append(place, "sw_interface_tag_add_del", "sw_interface_set_l2_bridge", "sw_interface_set_flags")
	}
	if !slices.Equal(sent[20:], place) {
		t.Errorf("sent %q, want %q", sent[20:], place)
	}
	if err := s.check(bounded(t)); err != nil {
		t.Error(err)
	}
	from = len(s.Messages())
	s.pod.mustDetach(t)
	wantSent(t, s.namesFrom(from), times{1, "memif_socket_filename_dump"}, times{1, "control_ping"}, times{1, "memif_dump"}, times{1, "control_ping"},
		times{1, "sw_interface_vhost_user_dump"}, times{1, "control_ping"}, times{1, "sw_interface_dump"}, times{1, "control_ping"},
		times{1, "bridge_domain_dump"}, times{1, "control_ping"},
		times{8, "memif_delete"}, times{8, "memif_socket_filename_add_del_v2"},
		times{1, "bridge_domain_dump"}, times{1, "control_ping"}, times{2, "bridge_domain_add_del_v2"})
	same(t, before, s.world())
}

// Each message of a Detach of several attachments fails in each way, with records and
// without. VPP's refusal is an error of one attachment, whose files stay; the others are
// undone. A connection that ends is an error of every attachment. The next Detach undoes
// the rest.
func TestDetachEveryMessage(t *testing.T) {
	t.Parallel()
	for kind := range severals {
		for name, recorded := range map[string]bool{"recorded": true, "lost": false} {
			plain := newSeveral(t, kind)
			if err := plain.add(bounded(t)); err != nil {
				t.Fatal(err)
			}
			if !recorded {
				plain.pod.loseRecord()
			}
			from := len(plain.Messages())
			plain.pod.mustDetach(t)
			count := map[string]int{}
			for _, message := range plain.namesFrom(from) {
				count[message]++
				for _, e := range endings {
					if e.Retval != 0 && strings.HasSuffix(message, "_dump") {
						continue // a dump has no error code
					}
					e.Message, e.Occurrence = message, count[message]
					t.Run(fmt.Sprintf("%s/%s/%s %d %s", kind, name, e.Message, e.Occurrence, e.name), func(t *testing.T) {
						t.Parallel()
						failingDetach(t, newSeveral(t, kind), recorded, e)
					})
				}
			}
		}
	}
}

func failingDetach(t *testing.T, s *several, recorded bool, e ending) {
	t.Helper()
	before := s.world()
	if err := s.add(bounded(t)); err != nil {
		t.Fatal(err)
	}
	var states []*state
	for _, a := range s.pod.all {
		states = append(states, stateOf(t, a.State))
	}
	if !recorded {
		s.pod.loseRecord()
	}
	s.faults(e.Fault)
	wantDetached(t, s, states, e)
	s.faults()
	s.pod.mustDetach(t)
	same(t, before, s.world())
}

// wantDetached wants the errors of a Detach in which one message fails.
func wantDetached(t *testing.T, s *several, states []*state, e ending) {
	t.Helper()
	errs := s.pod.detach(bounded(t))
	if len(errs) != len(s.pod.all) {
		t.Fatalf("%d errors", len(errs))
	}
	failed := 0
	for i, err := range errs {
		st := states[i]
		switch {
		case err == nil:
			if strings.Contains(s.State(), st.Tag) {
				t.Errorf("%s is left without an error:\n%s", st.Tag, s.State())
			}
			continue
		case e.Ending == standin.Refuse:
			wantNamed(t, err, e)
		case delegates.AllUnavailable(err) == nil:
			t.Errorf("%v: VPP is not unavailable", err)
		default:
			wantError(t, err, standin.SocketName)
		}
		failed++
		if st.Abstract == "" && st.Folder.Check(false, st.File) != nil {
			t.Errorf("the folder of %s, which is not undone, is gone", st.Tag)
		}
	}
	want := len(errs)
	if e.Ending == standin.Refuse && e.Message != "control_ping" {
		want = 1
	}
	if failed != want && (failed != 0 || !e.mayReconnect()) {
		t.Errorf("%d attachments have failed, want %d: %v", failed, want, errors.Join(errs...))
	}
}

// A change that must not be made is an error of its attachment alone.
func TestDetachStep(t *testing.T) {
	for _, words := range []string{"delete memif", "remove files"} {
		s := eight(t)
		before := s.world()
		if err := s.add(bounded(t)); err != nil {
			t.Fatal(err)
		}
		stop := errors.New("stop")
		errs := s.pod.detach(delegates.WithSteps(bounded(t), func(step string) error {
			if strings.HasPrefix(step, "net3: "+words) {
				return stop
			}
			return nil
		}))
		for i, err := range errs {
			if (i == 2) != errors.Is(err, stop) {
				t.Errorf("%s: net%d: %v", words, i+1, err)
			}
		}
		st := stateOf(t, s.pod.all[2].State)
		if left := strings.Count(s.State(), "kind=memif"); words == "delete memif" && (left != 1 || !strings.Contains(s.State(), st.Tag)) || words != "delete memif" && left > 0 {
			t.Errorf("%s: %d memifs are left:\n%s", words, left, s.State())
		}
		if _, err := os.Lstat(st.Place(st.File)); err != nil {
			t.Errorf("%s: %v", words, err)
		}
		s.pod.mustDetach(t)
		same(t, before, s.world())
	}
}

// Attachments are judged one by one: one VPP refuses, one does not run, one hangs up, one
// record is another's, and one attachment never was.
func TestDetachEachByItself(t *testing.T) {
	d := newDelegate(t)
	defer d.Close()
	refusing, gone, cut := newRig(t, standin.Options{}), newRig(t, standin.Options{}), newRig(t, standin.Options{})
	var all []*delegates.Attachment
	for i, r := range []*rig{refusing, gone, cut, cut} {
		a := r.attachment(sandboxA, named("blue"))
		a.IfName = fmt.Sprintf("net%d", i+1)
		raw := mustAttach(t, d, a)
		all = append(all, &delegates.Attachment{Sandbox: a.Sandbox, IfName: a.IfName, Owner: a.Owner, State: raw})
	}
	all[3].State = all[2].State
	all = append(all, &delegates.Attachment{Sandbox: sandboxA, IfName: "net5", Owner: testOwner})
	refusing.faults(standin.Fault{Message: "memif_delete", Retval: -13})
	gone.Close()
	cut.faults(standin.Fault{Message: "memif_dump", Ending: standin.Cut})
	errs := d.Detach(bounded(t), all)
	wantError(t, errs[0], "delete memif", "-13")
	if delegates.IsTemporary(errs[0]) || errs[1] != nil || errs[4] != nil {
		t.Errorf("%q", errs)
	}
	if away := delegates.AllUnavailable(errs[2]); len(away) != 1 || away[0].Endpoint != cut.Socket() {
		t.Errorf("%v", errs[2])
	}
	wantError(t, errs[3], "not one of this attachment")
	if _, err := os.Lstat(stateOf(t, all[1].State).Dir); !os.IsNotExist(err) {
		t.Errorf("the folder of a VPP that does not run is left: %v", err)
	}
	if entries, err := os.ReadDir(refusing.dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder of a refused one: %v, %v", entries, err)
	}
}

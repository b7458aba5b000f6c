package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/rig/standin"
)

// several is a pod with several attachments.
type several struct {
	*rig
	d        *Delegate
	subjects []subject
	pod      *pod
}

var severals = map[string][]func(*rig) map[string]any{
	"memifs": {ways[0].keys, func(*rig) map[string]any { return named("blue") }, ways[1].keys, ways[2].keys, ways[3].keys, ways[4].keys},
	"vhosts": {func(r *rig) map[string]any { return vhost(r, "server") }, func(r *rig) map[string]any { return vhost(r, "client") }},
}

func newSeveral(t *testing.T, kind string) *several {
	t.Helper()
	r := newRig(t, standin.Options{})
	r.admin().table(5)
	s := &several{rig: r}
	netns := newPod(t)
	for i, keys := range severals[kind] {
		a := r.attachment(sandboxA, keys(r))
		a.Netns, a.IfName = netns, fmt.Sprintf("net%d", i+1)
		s.subjects = append(s.subjects, a)
	}
	s.d = newDelegate(t)
	return s
}

func (s *several) add(ctx context.Context) (err error) {
	if s.pod, err = newPodOf(ctx, s.d, s.subjects); err != nil {
		return fmt.Errorf("Prepare: %w", err)
	}
	return s.pod.attach(ctx)
}

func (s *several) check(ctx context.Context) error {
	var errs []error
	for _, a := range s.pod.all {
		errs = append(errs, a.Network.Check(ctx, a))
	}
	return errors.Join(errs...)
}

// The interfaces of a pod are made together: all of VPP's numbers are asked for before the
// first is used, and each domain is looked for once.
func TestTogether(t *testing.T) {
	for kind, create := range map[string]string{"memifs": "memif_create_v2", "vhosts": "create_vhost_user_if_v2"} {
		t.Run(kind, func(t *testing.T) {
			s := newSeveral(t, kind)
			before, from := s.world(), len(s.Messages())
			if err := s.add(bounded(t)); err != nil {
				t.Fatal(err)
			}
			var sent []string
			for _, m := range s.Messages()[from:] {
				sent = append(sent, m.Name)
			}
			last := map[string]int{}
			for i, name := range sent {
				last[name] = i
			}
			if n := s.Count(create); n != len(s.subjects) {
				t.Errorf("%d times %s", n, create)
			}
			if kind == "memifs" && last["memif_socket_filename_add_del_v2"] > slices.Index(sent, create) ||
				last[create] > slices.Index(sent, "sw_interface_set_flags") {
				t.Errorf("one is waited for after the other: %q", sent)
			}
			begins := max(0, slices.Index(sent, "memif_socket_filename_add_del_v2")) // behind Prepare
			counts := map[string]int{}
			for _, name := range sent[begins:] {
				counts[name]++
			}
			if n := counts["bridge_domain_dump"]; n > 1+counts["bridge_domain_add_del_v2"] {
				t.Errorf("domains are listed %d times", n)
			}
			if err := s.check(bounded(t)); err != nil {
				t.Error(err)
			}
			s.pod.mustDetach(t)
			same(t, before, s.world())
		})
	}
}

// Each message of the attachments of a pod fails in each way; the error names the
// attachment, or VPP, and Del leaves everything as it was.
func TestEveryMessageTogether(t *testing.T) {
	t.Parallel()
	for kind := range severals {
		plain := newSeveral(t, kind)
		from := len(plain.Messages())
		if err := plain.add(bounded(t)); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, m := range plain.Messages()[from:] {
			if strings.HasPrefix(m.Name, "sockclnt") {
				continue
			}
			count[m.Name]++
			for _, e := range endings {
				if e.Retval != 0 && strings.HasSuffix(m.Name, "_dump") {
					continue // a dump has no error code
				}
				e.Message, e.Occurrence = m.Name, count[m.Name]
				t.Run(fmt.Sprintf("%s/%s %d %s", kind, e.Message, e.Occurrence, e.name), func(t *testing.T) {
					t.Parallel()
					s := newSeveral(t, kind)
					before := s.world()
					s.faults(e.Fault)
					err := s.add(bounded(t))
					switch {
					case err == nil && e.mayReconnect():
					case err == nil:
						t.Fatal("no error")
					case e.Ending == standin.Refuse && e.Message == "control_ping":
						wantNamed(t, err, e)
					case e.Ending == standin.Refuse:
						wantNamed(t, err, e)
						wantError(t, err, "net", "(network default/fast): ")
					default:
						wantError(t, err, standin.SocketName)
					}
					s.faults()
					s.pod.mustDetach(t)
					same(t, before, s.world())
					if err := errors.Join(s.add(bounded(t)), s.check(bounded(t))); err != nil {
						t.Errorf("then: %v", err)
					}
					s.pod.mustDetach(t)
					same(t, before, s.world())
				})
			}
		}
	}
}

// Two attachments of a pod cannot have one socket.
func TestOneSocketTwice(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	before := r.world()
	var subjects []subject
	for i, name := range []string{"net1", "net2"} {
		a := r.attachment(sandboxA, map[string]any{"id": i, "socket": map[string]any{"dir": r.dir, "file": "m.sock"}})
		a.IfName = name
		subjects = append(subjects, a)
	}
	p, err := newPodOf(bounded(t), d, subjects)
	if err != nil {
		t.Fatal(err)
	}
	state := r.State()
	wantError(t, p.attach(bounded(t)), "net2", "m.sock", "used by the pod's net1", "socket.file")
	same(t, state, r.State())
	p.mustDetach(t)
	same(t, before, r.world())
}

// Pods that join the same two domains, in opposite order, do not wait for each other for
// ever.
func TestDomainsCrosswise(t *testing.T) {
	r := newRig(t, standin.Options{})
	before := r.world()
	var work sync.WaitGroup
	for i, order := range [][]string{{"blue", "red"}, {"red", "blue"}, {"blue", "red"}, {"red", "blue"}} {
		d := newDelegate(t)
		s := &several{rig: r, d: d}
		for k, name := range order {
			a := r.attachment(strings.Repeat(string(rune('a'+i)), 32), named(name))
			a.IfName = fmt.Sprintf("net%d", k+1)
			s.subjects = append(s.subjects, a)
		}
		work.Go(func() {
			for range 10 {
				if err := errors.Join(s.add(bounded(t)), s.check(bounded(t))); err != nil {
					t.Error(err)
				}
				s.pod.mustDetach(t)
			}
		})
	}
	work.Wait()
	same(t, before, r.world())
}

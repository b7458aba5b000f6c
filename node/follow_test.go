package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// following is a follower under test: its clock is the test's.
type following struct {
	*rig
	tick   chan time.Time
	paused chan time.Duration // each pause that it takes
	resume chan time.Time
	told   chan State
	errs   chan error
	stop   func()
	late   <-chan time.Time // when a test that waits has failed
}

func (r *rig) follow() *following {
	f := &following{rig: r, tick: make(chan time.Time), paused: make(chan time.Duration), resume: make(chan time.Time), told: make(chan State), errs: make(chan error), late: time.After(time.Minute)}
	ctx, cancel := context.WithCancel(r.t.Context())
	var ended sync.WaitGroup
	ended.Add(1)
	go func() {
		defer ended.Done()
		(&Follower{
			Node: r.Node, Tick: f.tick,
			After: func(d time.Duration) <-chan time.Time {
				select {
				case f.paused <- d:
				case <-ctx.Done():
				}
				return f.resume
			},
			Observe: func(s State, err error) {
				select {
				case f.told <- s:
				case <-ctx.Done():
					return
				}
				select {
				case f.errs <- err:
				case <-ctx.Done():
				}
			},
		}).Run(ctx)
	}()
	f.stop = func() { cancel(); ended.Wait() }
	r.t.Cleanup(f.stop)
	return f
}

// next is the next pass that is as wanted; others, of events that are still
// under way, go by.
func (f *following) next(what string, want func(State, error) bool) {
	f.t.Helper()
	for {
		select {
		case s := <-f.told:
			if want(s, <-f.errs) {
				return
			}
		case <-f.paused:
			f.resume <- time.Time{}
		case <-f.late:
			f.t.Fatalf("no pass that %s", what)
		}
	}
}

func adopts(name string) func(State, error) bool {
	return func(s State, err error) bool {
		return err == nil && s.File != "" && filepath.Base(s.Adopted) == name
	}
}

func changed(s State, err error) bool { return err == nil && s.Changed }

func TestFollow(t *testing.T) {
	r := newRig(t)
	account := r.withAccount()
	f := r.follow()
	f.next("waits", func(s State, err error) bool { return err == nil && s.File == "" })
	r.put("10-calico.conflist", calico)
	f.next("adopts calico", adopts("10-calico.conflist"))
	r.put("05-flannel.conflist", flannel)
	f.next("adopts flannel", adopts("05-flannel.conflist"))
	ours := filepath.Join(r.ConfDir, "00-plexus.conflist")
	if err := os.Remove(ours); err != nil {
		t.Fatal(err)
	}
	f.next("writes it again", changed)
	r.put("00-multus.conf", multus)
	f.next("stays first", func(s State, err error) bool {
		return adopts("05-flannel.conflist")(s, err) && filepath.Base(s.File) == "0-plexus.conflist"
	})
	account.rotate("two")
	tick(f)
	f.next("has the token", func(State, error) bool { return r.read(filepath.Join(r.CredDir, "token")) == "two" })
	f.stop()
	if log := r.log.String(); strings.Count(log, "waiting for the cluster network") != 1 || strings.Count(log, "is not adopted") != 1 {
		t.Errorf("not once:\n%s", log)
	}
}

// tick has the follower do a slow pass, as soon as it waits.
func tick(f *following) {
	f.t.Helper()
	for {
		select {
		case f.tick <- time.Time{}:
			return
		case <-f.told:
			<-f.errs
		case <-f.paused:
			f.resume <- time.Time{}
		case <-f.late:
			f.t.Fatal("it does not wait")
		}
	}
}

// Whoever takes our configuration away again and again is answered, ever more
// slowly; when it ends, so does the pause.
func TestFollowFights(t *testing.T) {
	r := newRig(t)
	r.put("10-calico.conflist", calico)
	f := r.follow()
	f.next("adopts calico", adopts("10-calico.conflist"))
	ours := filepath.Join(r.ConfDir, "00-plexus.conflist")
	var pauses []time.Duration
	for range 9 {
		if err := os.Remove(ours); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; {
			select {
			case <-f.told:
				<-f.errs
			case d := <-f.paused:
				pauses, answered = append(pauses, d), true
			case <-f.late:
				t.Fatalf("not answered after %v", pauses)
			}
		}
		f.resume <- time.Time{}
	}
	if pauses[0] != minPause || pauses[1] != 2*minPause || pauses[8] != maxPause {
		t.Errorf("pauses %v", pauses)
	}
	// The tick's passes come behind those of events that are under way.
	tick(f)
	tick(f)
	if err := os.Remove(ours); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case <-f.told:
			<-f.errs
			continue
		case d := <-f.paused:
			if d != minPause {
				t.Errorf("pause after the fight: %v", d)
			}
		case <-f.late:
			t.Fatal("not answered after the fight")
		}
		break
	}
}

// A folder that is made anew is watched again from the next tick on.
func TestFollowFolder(t *testing.T) {
	r := newRig(t)
	r.put("10-calico.conflist", calico)
	f := r.follow()
	f.next("adopts calico", adopts("10-calico.conflist"))
	if err := os.Rename(r.ConfDir, r.ConfDir+".away"); err != nil {
		t.Fatal(err)
	}
	tick(f)
	f.next("waits", func(s State, err error) bool { return err == nil && s.File == "" })
	r.put("20-flannel.conflist", flannel)
	f.next("adopts flannel", adopts("20-flannel.conflist"))
}

// A refusal, and credentials that cannot be read, are told, and tried again.
func TestFollowErrors(t *testing.T) {
	r := newRig(t)
	account := r.withAccount()
	token := filepath.Join(account.dir, "token")
	if err := os.Rename(token, token+".away"); err != nil {
		t.Fatal(err)
	}
	r.put("00-multus.conf", multus)
	f := r.follow()
	f.next("fails", func(s State, err error) bool {
		return err != nil && strings.Contains(err.Error(), "service account") && s.File == ""
	})
	if err := os.Rename(token+".away", token); err != nil {
		t.Fatal(err)
	}
	tick(f)
	f.next("refuses", func(_ State, err error) bool {
		var refused *RefusedError
		return errors.As(err, &refused)
	})
	r.drop("00-multus.conf")
	r.put("10-calico.conflist", calico)
	f.next("adopts calico", adopts("10-calico.conflist"))
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	r.drop("10-calico.conflist")
	r.put("20-flannel.conflist", flannel)
	f.next("goes on without a new token", func(s State, err error) bool {
		return err != nil && filepath.Base(s.Adopted) == "20-flannel.conflist"
	})
}

// Several installers, and a network whose file is written again and again, in
// parts: the runtime's first file is whole at any time, and nothing is left.
func TestConfigureRace(t *testing.T) {
	r := newRig(t)
	r.put("10-calico.conflist", calico)
	r.configure()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(r.ConfDir, "10-calico.conflist")
			if err := os.WriteFile(name, []byte(strings.Replace(calico, "0.3.1", []string{"0.3.1", "1.0.0"}[i%2], 1)), 0o600); err != nil {
				t.Error(err)
			}
		}
	}()
	var installers sync.WaitGroup
	for range 4 {
		installers.Add(1)
		go func() {
			defer installers.Done()
			n := &Node{Paths: r.Paths, Log: slog.New(slog.DiscardHandler)}
			for range 20 {
				if _, err := n.Configure(context.Background()); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	seen := 0
	done := make(chan struct{})
	go func() { installers.Wait(); close(done) }()
	for over := false; !over; seen++ {
		select {
		case <-done:
			over = true
		default:
		}
		if _, err := ownConf([]byte(r.read(filepath.Join(r.ConfDir, "00-plexus.conflist")))); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if got := r.names(r.ConfDir); got != "00-plexus.conflist 10-calico.conflist" || seen == 0 {
		t.Errorf("there are %s", got)
	}
}

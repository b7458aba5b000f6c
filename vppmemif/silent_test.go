package vppmemif

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
)

// verbLimit is the time that a verb may take while VPP hangs.
const verbLimit = 10 * time.Second

// wantAway wants an error about one VPP alone.
func wantAway(t *testing.T, err error, socket string) {
	t.Helper()
	away := delegates.AllUnavailable(err)
	if len(away) == 0 {
		t.Errorf("error %v, want VPP to be unavailable", err)
	}
	for _, e := range away {
		if e.Endpoint != socket || e.Kind != "VPP" || !strings.Contains(e.Error(), "no answer within") {
			t.Errorf("error %v, want one about %s", e, socket)
		}
	}
}

// A server that takes connections and says nothing keeps all requests together as long
// as one, and is connected to once.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(tempDir(t), "api.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := newDelegate(t)
	defer d.Close()
	begun := time.Now()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			wantAway(t, d.ready(bounded(t), json.RawMessage(fmt.Sprintf(`{"apiSocket": %q}`, socket))), socket)
		})
	}
	all.Wait()
	if took := time.Since(begun); took > verbLimit {
		t.Errorf("it took %s", took)
	}
	var connections []net.Conn // kept: one that is collected as garbage is closed, and made anew
	for l.SetDeadline(time.Now().Add(100*time.Millisecond)) == nil {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		defer conn.Close()
		connections = append(connections, conn)
	}
	if len(connections) != 1 {
		t.Errorf("%d connections, want 1", len(connections))
	}
	runtime.KeepAlive(connections)
}

// hang makes the stand-in do nothing until the function it returns is called: what it
// is sent meanwhile is read and answered then.
func (r *rig) hang() (resume func()) {
	goOn := make(chan struct{})
	r.onMessage(func(standin.Message) { <-goOn })
	return sync.OnceFunc(func() {
		r.onMessage(func(standin.Message) {})
		close(goOn)
	})
}

// awaitReady returns when requests are made again: some that come at once after VPP has
// gone on are still refused.
func awaitReady(t *testing.T, d *Delegate, config json.RawMessage) {
	t.Helper()
	begun := time.Now()
	for err := d.ready(bounded(t), config); err != nil; err = d.ready(bounded(t), config) {
		if time.Since(begun) > verbLimit {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// pod4 is a pod of four memifs.
func pod4(t *testing.T, r *rig, d *Delegate, sandbox string) *pod {
	t.Helper()
	var subjects []subject
	for i := range 4 {
		a := r.attachment(sandbox, named("blue"))
		a.IfName = fmt.Sprint("net", i+1)
		subjects = append(subjects, a)
	}
	p, err := newPodOf(bounded(t), d, subjects)
	if err == nil {
		err = p.attach(bounded(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Pods are removed together while VPP hangs, each with four memifs: all end within the
// limit of one verb. Nothing is lost: when VPP goes on, the next DEL undoes everything.
func TestHungVPP(t *testing.T) {
	t.Parallel()
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	defer d.Close()
	before := r.world()
	config := r.attachment(sandboxA, nil).Conf
	var pods []*pod
	for i := range 5 {
		pods = append(pods, pod4(t, r, d, fmt.Sprintf("%d%s", i, sandboxA[1:])))
	}
	connected := r.Count("sockclnt_create")
	resume := r.hang()
	defer resume()
	remove := func(want func(error)) time.Duration {
		begun := time.Now()
		var all sync.WaitGroup
		for _, pod := range pods {
			all.Go(func() {
				for _, err := range pod.detach(bounded(t)) {
					want(err)
				}
			})
		}
		all.Wait()
		return time.Since(begun)
	}
	hung := func(err error) { wantAway(t, err, r.Socket()) }
	if took := remove(hung); took > verbLimit {
		t.Errorf("the first DEL took %s", took)
	}
	if took := remove(hung); took > verbLimit {
		t.Errorf("the second DEL took %s", took)
	}
	resume()
	awaitReady(t, d, config)
	remove(func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	same(t, before, r.world())
	if n := r.Count("sockclnt_create") - connected; n > 3 {
		t.Errorf("%d more connections", n)
	}
}

// A VPP that greets and answers nothing else costs a pod's DEL a bounded time.
func TestGreetsOnly(t *testing.T) {
	t.Parallel()
	for _, also := range []string{"", "control_ping"} {
		t.Run("answers "+also, func(t *testing.T) {
			t.Parallel()
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			defer d.Close()
			before := r.world()
			pod := pod4(t, r, d, sandboxA)
			var silent []standin.Fault
			for _, message := range []string{"control_ping", "memif_socket_filename_dump", "memif_dump", "sw_interface_dump", "show_version"} {
				if message != also {
					silent = append(silent, standin.Fault{Message: message, Ending: standin.Silence})
				}
			}
			r.faults(silent...)
			if also != "" { // a dump ends with the ping's answer: the one behind it has to stay away
				r.faults(standin.Fault{Message: "show_version", Ending: standin.Silence}, standin.Fault{Message: "memif_delete", Ending: standin.Silence})
			}
			begun := time.Now()
			for _, err := range pod.detach(bounded(t)) {
				wantAway(t, err, r.Socket())
			}
			if took := time.Since(begun); took > verbLimit {
				t.Errorf("DEL took %s", took)
			}
			r.faults()
			awaitReady(t, d, r.attachment(sandboxA, nil).Conf)
			pod.mustDetach(t)
			same(t, before, r.world())
		})
	}
}

// An answer that comes too late is not taken for that of the next request.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	defer d.Close()
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	resume := r.hang()
	defer resume()
	wantAway(t, d.check(bounded(t), a, raw), r.Socket())
	resume()
	awaitReady(t, d, a.Conf)
	for range 100 {
		if err := d.check(bounded(t), a, raw); err != nil {
			t.Fatal(err)
		}
	}
	mustDel(t, d, a, raw)
}

// A request that was given up leaves the connection to nobody, and the others alone.
func TestGivenUpRequest(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	came := r.sent("memif_dump")
	var others sync.WaitGroup
	stop := make(chan struct{})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := d.check(bounded(t), a, raw); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		ctx, cancel := context.WithCancel(bounded(t))
		done := make(chan error, 1)
		go func() { done <- d.check(ctx, a, raw) }()
		select {
		case <-came:
		default:
		}
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	close(stop)
	others.Wait()
	mustDel(t, d, a, raw)
	d.Close()
	if n := r.Count("sockclnt_create") - r.Count("sockclnt_delete"); n != 0 {
		t.Errorf("%d have gone without a goodbye", n)
	}
}

// Only a VPP that cannot be connected to has lost everything: another file that is
// missing says nothing about VPP, nor does one VPP about another.
func TestNotRunningIsJudgedAlone(t *testing.T) {
	gone := unavailable("/run/vpp/api.sock", fs.ErrNotExist)
	missing := &fs.PathError{Op: "open", Path: "/etc/group", Err: fs.ErrNotExist}
	hung := unavailable("/run/other/api.sock", os.ErrDeadlineExceeded)
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {gone, true}, {fmt.Errorf("delete: %w", gone), true}, {errors.Join(gone, gone), true},
		{missing, false}, {errors.Join(gone, missing), false}, {errors.Join(gone, hung), false}, {hung, false},
	} {
		if got := notRunning(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

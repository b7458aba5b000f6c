package memif

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loopback is a server that sends back what it receives.
func loopback(t *testing.T, l *Listener, c Config) *Interface {
	t.Helper()
	var i *Interface
	ready := make(chan struct{})
	c.Receive = func(f []byte) {
		<-ready
		i.Send(f)
	}
	var err error
	if i, err = l.Open(c); err != nil {
		t.Fatal(err)
	}
	close(ready)
	return i
}

func listen(t *testing.T) (*Listener, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		l.Wait()
	})
	return l, socket
}

func dial(t *testing.T, socket string, id uint32, o Options) *Peer {
	t.Helper()
	p, err := Dial(t.Context(), socket, id, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.WaitLink(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// echo sends frames to a loopback and fails unless exactly those come back.
func echo(t *testing.T, p *Peer, n int, traffic Traffic) {
	t.Helper()
	before := p.Received()
	if err := p.Send(t.Context(), n, traffic); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitReceived(t.Context(), before+n); err != nil {
		t.Fatal(err)
	}
	if got := p.Tally(); got.Frames != before+n || got.Duplicates+got.OutOfOrder+got.Corrupt+got.Other != 0 {
		t.Errorf("after %d frames of %d bytes: %s", n, traffic.Size, got)
	}
}

// Frames of any size go round, also when the 16-bit ring indices do.
func TestSizes(t *testing.T) {
	l, socket := listen(t)
	loopback(t, l, Config{ID: 7})
	for _, o := range []Options{{}, {RingSize: 256, BufferSize: 512}, {RingSize: 16384}} {
		p := dial(t, socket, 7, o)
		for _, size := range []int{MinSize, 64, 512, 2048, 2049, 9000} {
			echo(t, p, 2000, Traffic{Size: size})
		}
		echo(t, p, 70_000, Traffic{})
		p.Close()
	}
}

// Several interfaces live on a socket, come and go, and do not disturb each
// other.
func TestSharedSocket(t *testing.T) {
	l, socket := listen(t)
	one := loopback(t, l, Config{ID: 1})
	p := dial(t, socket, 1, Options{})
	for range 5 {
		two := loopback(t, l, Config{ID: 2, Mode: IP, Secret: "s"})
		q := dial(t, socket, 2, Options{Mode: IP, Secret: "s"})
		echo(t, q, 100, Traffic{})
		echo(t, p, 100, Traffic{})
		two.Close()
		two.Wait()
		if err := q.WaitNoLink(t.Context()); err != nil {
			t.Error(err)
		}
		q.Close()
	}
	if _, err := l.Open(Config{ID: 1}); err == nil {
		t.Error("an id is opened twice")
	}
	counted := func() bool { sent, _, _ := one.Counters(); return sent == 500 } // a frame is counted when it is on its way
	if err := p.wait(t.Context(), "has all frames counted", counted); err != nil {
		t.Error(err)
	}
	if sent, dropped, received := one.Counters(); sent != 500 || dropped != 0 || received != 500 {
		t.Errorf("counters: %d sent, %d dropped, %d received", sent, dropped, received)
	}
	p.Close()
	dial(t, socket, 1, Options{Gomemif: true})
}

// A peer that does not take part properly is sent away, and leaves nothing.
func TestBadClients(t *testing.T) {
	l, socket := listen(t)
	i := loopback(t, l, Config{ID: 1, Secret: "right"})
	before := files(t)
	region := newMessage(msgAddRegion)
	region.put64(4, 4096)
	ring := func(m ringMessage) *message { return m.encode() }
	good := initiation{version, 1, Ethernet, "right"}.encode("bad")
	for name, c := range map[string]struct {
		messages []*message
		fds      bool
		want     string
	}{
		"no introduction": {[]*message{newMessage(msgConnect)}, false, "before the interface is named"},
		"other id":        {[]*message{initiation{version, 2, Ethernet, "right"}.encode("bad")}, false, "unmatched interface id"},
		"other secret":    {[]*message{initiation{version, 1, Ethernet, "wrong"}.encode("bad")}, false, "incorrect secret"},
		"other mode":      {[]*message{initiation{version, 1, IP, "right"}.encode("bad")}, false, "mode mismatch"},
		"other version":   {[]*message{initiation{1, 1, Ethernet, "right"}.encode("bad")}, false, "unsupported version"},
		"no rings":        {[]*message{good, newMessage(msgConnect)}, false, "0 rings"},
		"region, no fd":   {[]*message{good, region}, false, "no file descriptor"},
		"ring, no region": {[]*message{good, ring(ringMessage{s2m: true, log2Size: 4})}, true, "no region"},
		"huge ring":       {[]*message{good, region, ring(ringMessage{s2m: true, log2Size: 10})}, true, "its region at 4096"},
		"no cookie":       {[]*message{good, region, ring(ringMessage{s2m: true, log2Size: 4})}, true, "cookie"},
		"odd offset":      {[]*message{good, region, ring(ringMessage{s2m: true, offset: 3, log2Size: 4})}, true, "not aligned"},
		"long region":     {[]*message{good, func() *message { m := *region; m.put64(4, 1<<40); return &m }()}, true, "map"},
		"unknown":         {[]*message{good, newMessage(77)}, false, "unknown message"},
	} {
		a, err := parseAddress(socket)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := a.dial()
		if err != nil {
			t.Fatal(err)
		}
		ch := channel{conn}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		for _, m := range c.messages {
			fd := -1
			if c.fds {
				if fd, err = unix.MemfdCreate("bad", 0); err != nil {
					t.Fatal(err)
				}
				if err := unix.Ftruncate(fd, 4096); err != nil {
					t.Fatal(err)
				}
			}
			_ = ch.send(m, fd)
			closeFD(fd)
		}
		for err == nil {
			_, _, err = ch.receive()
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: sent away by %v, want %q", name, err, c.want)
		}
		conn.Close()
		i.waitFree(t)
	}
	p := dial(t, socket, 1, Options{Secret: "right"})
	echo(t, p, 100, Traffic{})
	p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i.Connected() || files(t) > before {
		if ctx.Err() != nil {
			t.Fatalf("%d files are open, before it were %d", files(t), before)
		}
	}
}

// waitFree returns when the interface takes another client.
func (i *Interface) waitFree(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		i.mu.Lock()
		free := i.link == nil
		i.mu.Unlock()
		if free {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the interface still has its client")
		}
	}
}

// files is the number of open files of this process.
func files(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A tally tells what is wrong.
func TestTally(t *testing.T) {
	mac := net.HardwareAddr{2, 1, 1, 1, 1, 1}
	p := &Peer{changed: make(chan struct{}), senders: map[string]*senderTally{}}
	for _, seq := range []uint64{5, 6, 6, 9, 8} {
		f, err := Traffic{Tags: []uint16{100, 7}, Size: 200}.testFrame(Ethernet, mac, seq)
		if err != nil {
			t.Fatal(err)
		}
		if len(f) != 200 {
			t.Errorf("the frame has %d bytes", len(f))
		}
		if seq == 9 {
			f[150]++
		}
		p.receive(f)
	}
	p.receive([]byte("short"))
	if got, want := p.Tally().String(), "4 frames, 1 duplicates, 1 out of order, 1 corrupt, 5 tagged 100.7"; got != want {
		t.Errorf("tally: %s, want %s", got, want)
	}
	if got := p.TallyFrom(net.HardwareAddr{2, 2, 2, 2, 2, 2}); got.Frames != 0 || got.Other != 1 {
		t.Errorf("tally of another sender: %+v", got)
	}
	for _, traffic := range []Traffic{{Size: 20}, {Size: 64, Tags: []uint16{1}}, {Size: MaxFrame + 1}} {
		if _, err := traffic.testFrame(Ethernet, mac, 0); err == nil {
			t.Errorf("a frame is made of %+v", traffic)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"/run/a": "/run/a", "abstract:x": "abstract:x",
		"abstract:x/y,netns_name=/run/netns/n": "abstract:x/y,netns_name=/run/netns/n",
		"abstract:x,netns_name=n":              "abstract:x,netns_name=/var/run/netns/n",
		"":                                     "", "abstract:": "", "abstract:x,pid=3": "", "abstract:x,netns_name=": "",
		"/" + strings.Repeat("x", MaxPath): "",
	} {
		a, err := parseAddress(in)
		if got := fmt.Sprint(a); (err != nil) != (want == "") || (err == nil && got != want) {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
}

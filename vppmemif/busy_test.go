package vppmemif

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/endpoint"
	"github.com/plexus-cni/plexus/rig/standin"
)

// VPP lets few clients wait at its API socket. The kernel sends the others away, and they
// try again.
func TestBusyAPISocket(t *testing.T) {
	r := newRig(t, standin.Options{})
	real := filepath.Join(r.vpp, standin.SocketName)
	busy := filepath.Join(r.vpp, "busy.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: busy}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	// One waits at the socket already, so that the next one is sent away.
	first, err := net.Dial("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	second, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(second, &unix.SockaddrUnix{Name: busy}); err != unix.EAGAIN {
		t.Fatalf("the socket is not busy: %v", err)
	}
	_ = unix.Close(second)
	done, sentAway := make(chan error, 1), make(chan bool, 1)
	go func() {
		conn, err := dial(notifier{bounded(t), sentAway}, busy)
		if err == nil {
			conn.Close(endpoint.ErrClosed)
		}
		done <- err
	}()
	select {
	case <-sentAway:
	case err := <-done:
		t.Fatalf("it has not tried again: %v", err)
	}
	// From now on every client is led to the stand-in.
	var work sync.WaitGroup
	l, err := net.FileListener(os.NewFile(uintptr(mustDup(t, fd)), "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	work.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", real)
			if err != nil {
				_ = from.Close()
				continue
			}
			go pipe(from, to)
			go pipe(to, from)
		}
	})
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = first.Close()
	_ = l.Close()
	work.Wait()
}

// notifier is a context that notifies when a goroutine waits for it.
type notifier struct {
	context.Context
	notify chan bool
}

func (w notifier) Done() <-chan struct{} {
	select {
	case w.notify <- true:
	default:
	}
	return w.Context.Done()
}

func mustDup(t *testing.T, fd int) int {
	t.Helper()
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

func pipe(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if _, errWrite := to.Write(buf[:n]); err != nil || errWrite != nil {
			return
		}
	}
}

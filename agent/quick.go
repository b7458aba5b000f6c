package agent

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// checkedListener accepts root's connections alone, and those of the agent's own
// user; the socket's mode says the same, this holds for who got it by another way.
//
// plexus sends its request in one piece. Such a one is there when its connection is
// accepted, and is given to quick; net/http takes 0.08 ms more to read and answer it.
// Whatever else comes, what is to be refused too, is net/http's.
type checkedListener struct {
	*net.UnixListener
	quick func(conn net.Conn, asked *Request) // does not wait
	buf   [maxQuick]byte                      // of the one who accepts
}

// maxQuick is the most that a request has that is served quickly, in bytes.
const maxQuick = 16 << 10

// Accept is net.Listener.
func (l *checkedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, sent, err := l.first(conn)
		if err != nil || peer.Uid != 0 && int(peer.Uid) != os.Getuid() {
			_ = conn.Close()
			continue
		}
		if asked, err := parseRequest(quickBody(sent)); err == nil {
			l.quick(conn, asked)
			continue
		}
		return &replayed{conn, sent}, nil
	}
}

// first is who has connected, and what it has sent by now. Of connections that say
// nothing there may be many: they keep no buffer.
func (l *checkedListener) first(conn *net.UnixConn) (peer *unix.Ucred, sent []byte, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	errRead := raw.Read(func(fd uintptr) bool {
		if peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			n, _ := unix.Read(int(fd), l.buf[:]) // the connection does not block; what is wrong with it the next one reads
			sent = bytes.Clone(l.buf[:max(n, 0)])
		}
		return true
	})
	if err == nil {
		err = errRead
	}
	return peer, sent, err
}

// quickBody is the body of plexus' request if what was sent is just that, else nil.
func quickBody(sent []byte) []byte {
	const line, length = "POST /v1/cni HTTP/1.0\r\n", "Content-Length: "
	if !bytes.HasPrefix(sent, []byte(line)) {
		return nil
	}
	head, body, whole := bytes.Cut(sent, []byte("\r\n\r\n"))
	_, after, named := bytes.Cut(head, []byte("\r\n"+length))
	if !whole || !named {
		return nil
	}
	digits, _, _ := bytes.Cut(after, []byte("\r\n"))
	if n, err := strconv.ParseUint(string(digits), 10, 32); err != nil || n == 0 || int(n) != len(body) {
		return nil
	}
	return body
}

// replayed is a connection of which something has been read.
type replayed struct {
	*net.UnixConn
	sent []byte
}

// Read is net.Conn.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.sent) == 0 {
		return r.UnixConn.Read(p)
	}
	n := copy(p, r.sent)
	r.sent = r.sent[n:]
	return n, nil
}

// quickly answers plexus. The request is undone when plexus ends before.
func (s *Server) quickly(conn net.Conn, asked *Request) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, conn) // there is nothing more until it ends
		cancel()
	}()
	err := unpanicked(s.Log, func() error {
		s.serve(ctx, asked, func(a *CNIAnswer) {
			answer := a.body()
			head := "HTTP/1.0 200 OK\r\nContent-Length: " + strconv.Itoa(len(answer)) + "\r\n\r\n"
			_, _ = conn.Write(append([]byte(head), answer...)) // whoever asked is gone
		})
		return nil
	})
	if err != nil {
		s.Log.Error("a request is not answered", "why", err.Error())
	}
	time.AfterFunc(reportAfter, func() { _ = conn.Close() }) // not beside plexus' end
}

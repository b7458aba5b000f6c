package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// confirming ends the name that the socket of an agent is bound to which confirms
// requests. A client reads it by getpeername(2) as soon as the kernel has connected it,
// which a stopped agent does not keep it from: so it knows whether to wait for a
// confirmation. The socket gets its own name by a rename, which the kernel does not
// hear of. cmd/plexus knows the name too.
const confirming = ".102"

// listenUnix replaces a socket that a former agent has left, in one step: at no moment is
// there none.
func listenUnix(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	bound := socket + confirming
	if err := os.RemoveAll(bound); err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	old := unix.Umask(0o177) // no other user may connect before the mode is set
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	listener.SetUnlinkOnClose(false) // the next agent may have put its socket there before this one ends
	if err := errors.Join(os.Chmod(bound, 0o600), os.Rename(bound, socket)); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", socket, err), listener.Close())
	}
	return listener, nil
}

// confirms reports whether the agent at the other end confirms requests.
func confirms(conn net.Conn) bool {
	return strings.HasSuffix(conn.RemoteAddr().String(), confirming)
}

// checkedListener accepts the connections of root and of the agent's own user alone.
// The mode of the socket requires the same; this holds for a user who has the socket by
// another way.
type checkedListener struct{ *net.UnixListener }

// Accept is net.Listener.
func (l checkedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUser(conn); err == nil && (uid == 0 || uid == os.Getuid()) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// peerUser is the user ID of the process at the other end of a connection.
func peerUser(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	errControl := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(errControl, err); err != nil {
		return 0, err
	}
	return int(peer.Uid), nil
}

// confirmed sends the status 102 before a request is begun, to clients that know
// interim answers (HTTP/1.1). plexus serves a request itself that is not confirmed in
// time. It closes the connection first, and then the confirmation cannot be written:
// an agent that was stopped meanwhile does not begin the request.
func confirmed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoAtLeast(1, 1) {
			w.WriteHeader(http.StatusProcessing)
			if r.Context().Err() != nil { // net/http ends it when the write fails
				panic(http.ErrAbortHandler)
			}
		}
		next.ServeHTTP(w, r)
	})
}

package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/vpe"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/endpoint"
)

// vpps are the connections to VPPs, by API socket.
type vpps struct {
	pool    *endpoint.Pool[*link]
	mu      sync.Mutex
	watched map[string]*link // kept from one Watch to the next
}

func newVPPs() *vpps {
	return &vpps{pool: &endpoint.Pool[*link]{
		Dial:        connect,
		Unavailable: func(socket string, cause error) error { return unavailable(socket, cause) },
	}}
}

// link is a connection that tells when it has ended.
type link struct {
	*core.Connection
	wire  *wire
	ended context.Context // done when it has ended; its cause says why
}

// Ended reports whether VPP, or this process, has ended the connection.
func (l *link) Ended() bool { return l.ended.Err() != nil }

// Close ends the connection with all requests that wait over it, and says goodbye.
func (l *link) Close(cause error) {
	if errors.As(cause, &endpoint.SilentError{}) {
		l.wire.abandon(cause)
	}
	l.Disconnect()
}

// unavailable is the error of a VPP that does not answer.
func unavailable(socket string, cause error) *conf.Unavailable {
	return &conf.Unavailable{Endpoint: socket, Kind: "VPP", Err: cause, Hint: `is vpp running, and is "apiSocket" its API socket?`}
}

// connect connects and checks, once for each connection, that this VPP speaks the
// messages that plexus uses. A suspect VPP has to answer a ping, too.
func connect(ctx context.Context, socket string, suspect bool) (*link, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, unavailable(socket, err)
	}
	if suspect {
		bounded, cancel := context.WithTimeout(ctx, endpoint.ShortWait)
		defer cancel()
		if err := conn.ping(bounded); err != nil {
			if bounded.Err() != nil {
				err = endpoint.SilentError{Limit: endpoint.ShortWait}
			}
			conn.Close(err)
			return nil, unavailable(socket, err)
		}
	}
	if err := compatible(ctx, conn, messages()...); err != nil {
		conn.Disconnect()
		return nil, err
	}
	return conn, nil
}

// dial connects. VPP lets five wait at its API socket (socksvr.c) and has the
// kernel send the next one away; that one tries again. So does for a moment one
// whose connection ends before VPP says a word: a VPP that is dying still lets wait
// whom it will never serve, and nobody listens there when it is dead.
func dial(ctx context.Context, socket string) (*link, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		w, err := openWire(ctx, socket)
		if err == nil {
			conn, err := core.Connect(w)
			if err != nil {
				return nil, errors.Join(err, w.Disconnect())
			}
			return &link{conn, w, w.ended}, nil
		}
		dying := wait < 50*time.Millisecond &&
			(errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF))
		if !errors.Is(err, syscall.EAGAIN) && !dying {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// compatible checks that VPP knows the messages, by names and CRCs.
func compatible(ctx context.Context, conn *link, messages ...api.Message) error {
	ch, err := conn.NewAPIChannel()
	if err != nil {
		return err
	}
	defer ch.Close()
	var differs *api.CompatibilityError
	if err := ch.CheckCompatiblity(messages...); errors.As(err, &differs) {
		version := "unknown"
		reply, err := vpe.NewServiceClient(conn).ShowVersion(ctx, &vpe.ShowVersion{})
		if err == nil {
			version = reply.Version
		}
		return fmt.Errorf("VPP %s does not speak the messages %v as plexus does: plexus works with VPP 24.10 to 26.06", version, differs.IncompatibleMessages)
	} else if err != nil {
		return err
	}
	return nil
}

// ping waits until VPP has answered a request without an effect.
func (l *link) ping(ctx context.Context) error {
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ended, cancel)()
	if _, err := memclnt.NewServiceClient(l).ControlPing(bounded, &memclnt.ControlPing{}); err != nil {
		return errors.Join(err, context.Cause(l.ended))
	}
	return nil
}

// close says goodbye to every VPP. One that is left without it keeps what it has
// of a client until it finds out, and many at once can keep it busy for good
// (25.06 to 26.06).
func (v *vpps) close() {
	v.mu.Lock()
	watched := v.watched
	v.watched = nil
	v.mu.Unlock()
	for _, conn := range watched {
		conn.Disconnect()
	}
	v.pool.Close()
}

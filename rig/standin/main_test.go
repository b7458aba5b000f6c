package standin_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.fd.io/govpp"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
)

func TestMain(m *testing.M) { os.Exit(node.Main(m)) }

// rig is a stand-in with a client.
type rig struct {
	t      *testing.T
	dir    string
	server *standin.Server
	conn   *core.Connection
	ch     api.Channel
}

// newRig starts a stand-in in a folder of its own and connects to it.
func newRig(t *testing.T, o standin.Options) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	if o.RuntimeDir == "" {
		o.RuntimeDir = filepath.Join(r.dir, "run")
	}
	var err error
	if r.server, err = standin.Start(t.Context(), r.dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.server.Close)
	r.conn, r.ch = connect(t, r.server.Socket())
	return r
}

// connect connects govpp as it comes.
func connect(t *testing.T, socket string) (*core.Connection, api.Channel) {
	t.Helper()
	conn, events, err := govpp.AsyncConnect(socket, 3, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Disconnect)
	if e := <-events; e.State != core.Connected {
		t.Fatalf("connect to %s: %v: %v", socket, e.State, e.Error)
	}
	ch, err := conn.NewAPIChannel()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ch.Close)
	ch.SetReplyTimeout(5 * time.Second)
	return conn, ch
}

// retval is the return code of a request.
func (r *rig) retval(request, reply api.Message) int32 {
	r.t.Helper()
	err := r.ch.SendRequest(request).ReceiveReply(reply)
	var code api.VPPApiError
	if err != nil && !errors.As(err, &code) {
		r.t.Fatalf("%s: %v", request.GetMessageName(), err)
	}
	return int32(code)
}

// do carries out a request that has to succeed.
func (r *rig) do(request, reply api.Message) {
	r.t.Helper()
	if code := r.retval(request, reply); code != 0 {
		r.t.Fatalf("%s %+v: %d", request.GetMessageName(), request, code)
	}
}

// refused carries out a request that has to fail with a code.
func (r *rig) refused(code int32, request, reply api.Message) {
	r.t.Helper()
	if got := r.retval(request, reply); got != code {
		r.t.Errorf("%s %+v: %d, want %d", request.GetMessageName(), request, got, code)
	}
}

// dump returns the details of a dump.
func dump[D any, P interface {
	*D
	api.Message
}](r *rig, request api.Message) (all []*D) {
	r.t.Helper()
	multi := r.ch.SendMultiRequest(request)
	for {
		d := new(D)
		last, err := multi.ReceiveReply(P(d))
		if err != nil {
			r.t.Fatalf("%s: %v", request.GetMessageName(), err)
		}
		if last {
			return all
		}
		all = append(all, d)
	}
}

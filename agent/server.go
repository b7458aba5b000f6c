package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/lock"
)

// Settings of the agent.
type Settings struct {
	Socket     string // unix socket
	DataDir    string // of the journal
	ConfDir    string // of network files
	Kubeconfig string // "" in a pod: that of its service account
	Standalone bool   // there is no API server
	Node       string // name in the cluster
	Listen     string // address for reading over TCP, "" for none
	Reconcile  time.Duration
	Grace      time.Duration // before a sandbox whose namespace is gone is undone
	Log        *slog.Logger
	Stderr     io.Writer // of plugins that are executed without a request
	// Installed says why the runtime does not ask plexus; nil where nobody looks.
	Installed func() error
}

// Server is the node agent.
type Server struct {
	Settings
	*Node
	keeper *keeper
	rest   *time.Timer // gives memory back
}

// restAfter is how long there has to be no request before memory is given back to
// the node, whose pods need it: most of the time an agent has nothing to do.
const restAfter = time.Second

// Where things are when nobody says.
const (
	DefaultSocket  = "/run/plexus/agent.sock"
	DefaultDataDir = conf.DefaultDataDir
	DefaultConfDir = conf.DefaultConfDir
)

// reportAfter is how long after the answer it is reported. By then plexus has ended,
// which would otherwise compete with it for a processor.
const reportAfter = 10 * time.Millisecond

// drain is how long requests under way may take when the agent is told to end.
const drain = 40 * time.Second

// maxBody bounds a request, in bytes: standard input, and an environment.
const maxBody = maxStdin + 1<<20

// Serve is the node agent until ctx is done. Requests that are under way by then
// are answered. ready is told when requests are served.
func Serve(ctx context.Context, s Settings, ready func()) error {
	server, err := newServer(s)
	if err != nil {
		return err
	}
	defer server.Close()
	alone, err := lock.TakeFile(ctx, s.Socket+".lock", "the agent's socket "+s.Socket) // until a former agent has ended
	if err != nil {
		return err
	}
	defer alone()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if server.cluster != nil {
		done := server.cluster.OpenEvents()
		defer done()
		if err := server.cluster.Follow(work, server.keeper.podChanged); err != nil {
			return err
		}
	}
	listener, err := listenUnix(s.Socket)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	local := &http.Server{Handler: server.routes(), ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn), ReadHeaderTimeout: 10 * time.Second}
	go func() { failed <- local.Serve(checkedListener{listener}) }()
	servers := []*http.Server{local}
	if s.Listen != "" {
		remote, err := server.listenTCP(failed)
		if err != nil {
			return errors.Join(err, local.Close())
		}
		servers = append(servers, remote)
	}
	kept := make(chan struct{})
	go func() { server.keeper.run(ctx); close(kept) }()
	s.Log.Info("serving", "socket", s.Socket, "node", s.Node)
	ready()
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.Log.Info("ending; requests under way are answered first")
	bounded, cancel := context.WithTimeout(work, drain)
	defer cancel()
	for _, one := range servers {
		if errDown := one.Shutdown(bounded); errDown != nil {
			err = errors.Join(err, errDown, one.Close())
		}
	}
	select {
	case <-kept:
	case <-bounded.Done():
	}
	server.told.Wait()
	server.publisher.end(bounded)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func newServer(s Settings) (*Server, error) {
	journal := delegates.OpenJournal(s.DataDir)
	n := &Node{Name: s.Node, delegates: delegates.Builtin(s.Log), history: &history{now: time.Now}}
	n.publisher = newPublisher(n)
	n.metrics = newMetrics(journal, n.publisher.count)
	if !s.Standalone {
		if s.Node == "" {
			return nil, errors.New("the name of the node in the cluster is needed: --node, or NODE_NAME in the environment")
		}
		api, err := kube.Connect(s.Kubeconfig)
		if err != nil {
			return nil, err
		}
		n.cluster = &kube.Cluster{API: api, Node: s.Node, Log: s.Log}
	}
	server := &Server{Settings: s, Node: n, rest: time.AfterFunc(restAfter, debug.FreeOSMemory)}
	server.keeper = newKeeper(server, journal)
	n.index, n.publisher.again = newIndex(server.keeper.watch), server.keeper.publishAgain
	return server, nil
}

// cni answers plexus. The request is undone when plexus ends before the answer: its
// connection is the request's context.
func (s *Server) cni(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var asked *Request
	if err == nil {
		asked, err = parseRequest(body)
	}
	if err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.rest.Stop()
	defer s.rest.Reset(restAfter)
	var out bytes.Buffer
	var stderr lockedBuffer
	began := time.Now()
	var reports []func()
	status := Answer(r.Context(), Call{
		later: func(report func()) { reports = append(reports, report) },
		As:    asked.As, ID: asked.ID, Node: s.Node,
		Getenv: func(key string) string { return asked.Env[key] },
		Stdin:  bytes.NewReader(asked.Stdin), Stdout: &out, Stderr: &stderr,
	})
	answerAtOnce(w, &CNIAnswer{Status: status, Stdout: out.Bytes(), Stderr: stderr.String()})
	took := time.Since(began)
	reports = append(reports, func() { s.say(asked, status, out.Bytes(), took) })
	s.told.Go(func() {
		time.Sleep(reportAfter)
		for _, report := range reports {
			report()
		}
	})
}

// say logs a request.
func (s *Server) say(asked *Request, status int, out []byte, took time.Duration) {
	level := slog.LevelInfo
	if status != 0 {
		level = slog.LevelWarn
	}
	s.Log.Log(context.Background(), level, asked.Env["CNI_COMMAND"], "sandbox", asked.Env["CNI_CONTAINERID"], "pod", podOfArgs(asked.Env["CNI_ARGS"]),
		"took", took.Round(time.Microsecond), "status", status, "why", failure(status, out))
}

// lockedBuffer takes what plugins that run together and the log write.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write is io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String is what was written.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func podOfArgs(text string) string {
	args, err := conf.ParseArgs(text)
	if err != nil {
		return ""
	}
	return podName(args)
}

func failure(status int, out []byte) string {
	var e answerError
	if status == 0 || json.Unmarshal(out, &e) != nil {
		return ""
	}
	return e.Msg
}

// answer writes what people see: without secrets, which only the journal has.
func answer(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		data, err = conf.Redact(data)
	}
	if err != nil {
		http.Error(w, "answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n')) // an error says that the client has gone
}

// answerAtOnce has the answer sent, and known to be whole, before the handler returns.
func answerAtOnce(w http.ResponseWriter, a *CNIAnswer) {
	body := a.body()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // whoever asked is gone
	_ = http.NewResponseController(w).Flush()
}

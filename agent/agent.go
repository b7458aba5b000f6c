package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
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
	// Installed is why the runtime does not execute plexus, an error until it does; nil
	// when the agent does not install plexus.
	Installed func() error
}

// Default paths.
const (
	DefaultSocket  = "/run/plexus/agent.sock"
	DefaultDataDir = conf.DefaultDataDir
	DefaultConfDir = conf.DefaultConfDir
)

// Serve is the node agent until ctx is done. Requests under way at that moment are
// answered. ready is called when requests are served.
func Serve(ctx context.Context, s Settings, ready func()) error {
	a, err := open(s)
	if err != nil {
		return err
	}
	defer a.engines.close()
	unlock, err := lock.TakeFile(ctx, s.Socket+".lock", "the agent's socket "+s.Socket) // until a former agent has ended
	if err != nil {
		return err
	}
	defer unlock()
	work, stop := context.WithCancel(context.WithoutCancel(ctx)) // requests under way need the watches
	defer stop()
	defer a.cluster.OpenEvents()()
	if err := a.cluster.Follow(work, a.follower.podChanged); err != nil {
		return err
	}
	servers, err := a.listen(s)
	if err != nil {
		return err
	}
	s.Log.Info("serving", "socket", s.Socket, "node", s.Node)
	ready()
	ending := func() { s.Log.Info("ending; requests under way are answered first") }
	return runTasks(ctx, ending, append(servers, a.reconciler, a.watcher, a.publisher, a.follower)...)
}

// agent holds the tasks of a node agent, and what they share.
type agent struct {
	cluster   cluster
	engines   *engines
	store     *store
	telemetry *telemetry

	cni        *cniHandler
	inspection *inspection
	reconciler *reconciler
	watcher    *watcher
	publisher  *publisher
	follower   *follower
}

// open connects to the API server and makes the tasks.
func open(s Settings) (*agent, error) {
	if s.Standalone {
		return newAgent(s, standalone{}, ownCluster), nil
	}
	if s.Node == "" {
		return nil, errors.New("the name of the node in the cluster is needed: --node, or NODE_NAME in the environment")
	}
	api, err := kube.Connect(s.Kubeconfig)
	if err != nil {
		return nil, err
	}
	c := &kube.Cluster{API: api, Node: s.Node, Log: s.Log}
	return newAgent(s, c, func(*conf.Conf, *slog.Logger) *kube.Cluster { return c }), nil
}

func newAgent(s Settings, c cluster, clusterOf func(*conf.Conf, *slog.Logger) *kube.Cluster) *agent {
	a := &agent{cluster: c, engines: &engines{delegates: engine.Builtin(s.Log), cluster: clusterOf}, store: newStore(journal.Open(s.DataDir))}
	a.telemetry = &telemetry{history: &history{now: time.Now}, log: s.Log}
	a.telemetry.metrics = newMetrics(a.store, func() int { return a.publisher.count() })

	recorded := &recordedEngines{engines: a.engines, dataDir: s.DataDir, confDir: s.ConfDir, log: s.Log, stderr: s.Stderr}
	republisher := &republisher{store: a.store, engines: recorded, cluster: c}
	a.publisher = newPublisher(c, a.telemetry, republisher.publish)
	republisher.publisher = a.publisher
	a.watcher = newWatcher(a.engines.delegates, s.Log)
	a.follower = &follower{
		store: a.store, engines: recorded, cluster: c, publisher: a.publisher, telemetry: a.telemetry,
		queue: make(chan change, 1024), failed: map[string]string{},
	}
	a.store.observers = []func(*journal.Record){a.follower.recorded, a.watcher.add}

	all := &sandboxes{store: a.store, engines: recorded, errors: &errorLog{log: s.Log}}
	reporter := newReporter(c, a.telemetry)
	a.reconciler = &reconciler{
		sandboxes: all, endpoints: a.watcher, republisher: republisher, reporter: reporter, every: s.Reconcile,
		reaper:   &reaper{sandboxes: all, cluster: c, publisher: a.publisher, reporter: reporter, grace: s.Grace, gone: map[string]time.Time{}},
		requests: make(chan chan []engine.Finding),
	}
	a.cni = &cniHandler{engines: a.engines, store: a.store, publisher: a.publisher, telemetry: a.telemetry, memory: newMemory()}
	a.inspection = &inspection{node: s.Node, missing: readiness(c, s.Installed), sandboxes: all, reconciler: a.reconciler, publisher: a.publisher, telemetry: a.telemetry}
	return a
}

// readiness returns a function that says what is missing before the agent serves as it
// should. The first comparison with the world is not: a vswitch that never answers would
// hold up the rollout of a DaemonSet, and a request for a sandbox whose former one was cut
// short undoes that one first, under the sandbox' lock.
func readiness(c cluster, installed func() error) func() error {
	return func() error {
		err := c.Synced()
		if installed != nil {
			err = errors.Join(err, installed())
		}
		return err
	}
}

// listen opens the sockets of the servers.
func (a *agent) listen(s Settings) ([]task, error) {
	if s.Listen != "" && s.Standalone {
		return nil, errors.New("--listen needs an API server, which knows the tokens of those who read")
	}
	socket, err := listenUnix(s.Socket)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/cni", a.cni)
	a.inspection.routes(mux)
	a.inspection.commands(mux)
	servers := []task{&cniServer{listener: checkedListener{socket}, handler: confirmed(mux), publisher: a.publisher, log: s.Log}}
	if s.Listen == "" {
		return servers, nil
	}
	tcp, err := a.inspection.listenTCP(s.Listen, a.cluster.Allowed)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return append(servers, tcp), nil
}

// cniServer serves the unix socket: plexus, and people who are root.
type cniServer struct {
	listener  net.Listener
	handler   http.Handler
	publisher *publisher
	log       *slog.Logger
}

// Run serves until ctx is done. When the last request is answered, nothing more comes to
// be published.
func (s *cniServer) Run(ctx context.Context) error {
	defer s.publisher.close()
	server := &http.Server{Handler: s.handler, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn), ReadHeaderTimeout: 10 * time.Second}
	return runHTTP(ctx, server, func() error { return server.Serve(s.listener) })
}

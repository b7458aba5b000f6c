package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/devices"
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
	Grace      time.Duration      // before a sandbox whose namespace is gone is undone
	Devices    []devices.Resource // that are offered to pods
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
	return runTasks(ctx, ending, append(servers, a.reconciler.Run, a.watcher.Run, a.publisher.Run, a.follower.Run, a.inventory.Run)...)
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
	inventory  *devices.Inventory
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
	a.inventory = newInventory(a.engines.delegates, s)
	a.telemetry.metrics.registry.MustRegister(&vswitches{a.watcher})
	a.follower = &follower{
		store: a.store, engines: recorded, cluster: c, publisher: a.publisher, telemetry: a.telemetry,
		queue: make(chan change, 1024),
	}
	a.store.observers = []func(*journal.Record){a.follower.recorded, a.watcher.add}

	all := &sandboxes{store: a.store, engines: recorded, log: s.Log}
	reporter := &reporter{store: a.store, cluster: c, telemetry: a.telemetry}
	a.reconciler = &reconciler{
		sandboxes: all, endpoints: a.watcher, republisher: republisher, reporter: reporter, every: s.Reconcile,
		reaper:   &reaper{sandboxes: all, cluster: c, publisher: a.publisher, reporter: reporter, grace: s.Grace},
		requests: make(chan chan []engine.Finding), pauses: map[endpoint]time.Duration{},
	}
	a.cni = &cniHandler{engines: a.engines, store: a.store, publisher: a.publisher, telemetry: a.telemetry, memory: newMemory()}
	// The first comparison with the world is not missing: a request for a sandbox whose former
	// one was cut short undoes that one first, under the sandbox' lock. A vswitch that is down
	// is: pods of its networks cannot be started here.
	missing := func() error {
		errs := []error{c.Synced(), a.watcher.why()}
		if s.Installed != nil {
			errs = append(errs, s.Installed())
		}
		return errors.Join(errs...)
	}
	a.inspection = &inspection{node: s.Node, missing: missing, sandboxes: all, reconciler: a.reconciler, publisher: a.publisher, telemetry: a.telemetry, warnings: a.cni.statusWarnings}
	return a
}

// listen opens the sockets, and returns the servers: of the unix socket, for plexus and for
// people who are root, and of TCP, which changes nothing.
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
	server := &http.Server{
		Handler: confirmed(mux), ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn), ReadHeaderTimeout: 10 * time.Second,
	}
	servers := []task{func(ctx context.Context) error {
		defer a.publisher.close() // the last request is answered: nothing more comes to be published
		return runHTTP(ctx, server, func() error { return server.Serve(checkedListener{socket}) })
	}}
	if s.Listen == "" {
		return servers, nil
	}
	remote, err := a.inspection.remoteServer(a.cluster.Allowed)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("--listen: %w", err), socket.Close())
	}
	return append(servers, func(ctx context.Context) error {
		return runHTTP(ctx, remote, func() error { return remote.ServeTLS(listener, "", "") })
	}), nil
}

package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/kube"
)

// Node is what the requests of one process share. The zero Node serves one.
type Node struct {
	// Name is the node's in the cluster, "" where nobody says.
	Name      string
	delegates map[string]delegates.Delegate
	cluster   *kube.Cluster // nil until a request needs the API server
	history   *history      // nil in a process of one request
	metrics   *metrics      // likewise
	index     *index        // likewise
	publisher *publisher    // likewise; without an API server it has nothing to do

	told sync.WaitGroup // reports that go on after the answer

	confMu   sync.Mutex
	confText []byte // of conf
	conf     *conf.Conf

	logsMu sync.Mutex
	logs   map[logKey]*lumberjack.Logger
}

// engine makes the engine that a configuration asks for. Nothing is sent.
func (n *Node) engine(c *conf.Conf, log *slog.Logger, stderr io.Writer) (*delegates.Engine, error) {
	if n.delegates == nil {
		n.delegates = delegates.Builtin(log)
	}
	e := &delegates.Engine{
		Delegates: n.delegates,
		Source:    &kube.Manifests{Dir: c.Manifests, ConfDir: c.ConfDir},
		Devices:   &kube.Devices{Dir: kube.DefaultKubeletDir},
		Journal:   delegates.OpenJournal(c.DataDir),
		Bounds:    c.Bounds,
		Log:       log,
		Stderr:    stderr,

		PluginTimeout: c.PluginTimeout.Value(),
	}
	if c.Manifests != "" || n.cluster == nil && c.Kubeconfig == "" {
		return e, nil
	}
	live := &kube.Live{Cluster: n.cluster, ConfDir: c.ConfDir}
	if live.Cluster == nil {
		live.Cluster = &kube.Cluster{Kubeconfig: c.Kubeconfig, Log: log}
	}
	e.Source, e.Devices = live, &kube.Devices{Dir: kube.DefaultKubeletDir, Live: live}
	return e, nil
}

// settings reads a configuration. That of a node is the same for most of its pods.
func (n *Node) settings(text []byte) (*conf.Conf, error) {
	n.confMu.Lock()
	defer n.confMu.Unlock()
	if n.conf != nil && bytes.Equal(text, n.confText) {
		return n.conf, nil
	}
	c, err := conf.Parse(text)
	if err == nil {
		n.confText, n.conf = text, c
	}
	return c, err
}

// Close ends the connections of the delegates.
func (n *Node) Close() {
	(&delegates.Engine{Delegates: n.delegates}).Close()
}

// begin has the request in the history, and its steps. count has it in the metrics
// when it has ended.
func (n *Node) begin(ctx context.Context, verb string, r *delegates.Request) (_ context.Context, end, count func(error)) {
	if n.history == nil {
		return ctx, func(error) {}, func(error) {}
	}
	t := n.history.begin(verb, r.Sandbox, podName(r.Args))
	return conf.WithSteps(ctx, t.step), t.end, func(err error) { n.metrics.request(t, err) }
}

func podName(args conf.Args) string {
	namespace, name := args.Get("K8S_POD_NAMESPACE"), args.Get("K8S_POD_NAME")
	if namespace == "" || name == "" {
		return ""
	}
	return namespace + "/" + name
}

// Reasons of events on pods.
const (
	reasonAttached  = "NetworksAttached"
	reasonFailed    = "NetworksFailed"
	reasonChanged   = "NetworksChanged"
	reasonRestored  = "NetworkRestored"
	reasonDifferent = "NetworkDiffers"
	reasonReclaimed = "NetworksReclaimed"

	reasonUnpublished = "NetworkStatusUnpublished"
)

// tell reports a request on its pod and notes what the agent has to know of it. A
// DEL that worked is not told: it asks nothing of the API server.
func (n *Node) tell(e *delegates.Engine, verb string, r *delegates.Request, err error) {
	namespace, name, uid := r.Args.Get("K8S_POD_NAMESPACE"), r.Args.Get("K8S_POD_NAME"), r.Args.Get("K8S_POD_UID")
	live, ok := e.Source.(*kube.Live)
	var rec *delegates.Record
	if verb == "ADD" && err == nil && (ok || n.index != nil) {
		rec, _ = e.Journal.Read(r.Sandbox) // nil when a DEL was faster
	}
	switch {
	case n.index == nil || r.Conf == nil || err != nil:
	case rec != nil:
		n.index.note(rec)
	case verb == "DEL":
		n.index.detached(r.Sandbox)
	}
	if !ok || r.Conf == nil || conf.CheckObjectName(namespace, name) != nil {
		return
	}
	pod := &conf.Pod{Namespace: namespace, Name: name, UID: uid}
	switch {
	case err != nil && (verb == "ADD" || verb == "DEL"):
		live.Cluster.Event(pod, true, reasonFailed, verb+": "+err.Error())
	case err == nil && verb == "ADD":
		live.Cluster.Event(pod, false, reasonAttached, describe(rec))
	}
}

// describe lists the attachments of a record in a line.
func describe(rec *delegates.Record) string {
	if rec == nil {
		return "attached"
	}
	var parts []string
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			part := entry.IfName + " " + entry.Name
			if ips := addresses(entry); ips != "" {
				part += " [" + ips + "]"
			}
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ", ")
}

func addresses(entry *delegates.Entry) string {
	var list []string
	if r, err := entry.ParseResult(); err == nil {
		for _, ip := range r.IPs {
			list = append(list, ip.Address.String())
		}
	}
	return strings.Join(list, " ")
}

package agent

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/plugin"
)

// engines makes the engine that a configuration describes. Its delegates, and with them
// the connections to vswitches, are the same for all.
type engines struct {
	delegates plugin.Table
	// cluster is the API server that has the pods and networks of a configuration, nil
	// when those are in files.
	cluster func(*conf.Conf, *slog.Logger) *kube.Cluster
}

// ownCluster is the API server that the configuration itself names. It is connected when
// it is needed.
func ownCluster(c *conf.Conf, log *slog.Logger) *kube.Cluster {
	if c.Kubeconfig == "" {
		return nil
	}
	return &kube.Cluster{Kubeconfig: c.Kubeconfig, Log: log}
}

// open makes an engine. Nothing is sent.
func (n *engines) open(c *conf.Conf, log *slog.Logger, stderr io.Writer) *engine.Engine {
	kubelet := kube.KubeletDir(c.KubeletDir)
	e := &engine.Engine{
		Delegates: n.delegates,
		Source:    &kube.Manifests{Dir: c.Manifests, ConfDir: c.ConfDir},
		Devices:   &kube.Devices{Dir: kubelet},
		Kubelet:   kubelet,
		Journal:   journal.Open(c.DataDir),
		Bounds:    c.Bounds,
		Log:       log,
		Stderr:    stderr,

		PluginTimeout: c.PluginTimeout.Value(),
	}
	if cluster := n.cluster(c, log); c.Manifests == "" && cluster != nil {
		live := &kube.Live{Cluster: cluster, ConfDir: c.ConfDir}
		e.Source, e.Devices = live, &kube.Devices{Dir: kubelet, Live: live}
	}
	return e
}

// close ends the connections of the delegates.
func (n *engines) close() { (&engine.Engine{Delegates: n.delegates}).Close() }

// recordedEngines makes the engines for sandboxes in the journal: those of the
// configurations that are recorded with them.
type recordedEngines struct {
	engines          *engines
	dataDir, confDir string
	log              *slog.Logger
	stderr           io.Writer // of executed plugins
}

// of is the engine for a record.
func (n *recordedEngines) of(rec *journal.Record) (*engine.Engine, error) {
	c := &conf.Conf{ConfDir: n.confDir, DataDir: n.dataDir}
	for _, tx := range rec.Transactions {
		if tx.Conf == nil {
			continue
		}
		recorded, err := conf.Parse(tx.Conf)
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: recorded configuration: %w", rec.Sandbox, err)
		}
		c = recorded
		c.DataDir = n.dataDir
	}
	return n.engines.open(c, n.log, n.stderr), nil
}

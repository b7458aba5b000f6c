package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
)

// codeNotReady is the code of STATUS when ADD cannot be served (CNI specification
// 1.1.0, section "STATUS").
const codeNotReady = 50

// Answer serves the call in this process, which serves no other, writes the answer to
// Stdout and returns the exit status.
func Answer(ctx context.Context, c call.Call) (status int) {
	open := func(settings *conf.Conf, log *slog.Logger, stderr io.Writer) *engine.Engine {
		return (&engines{delegates: engine.Builtin(log), cluster: ownCluster}).open(settings, log, stderr)
	}
	return c.Alone(open, func(e *engine.Engine, r *engine.Request) (any, error) {
		command := c.Getenv("CNI_COMMAND")
		if err := refuseWithoutAgent(command, r.Conf); err != nil {
			return nil, err
		}
		out, err := call.Serve(ctx, command, e, r)
		var rec *journal.Record
		if _, ok := e.Source.(*kube.Live); ok && command == "ADD" && err == nil {
			rec, _ = e.Journal.Read(r.Sandbox) // nil when a DEL was faster
		}
		announce(e, command, r, rec, err)
		return out, err
	})
}

// refuseWithoutAgent refuses what only the node agent serves, when the configuration
// names one.
func refuseWithoutAgent(command string, c *conf.Conf) error {
	switch {
	case c == nil || c.Agent.Socket == "":
	case command == "ADD" && c.Kubeconfig == "" && c.Manifests == "":
		return &delegates.Error{Code: types.ErrTryAgainLater, Err: fmt.Errorf("the node agent at %s has not served the request, and without the key kubeconfig nobody else knows what networks the pod asks for", c.Agent.Socket)}
	case command == "STATUS":
		return &delegates.Error{Code: codeNotReady, Err: fmt.Errorf("the node agent at %s does not answer: is plexusd serve running on this node?", c.Agent.Socket)}
	}
	return nil
}

// announce reports an ADD, or a DEL that failed, by events on the pod: one for each interface,
// as Multus does. A DEL that succeeds sends nothing to the API server.
func announce(e *engine.Engine, command string, r *engine.Request, rec *journal.Record, err error) {
	live, ok := e.Source.(*kube.Live)
	pod := &conf.Pod{Namespace: r.Args.Get("K8S_POD_NAMESPACE"), Name: r.Args.Get("K8S_POD_NAME"), UID: r.Args.Get("K8S_POD_UID")}
	if !ok || r.Conf == nil || conf.CheckObjectName(pod.Namespace, pod.Name) != nil {
		return
	}
	switch {
	case err != nil && (command == "ADD" || command == "DEL"):
		live.Cluster.Event(pod, true, reasonFailed, command+": "+err.Error())
	case err == nil && command == "ADD":
		for _, text := range interfaces(rec, nil) {
			live.Cluster.Event(pod, false, reasonAdded, text)
		}
	}
}

func podName(args conf.Args) string {
	namespace, name := args.Get("K8S_POD_NAMESPACE"), args.Get("K8S_POD_NAME")
	if namespace == "" || name == "" {
		return ""
	}
	return namespace + "/" + name
}

// interfaces describes the attachments of a record that an earlier one lacks, in Multus' words.
func interfaces(rec, before *journal.Record) (all []string) {
	if rec == nil {
		return nil
	}
	had := map[string]bool{}
	if before != nil {
		for _, tx := range before.Transactions {
			for _, entry := range tx.Attachments {
				had[entry.IfName+" "+entry.Name] = true
			}
		}
	}
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			if had[entry.IfName+" "+entry.Name] {
				continue
			}
			ips := []string{}
			if r, err := entry.ParseResult(); err == nil {
				for _, ip := range r.IPs {
					ips = append(ips, ip.Address.String())
				}
			}
			all = append(all, fmt.Sprintf("Add %s %v from %s", entry.IfName, ips, entry.Name))
		}
	}
	return all
}

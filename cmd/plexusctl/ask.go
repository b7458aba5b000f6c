package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
)

// options are the flags of every command.
type options struct {
	namespace string // of a pod that is named without one
	socket    string
	host      string
	timeout   time.Duration
	cluster   *cluster // nil on a node
}

const usualTimeout = time.Minute

func (o *options) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.namespace, "namespace", "n", "", "`namespace` of a pod that is named without one (default: default)")
	f.StringVar(&o.socket, "socket", agent.DefaultSocket, "unix `path` of the node agent")
	f.DurationVar(&o.timeout, "timeout", usualTimeout, "`time` that a node may take to answer")
}

// question is what an agent is asked: a request of its socket, and the words by
// which plexusctl asks the same.
type question struct {
	method, path string
	query        url.Values
	words        []string
	text         bool   // the answer is no JSON
	node         string // "" for all
}

// reply is one agent's answer, as it is.
type reply struct {
	node string // "" on a node
	data []byte
	err  error
}

// ask asks this node's agent, or those of the cluster, in the order of their
// nodes' names. It prints the errors of nodes and names the failed nodes in its
// error, beside the replies of the others.
// Secrets are hidden, also those that an agent of a former version shows.
func (o *options) ask(ctx context.Context, stderr io.Writer, q question) ([]reply, error) {
	replies, err := o.askAll(ctx, stderr, q)
	for i := range replies {
		if q.text {
			break
		}
		var errRedact error
		if replies[i].data, errRedact = conf.Redact(replies[i].data); errRedact != nil {
			return nil, errors.Join(err, fmt.Errorf("answer of the agent%s: %w", onNode(replies[i].node), errRedact))
		}
	}
	return replies, err
}

func (o *options) askAll(ctx context.Context, stderr io.Writer, q question) ([]reply, error) {
	if o.cluster == nil {
		data, err := o.askAgent(ctx, q)
		if err != nil {
			return nil, err
		}
		return []reply{{data: data}}, nil
	}
	all, err := o.cluster.ask(ctx, o, q)
	if err != nil {
		return nil, err
	}
	var good []reply
	var failed []string
	for _, r := range all {
		if r.err == nil {
			good = append(good, r)
			continue
		}
		failed = append(failed, r.node)
		fmt.Fprintf(stderr, "node %s: %s\n", clean(r.node), cleanLines(r.err.Error()))
	}
	if len(failed) > 0 {
		return good, fmt.Errorf("%d of %d nodes failed: %s", len(failed), len(all), strings.Join(failed, ", "))
	}
	return good, nil
}

func (o *options) askAgent(ctx context.Context, q question) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	client := &agent.Client{Socket: filepath.Join(o.host, o.socket)}
	data, err := client.Ask(ctx, q.method, q.path, q.query)
	var away *agent.AwayError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the node agent at %s: permission denied: plexusctl needs root", client.Socket)
	case errors.As(err, &away):
		return nil, fmt.Errorf("%w plexusctl show reads the journal without it", err)
	case err == nil && !q.text && !json.Valid(data):
		return nil, fmt.Errorf("the node agent at %s answers %s %s with what is no JSON: %.80q", client.Socket, q.method, q.path, data)
	}
	return data, err
}

// askAbout asks about a pod or a sandbox, "" for all. A bare word is a pod's
// name, or else, when no agent knows such a pod, the beginning of a sandbox' ID.
func (o *options) askAbout(ctx context.Context, stderr io.Writer, q question, word string) ([]reply, error) {
	if word == "" {
		return o.ask(ctx, stderr, q)
	}
	words := q.words
	if pod, err := o.pod(ctx, word); err == nil {
		q.query, q.words = url.Values{"about": {pod}}, append(words[:len(words):len(words)], pod)
		replies, err := o.ask(ctx, stderr, q)
		if len(replies) == 0 || !empty(replies) || strings.Contains(word, "/") {
			return replies, err
		}
	} else if !sandboxForm.MatchString(word) {
		return nil, fmt.Errorf("%.80q: want a pod, NAME or NAMESPACE/NAME, or the beginning of a sandbox' ID: %w", word, err)
	}
	q.query, q.words = url.Values{"about": {word}}, append(words[:len(words):len(words)], word)
	return o.ask(ctx, stderr, q)
}

// sandboxForm is that of a container ID (CNI specification 1.1.0, section 2).
var sandboxForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// empty reports whether all replies are empty lists.
func empty(replies []reply) bool {
	for _, r := range replies {
		var list []json.RawMessage
		if err := json.Unmarshal(r.data, &list); err != nil || len(list) > 0 {
			return false
		}
	}
	return true
}

// pod is NAMESPACE/NAME of a pod that is named with or without its namespace.
func (o *options) pod(ctx context.Context, word string) (string, error) {
	namespace, name, ok := strings.Cut(word, "/")
	if !ok {
		if o.namespace == "" && o.cluster != nil {
			o.namespace = o.cluster.namespace(ctx, o.timeout)
		}
		namespace, name = cmp.Or(o.namespace, "default"), word
	}
	if err := conf.CheckObjectName(namespace, name); err != nil {
		return "", fmt.Errorf("pod %.80q: %w", word, err)
	}
	return namespace + "/" + name, nil
}

// mergeReplies is a node's answer as it is. Those of a cluster are one list: of the
// nodes' answers, or of the elements of their lists, each with its node.
func (o *options) mergeReplies(replies []reply) ([]byte, error) {
	if o.cluster == nil {
		return replies[0].data, nil
	}
	all := []json.RawMessage{}
	for _, r := range replies {
		var list []map[string]json.RawMessage
		if err := json.Unmarshal(r.data, &list); err != nil {
			all = append(all, r.data)
			continue
		}
		for _, element := range list {
			element["node"], _ = json.Marshal(r.node) // a string always can be
			data, err := json.Marshal(element)
			if err != nil {
				return nil, err
			}
			all = append(all, data)
		}
	}
	return json.Marshal(all)
}

// nodeAnswer is the decoded answer of one node.
type nodeAnswer[T any] struct {
	node   string
	answer T
}

func decodeReplies[T any](replies []reply) ([]nodeAnswer[T], error) {
	var all []nodeAnswer[T]
	for _, r := range replies {
		one := nodeAnswer[T]{node: r.node}
		if err := json.Unmarshal(r.data, &one.answer); err != nil {
			return nil, fmt.Errorf("answer of the agent%s: %w", onNode(r.node), err)
		}
		all = append(all, one)
	}
	return all, nil
}

func onNode(node string) string {
	if node == "" {
		return ""
	}
	return " on node " + clean(node)
}

// completePods offers the pods that the agent of this node has recorded.
func (o *options) completePods(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || o.cluster != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	o.timeout = min(o.timeout, 2*time.Second) // the user waits for the completion
	replies, err := o.ask(cmd.Context(), io.Discard, question{method: "GET", path: "/v1/attachments"})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := decodeReplies[agent.Attachments](replies)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var pods []string
	for _, rec := range all[0].answer.Sandboxes {
		if pod := podOf(rec); conf.CheckObjectName(cutPod(pod)) == nil {
			pods = append(pods, pod)
		}
	}
	return pods, cobra.ShellCompDirectiveNoFileComp
}

func cutPod(pod string) (namespace, name string) {
	namespace, name, _ = strings.Cut(pod, "/")
	return namespace, name
}

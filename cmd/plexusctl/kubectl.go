package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
)

// kubectlCommand is kubectl-plexus.
func kubectlCommand() *cobra.Command {
	o := &options{cluster: &cluster{}}
	root := &cobra.Command{
		Use:         kubectlName,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl plexus"},
		Short:       "Ask the node agents of a cluster",
		Long: `Ask the node agents of a cluster: plexusctl is executed in each one's pod, by
kubectl, which has to be in PATH. A node that does not answer is named, and the
others are shown.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	o.flags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&o.cluster.context, "context", "", "kubectl's `name` of the cluster")
	root.PersistentFlags().StringVar(&o.cluster.kubeconfig, "kubeconfig", "", "kubectl's `file`")
	root.AddCommand(inspection(o)...)
	check := checkCommand(o, nil)
	root.AddCommand(check, validateCommand())
	for _, name := range []string{"add", "del", "show", "migrate"} {
		root.AddCommand(&cobra.Command{
			Use: name, Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return fmt.Errorf("%s is for one node: run plexusctl %s there", name, name)
			},
		})
	}
	return root
}

// cluster asks the agents of a cluster by kubectl.
type cluster struct {
	context, kubeconfig string // kubectl's flags
}

// Where the agents are; deploy/ says the same.
const (
	agentLabels    = "app.kubernetes.io/name=plexus,app.kubernetes.io/component=agent"
	agentContainer = "agent"
	agentTool      = "/plexusctl"
	agentHost      = "/host" // the node's root in the container
)

// parallelNodes is how many agents are queried at the same time.
const parallelNodes = 8

// agentPod is the pod of a node's agent.
type agentPod struct {
	node, namespace, name string
	ready                 bool
	why                   string // the reason why it cannot be queried
}

// ask asks all agents, or that of one node.
func (c *cluster) ask(ctx context.Context, o *options, q question) ([]reply, error) {
	pods, err := c.agents(ctx, o.timeout)
	if err != nil {
		return nil, err
	}
	if q.node != "" {
		pods = slices.DeleteFunc(pods, func(p agentPod) bool { return p.node != q.node })
		if len(pods) == 0 {
			return nil, fmt.Errorf("node %s has no pod of the agent (label %s)", q.node, agentLabels)
		}
	}
	replies := make([]reply, len(pods))
	places := make(chan struct{}, parallelNodes)
	var group sync.WaitGroup
	for i, p := range pods {
		group.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			replies[i].node = p.node
			replies[i].data, replies[i].err = c.askOne(ctx, o, p, q)
		})
	}
	group.Wait()
	return replies, ctx.Err()
}

// agents are the pods of the agents, one a node, by name of the node.
func (c *cluster) agents(ctx context.Context, timeout time.Duration) ([]agentPod, error) {
	out, err := c.run(ctx, timeout, "get", "pods", "-A", "-l", agentLabels, "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("find the agents' pods: %w", err)
	}
	var list struct {
		Items []podObject `json:"items"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("find the agents' pods: answer of kubectl: %w", err)
	}
	byNode := map[string]agentPod{}
	for i := range list.Items {
		p := list.Items[i].agent()
		if old, ok := byNode[p.node]; p.node != "" && (!ok || old.why != "" && p.why == "" || !old.ready && p.ready) {
			byNode[p.node] = p
		}
	}
	if len(byNode) == 0 {
		return nil, fmt.Errorf("no pod of a node agent is found (label %s): is plexus installed in this cluster, or is --context another one?", agentLabels)
	}
	var pods []agentPod
	for _, p := range byNode {
		pods = append(pods, p)
	}
	slices.SortFunc(pods, func(a, b agentPod) int { return cmp.Compare(a.node, b.node) })
	return pods, nil
}

// podObject has the fields of a pod that plexusctl reads.
type podObject struct {
	Metadata struct {
		Namespace         string `json:"namespace"`
		Name              string `json:"name"`
		DeletionTimestamp string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase      string `json:"phase"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

func (o *podObject) agent() agentPod {
	p := agentPod{node: o.Spec.NodeName, namespace: o.Metadata.Namespace, name: o.Metadata.Name}
	for _, condition := range o.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" && o.Metadata.DeletionTimestamp == "" {
			p.ready = true
		}
	}
	if err := conf.CheckObjectName(p.namespace, p.name); err != nil { // it becomes an argument of kubectl
		p.why = "the agent's pod: " + err.Error()
	} else if o.Status.Phase != "Running" {
		p.why = fmt.Sprintf("the agent's pod %s/%s is %.40q, want Running", p.namespace, p.name, o.Status.Phase)
	}
	return p
}

// askOne executes plexusctl in the pod of an agent. An answer is one whatever
// the exit status: check ends with 1 when something differs.
func (c *cluster) askOne(ctx context.Context, o *options, p agentPod, q question) ([]byte, error) {
	if p.why != "" {
		return nil, errors.New(p.why)
	}
	args := []string{"exec", "-n", p.namespace, p.name, "-c", agentContainer, "--", agentTool, "--host", agentHost}
	if o.socket != agent.DefaultSocket {
		args = append(args, "--socket", o.socket)
	}
	if o.timeout != usualTimeout {
		args = append(args, "--timeout", o.timeout.String())
	}
	args = append(args, q.words...)
	if o.namespace != "" {
		args = append(args, "--namespace", o.namespace)
	}
	if !q.text {
		args = append(args, "-o", string(asJSON))
	}
	out, err := c.run(ctx, o.timeout, args...)
	switch {
	case err != nil && (q.text || !json.Valid(out)):
		return nil, err
	case !q.text && !json.Valid(out):
		return nil, fmt.Errorf("pod %s/%s answers what is no JSON: %.80q", p.namespace, p.name, out)
	}
	return out, nil
}

// namespace is that of kubectl's context.
func (c *cluster) namespace(ctx context.Context, timeout time.Duration) string {
	out, err := c.run(ctx, timeout, "config", "view", "--minify", "-o", "jsonpath={..namespace}")
	if err != nil || conf.CheckObjectName(string(out), "any") != nil {
		return "default" // what kubectl makes of a context that says nothing
	}
	return string(out)
}

// nodeOf is the node of a pod, "" when it has none or is not there.
func (c *cluster) nodeOf(ctx context.Context, timeout time.Duration, pod string) string {
	namespace, name := cutPod(pod)
	out, err := c.run(ctx, timeout, "get", "pod", name, "-n", namespace, "-o", "json")
	var found podObject
	if err != nil || json.Unmarshal(out, &found) != nil {
		return ""
	}
	return found.Spec.NodeName
}

// run executes kubectl. What it wrote is returned even if it failed.
func (c *cluster) run(ctx context.Context, timeout time.Duration, args ...string) ([]byte, error) {
	var flags []string
	if c.context != "" {
		flags = append(flags, "--context="+c.context)
	}
	if c.kubeconfig != "" {
		flags = append(flags, "--kubeconfig="+c.kubeconfig)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "kubectl", append(flags, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("kubectl is not in PATH: it is what asks the agents")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("kubectl %s: no answer in %s", args[0], timeout)
	}
	if text := kubectlError(stderr.String()); text != "" {
		err = errors.New(text)
	}
	return stdout.Bytes(), fmt.Errorf("kubectl %s: %w", args[0], err)
}

// kubectlError is the text of standard error without kubectl's own lines.
func kubectlError(text string) string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "command terminated with exit code") {
			lines = append(lines, strings.TrimPrefix(line, "plexusctl: "))
		}
	}
	return strings.Join(lines, "\n")
}

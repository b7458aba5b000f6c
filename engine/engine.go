// Package engine does the verbs of the CNI specification 1.1.0 for a pod: it attaches
// all of its networks in one transaction, or none.
//
// add.go is ADD from top to bottom, detach.go is the one undo. The journal has all that DEL
// needs before ADD changes anything. A network's plugins are package plugin's
// work: built-in backends (Builtin lists them) and executables below CNI_PATH.
package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
)

// Source provides pods and networks, and takes their status.
type Source interface {
	// Pod finds a pod. uid may be empty. nil, nil: this source has no pods at all.
	Pod(ctx context.Context, namespace, name, uid string) (*conf.Pod, error)
	// Recall finds a pod for DEL: in memory or in a file, and where there is no memory of pods
	// by a request. nil, nil: there is no such pod any more.
	Recall(ctx context.Context, namespace, name, uid string) (*conf.Pod, error)
	// Network finds the definition of a reference; nil when it is an empty chain.
	Network(ctx context.Context, w conf.Reference) (*conf.Definition, error)
	// StatusPlace is the file that Publish will write for a pod; "" when Retract has
	// nothing to remove.
	StatusPlace(pod *conf.Pod) string
	// Publish sets annotations of the pod, network-status among them.
	Publish(ctx context.Context, pod *conf.Pod, sandbox string, annotations map[string]string) error
	// Retract removes the status that Publish wrote for the sandbox. Absent is success.
	Retract(ctx context.Context, place, sandbox string) error
}

// Devices tells the devices that device plugins and resource claims have assigned to pods.
type Devices interface {
	// OfPod are the pod's devices by resource.
	OfPod(ctx context.Context, pod *conf.Pod) (map[string][]string, error)
}

// Engine does the verbs of CNI.
type Engine struct {
	Delegates plugin.Table // see Builtin
	Source    Source
	Devices   Devices
	Kubelet   string // the kubelet's root folder, "" for the default
	Journal   *journal.Journal
	Bounds    conf.Bounds // of what networks may name
	Log       *slog.Logger
	Stderr    io.Writer // of executed plugins
	// PluginTimeout bounds one execution of a plugin; 0 is conf.DefaultPluginTimeout.
	PluginTimeout time.Duration
	// Later, if set, receives the publication of a committed ADD where nothing has to be
	// retracted. It must not block. publish may be called after ADD has returned;
	// Republish does the same from the journal.
	Later func(pod *conf.Pod, publish func(context.Context) error)
}

// Close ends the connections of the delegates.
func (e *Engine) Close() {
	for _, d := range e.Delegates {
		d.Close()
	}
}

// Request is one CNI request (CNI specification 1.1.0, section 2).
type Request struct {
	Conf    *conf.Conf // nil when a built-in delegate is executed under its own name
	Network string     // name of the configuration
	Stdin   []byte     // the configuration as received
	Sandbox string     // container ID
	Netns   string     // path
	IfName  string
	Args    conf.Args
	Path    []string // folders of executables
	// ID is equal for a request and its repetition after a lost answer; "" when the
	// request is never repeated.
	ID string
	// Runtime is the name of the process that has executed plexus, such as crio; "" when it is
	// not known.
	Runtime string
	// Warnings of STATUS name files that are broken and keep no pod from its networks.
	Warnings []string
}

// Time limits. A runtime has its own, above these.
const (
	readinessWait = 45 * time.Second // for readinessindicatorfile, as Multus waits
	undoTimeout   = 60 * time.Second // for detach, which outlives the request
	recallTimeout = 5 * time.Second  // for all that DEL of a lost record asks of the API server
)

// checkIdentity refuses a request whose names would be paths outside of their folders.
func (r *Request) checkIdentity() error {
	if err := journal.CheckSandbox(r.Sandbox); err != nil {
		return delegates.Coded(delegates.CodeEnvironment, fmt.Errorf("CNI_CONTAINERID: %w", err))
	}
	if err := conf.CheckIfName(r.IfName); err != nil {
		return delegates.Coded(delegates.CodeEnvironment, fmt.Errorf("CNI_IFNAME: %w", err))
	}
	return nil
}

// findPod returns nil when the request names no pod or the source has none.
func (e *Engine) findPod(ctx context.Context, r *Request) (*conf.Pod, error) {
	namespace, name := r.Args.Get("K8S_POD_NAMESPACE"), r.Args.Get("K8S_POD_NAME")
	if namespace == "" && name == "" {
		return nil, nil
	}
	if err := conf.CheckObjectName(namespace, name); err != nil {
		return nil, delegates.Coded(delegates.CodeEnvironment, fmt.Errorf("CNI_ARGS K8S_POD_NAMESPACE, K8S_POD_NAME: %w", err))
	}
	pod, err := e.Source.Pod(ctx, namespace, name, r.Args.Get("K8S_POD_UID"))
	if err != nil || pod == nil {
		return nil, err
	}
	return e.onNode(pod), nil
}

// onNode is the pod with what the node knows of it.
func (e *Engine) onNode(pod *conf.Pod) *conf.Pod {
	here := *pod
	if e.Kubelet != conf.DefaultKubeletDir {
		here.KubeletDir = e.Kubelet
	}
	return &here
}

// Plan returns the plan that ADD would carry out. Nothing is changed.
func (e *Engine) Plan(ctx context.Context, r *Request) (*conf.Pod, *conf.Plan, error) {
	pod, err := e.findPod(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	plan, err := e.planFor(ctx, r, pod)
	return pod, plan, err
}

// planFor is the plan of a pod; nil stands for a pod without annotations.
func (e *Engine) planFor(ctx context.Context, r *Request, pod *conf.Pod) (*conf.Plan, error) {
	if r.Conf == nil {
		plan, err := conf.Standalone(r.Stdin, r.IfName, r.Args)
		return plan, delegates.Coded(delegates.CodeConfig, err)
	}
	references, warnings, err := conf.References(r.Conf, pod)
	if err != nil {
		return nil, delegates.Coded(delegates.CodeConfig, err)
	}
	references, definitions, err := e.lookUp(ctx, pod, references, nil)
	if err != nil {
		return nil, err
	}
	plan, err := conf.Resolve(r.Conf, references, definitions, r.IfName, r.Args)
	if err != nil {
		return nil, delegates.Coded(delegates.CodeConfig, err)
	}
	plan.Warnings = append(plan.Warnings, warnings...)
	for _, d := range definitions {
		plan.Warnings = append(plan.Warnings, d.Warnings...)
	}
	return plan, nil
}

// configuredPlan is the plan of a pod without annotations.
func (e *Engine) configuredPlan(ctx context.Context, r *Request) (*conf.Plan, error) {
	anyone := *r
	anyone.IfName, anyone.Args = "eth0", nil
	return e.planFor(ctx, &anyone, nil)
}

// lookUp finds the networks' definitions and assigns them devices that no network in have
// uses. An empty chain is left out.
func (e *Engine) lookUp(ctx context.Context, pod *conf.Pod, references []conf.Reference, have []conf.Network) ([]conf.Reference, []*conf.Definition, error) {
	var definitions []*conf.Definition
	var found []conf.Reference
	for _, w := range references {
		d, err := e.Source.Network(ctx, w)
		if err != nil {
			return nil, nil, delegates.Coded(delegates.CodeConfig, err)
		}
		if d != nil {
			found, definitions = append(found, w), append(definitions, d)
		}
	}
	given := map[string][]string{}
	if conf.NeedsDevices(definitions) && pod != nil && e.Devices != nil {
		var err error
		if given, err = e.Devices.OfPod(ctx, pod); err != nil {
			return nil, nil, delegates.Coded(delegates.CodeTryAgain, err)
		}
	}
	definitions, err := conf.AssignDevices(found, definitions, conf.WithoutDevices(given, have))
	return found, definitions, delegates.Coded(delegates.CodeConfig, err)
}

func (e *Engine) path(r *Request) []string {
	if r.Conf != nil && r.Conf.BinDir != "" {
		return plugin.SearchPath([]string{r.Conf.BinDir}, r.Path)
	}
	return plugin.SearchPath(r.Path)
}

func (e *Engine) warn(warnings []string) {
	for _, w := range warnings {
		e.Log.Warn(w)
	}
}

// lock locks a sandbox for this request. Plugins that it executes inherit the lock
// (journal.Lock).
func (e *Engine) lock(ctx context.Context, sandbox string) (_ context.Context, unlock func(), err error) {
	ctx, l, err := e.Journal.Lock(ctx, sandbox)
	if err != nil {
		return ctx, nil, delegates.Coded(delegates.CodeTryAgain, err)
	}
	return ctx, l.Release, nil
}

// withRecord locks a sandbox and calls do with its record, if it has one.
func (e *Engine) withRecord(ctx context.Context, sandbox string, do func(context.Context, *journal.Record) error) error {
	ctx, unlock, err := e.lock(ctx, sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := e.Journal.Read(sandbox)
	if err != nil || rec == nil {
		return err
	}
	return do(ctx, rec)
}

// isReady reports whether the file of the key readinessindicatorfile exists, when there is one.
func isReady(c *conf.Conf) error {
	if c == nil || c.ReadinessIndicatorFile == "" {
		return nil
	}
	if _, err := os.Stat(c.ReadinessIndicatorFile); err != nil {
		return fmt.Errorf("the cluster network is not ready: readinessindicatorfile %s does not exist", c.ReadinessIndicatorFile)
	}
	return nil
}

// awaitReadiness waits for readinessindicatorfile, as Multus does.
func awaitReadiness(ctx context.Context, c *conf.Conf) error {
	ctx, cancel := context.WithTimeout(ctx, readinessWait)
	defer cancel()
	for {
		err := isReady(c)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return delegates.Coded(delegates.CodeTryAgain, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Status reports whether ADD can be served: it runs STATUS of the cluster network and of the
// other networks that the configuration itself names. A network that only pods name reports
// its state at ADD.
func (e *Engine) Status(ctx context.Context, r *Request) error {
	if err := isReady(r.Conf); err != nil {
		return delegates.Coded(delegates.CodeNotReady, err)
	}
	plan, err := e.configuredPlan(ctx, r)
	if err != nil {
		return &delegates.Error{Code: delegates.CodeNotReady, Err: err}
	}
	r.Warnings = slices.DeleteFunc(plan.Warnings, func(w string) bool { return slices.Contains(r.Conf.Warnings, w) })
	e.warn(r.Warnings)
	for _, n := range plan.Networks {
		c, err := e.network(n, e.path(r))
		if err == nil {
			err = c.Status(ctx)
		}
		if err != nil {
			err = fmt.Errorf("network %s is not ready: %w", n.Name, err)
			for _, w := range r.Warnings {
				err = fmt.Errorf("%w; warning: %s", err, w)
			}
			return &delegates.Error{Code: delegates.CodeNotReady, Err: err}
		}
	}
	return nil
}

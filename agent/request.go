// Package agent answers CNI requests: it reads environment and standard input
// as the CNI specification 1.1.0 section 2 has them, lets the engine do the
// verb, and writes the result or the error. plexusd cni answers one request
// with it, plexusd serve is the node agent: it answers the requests of all
// pods, keeps what they got, and tells about it.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/kube"
)

// Call is one execution of a CNI plugin.
type Call struct {
	// As is the name that the plugin was executed by: plexus' own
	// (conf.IsOwnType), or that of a built-in delegate, which is then that
	// plugin alone.
	As     string
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// ID is that of delegates.Request.
	ID string
	// Node is what requests of this process share; nil for the only one.
	Node *Node

	later func(func()) // has the report made when the runtime has its answer
}

// codeNotReady is the code of STATUS when ADD cannot be served (CNI specification
// 1.1.0, section "STATUS").
const codeNotReady = 50

// maxStdin bounds the configuration, in bytes.
const maxStdin = 4 << 20

// Answer does what the call asks for, writes the answer to Stdout and returns
// the exit status.
func Answer(ctx context.Context, c Call) (status int) {
	stdin, err := io.ReadAll(io.LimitReader(c.Stdin, maxStdin+1))
	if err == nil && len(stdin) > maxStdin {
		err = fmt.Errorf("standard input: more than %d bytes", maxStdin)
	}
	var out any
	if err != nil {
		err = &delegates.Error{Code: types.ErrIOFailure, Err: err}
	} else {
		out, err = c.answer(ctx, stdin)
	}
	if err != nil {
		out = wireError(err, versionOf(stdin))
		status = 1
	}
	if out == nil {
		return status
	}
	enc := json.NewEncoder(c.Stdout)
	enc.SetIndent("", "    ")
	if err := enc.Encode(out); err != nil {
		fmt.Fprintln(c.Stderr, "plexus: write answer:", err)
		return 1
	}
	return status
}

// versionOf is the version that a configuration asks for.
func versionOf(stdin []byte) string {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	_ = json.Unmarshal(stdin, &head) // what is wrong with it others say
	return head.CNIVersion
}

// answer turns a panic into an error: a runtime can show one, and the journal
// holds what is to be undone.
func (c *Call) answer(ctx context.Context, stdin []byte) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(c.Stderr, "plexus: panic: %v\n%s", p, debug.Stack())
			out, err = nil, fmt.Errorf("internal error: %v", p)
		}
	}()
	command := c.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		return map[string]any{"cniVersion": version.Current(), "supportedVersions": version.All.SupportedVersions()}, nil
	}
	if err := c.required(command); err != nil {
		return nil, err
	}
	node := c.Node
	if node == nil {
		node = &Node{}
		defer node.Close()
	}
	engine, r, done, err := c.open(node, stdin)
	if err != nil {
		return nil, err
	}
	defer done()
	var told *publication
	whole := false
	if live, ok := engine.Source.(*kube.Live); ok && c.later != nil && live.Cluster == node.cluster {
		engine.Later = func(pod *conf.Pod, publish func(context.Context) error) {
			told = node.publisher.add(r.Sandbox, r.IfName, pod, publish)
		}
		defer func() {
			if told != nil && !whole {
				node.publisher.forget(told)
			}
		}()
	}
	ctx, end, count := node.begin(ctx, command, r)
	out, err = c.do(ctx, command, engine, r, stdin)
	end(err)
	whole = err == nil
	report := func() {
		count(err)
		node.tell(engine, command, r, err)
	}
	if c.later == nil {
		report()
		return out, err
	}
	if command == "DEL" {
		node.publisher.drop(r.Sandbox, r.IfName)
	}
	c.later(func() {
		if told != nil {
			node.publisher.run(told)
		}
		report()
	})
	return out, err
}

func (c *Call) do(ctx context.Context, command string, engine *delegates.Engine, r *delegates.Request, stdin []byte) (any, error) {
	switch command {
	case "ADD":
		if c.Node == nil && r.Conf != nil && r.Conf.Agent.Socket != "" && r.Conf.Kubeconfig == "" && r.Conf.Manifests == "" {
			return nil, &delegates.Error{Code: types.ErrTryAgainLater, Err: fmt.Errorf("the node agent at %s has not served the request, and without the key kubeconfig nobody else knows what networks the pod asks for", r.Conf.Agent.Socket)}
		}
		result, err := engine.Add(ctx, r)
		if err != nil {
			return nil, err
		}
		if r.Conf != nil {
			return asVersion(result, r.Conf.CNIVersion)
		}
		return asVersion(result, versionOf(stdin))
	case "DEL":
		return nil, engine.Del(ctx, r)
	case "CHECK":
		return nil, engine.Check(ctx, r)
	case "STATUS":
		if c.Node == nil && r.Conf != nil && r.Conf.Agent.Socket != "" {
			return nil, &delegates.Error{Code: codeNotReady, Err: fmt.Errorf("the node agent at %s does not answer: is plexusd serve running on this node?", r.Conf.Agent.Socket)}
		}
		return nil, engine.Status(ctx, r)
	default: // GC; required has seen to the rest
		valid, err := validAttachments(stdin)
		if err != nil {
			return nil, err
		}
		return nil, engine.GC(ctx, r, valid)
	}
}

// required refuses a call that lacks what its verb needs (CNI specification
// 1.1.0, section 2, "CNI operations").
func (c *Call) required(command string) error {
	var needed []string
	switch command {
	case "ADD", "CHECK":
		needed = []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}
	case "DEL":
		needed = []string{"CNI_CONTAINERID", "CNI_IFNAME"}
	case "GC", "STATUS":
	case "":
		return environmentError("CNI_COMMAND is not set: plexus is executed by a container runtime, see plexusctl for people")
	default:
		return environmentError("CNI_COMMAND %.40q, allowed are ADD, DEL, CHECK, GC, STATUS, VERSION", command)
	}
	var missing []string
	for _, key := range needed {
		if c.Getenv(key) == "" {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return environmentError("%s: not set: %s", command, strings.Join(missing, ", "))
	}
	return nil
}

func environmentError(format string, args ...any) error {
	return &delegates.Error{Code: types.ErrInvalidEnvironmentVariables, Err: fmt.Errorf(format, args...)}
}

func configError(err error) error {
	return &delegates.Error{Code: types.ErrInvalidNetworkConfig, Err: err}
}

// open reads the configuration and makes the engine that it asks for.
func (c *Call) open(node *Node, stdin []byte) (*delegates.Engine, *delegates.Request, func(), error) {
	args, err := conf.ParseArgs(c.Getenv("CNI_ARGS"))
	if err != nil {
		return nil, nil, nil, &delegates.Error{Code: types.ErrInvalidEnvironmentVariables, Err: err}
	}
	r := &delegates.Request{
		Stdin:   stdin,
		Sandbox: c.Getenv("CNI_CONTAINERID"),
		Netns:   c.Getenv("CNI_NETNS"),
		IfName:  c.Getenv("CNI_IFNAME"),
		Args:    args,
		Path:    filepath.SplitList(c.Getenv("CNI_PATH")),
		ID:      c.ID,
	}
	settings := &conf.Conf{DataDir: conf.DefaultDataDir, LogLevel: conf.LogError}
	if conf.IsOwnType(c.As) {
		if settings, err = node.settings(stdin); err != nil {
			return nil, nil, nil, configError(err)
		}
		r.Conf, r.Network = settings, settings.Name
	} else {
		var named struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(stdin, &named); err != nil {
			return nil, nil, nil, configError(fmt.Errorf("network configuration: %w", err))
		}
		r.Network = named.Name
		if settings.Bounds, err = readBounds(conf.NodeFile); err != nil {
			return nil, nil, nil, configError(err)
		}
	}
	log, done := node.openLog(settings, c.Stderr)
	engine, err := node.engine(settings, log, c.Stderr)
	if err != nil {
		done()
		return nil, nil, nil, configError(err)
	}
	if r.Conf == nil && engine.Delegates[c.As] == nil {
		done()
		return nil, nil, nil, configError(fmt.Errorf("%q is not a delegate of this plexus", c.As))
	}
	return engine, r, done, nil
}

// readBounds reads the settings of the node for built-in delegates that are executed
// alone. A file that does not exist has none.
func readBounds(file string) (conf.Bounds, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return conf.Bounds{}, nil
	}
	if err != nil {
		return conf.Bounds{}, err
	}
	b, err := conf.ParseBounds(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return b, err
}

// asVersion is a result in the version that the request asks for.
func asVersion(r *types100.Result, cniVersion string) (any, error) {
	if cniVersion == "" {
		cniVersion = "0.1.0" // CNI specification 0.2.0: the version of a configuration that names none
	}
	if knows, err := version.GreaterThanOrEqualTo(cniVersion, "1.1.0"); err == nil && !knows {
		r = before110(r)
	}
	out, err := r.GetAsVersion(cniVersion)
	if err != nil {
		return nil, &delegates.Error{Code: types.ErrIncompatibleCNIVersion, Err: err}
	}
	return delegates.Plain(out), nil
}

// before110 is a result without what CNI 1.1.0 has added; the library leaves it
// in one of 1.0.0.
func before110(r *types100.Result) *types100.Result {
	old := *r
	old.Interfaces, old.Routes = nil, nil
	for _, i := range r.Interfaces {
		old.Interfaces = append(old.Interfaces, &types100.Interface{Name: i.Name, Mac: i.Mac, Sandbox: i.Sandbox})
	}
	for _, route := range r.Routes {
		old.Routes = append(old.Routes, &types.Route{Dst: route.Dst, GW: route.GW})
	}
	return &old
}

// validAttachments reads the attachments that the runtime knows (CNI specification 1.1.0,
// section "GC"). A list that is not whole is refused: each attachment that it lacks would
// be undone.
func validAttachments(stdin []byte) ([]types.GCAttachment, error) {
	const key = "cni.dev/valid-attachments"
	refuse := func(format string, args ...any) ([]types.GCAttachment, error) {
		return nil, configError(fmt.Errorf("GC: key %q%s: nothing is undone", key, fmt.Sprintf(format, args...)))
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return nil, configError(err)
	}
	text, ok := keys[key]
	if !ok {
		return refuse(" is missing: without it every attachment would be stale")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil || list == nil {
		return refuse(" is %.80s, want an array of objects with containerID and ifname", text)
	}
	valid := make([]types.GCAttachment, len(list))
	for i, member := range list {
		var a *struct {
			ContainerID *string `json:"containerID"`
			IfName      *string `json:"ifname"`
		}
		err := json.Unmarshal(member, &a)
		switch {
		case err != nil || a == nil:
			return refuse(", member %d is %.80s, want an object with containerID and ifname", i, member)
		case a.ContainerID == nil || *a.ContainerID == "":
			return refuse(", member %d: containerID is missing or empty in %.200s", i, member)
		case a.IfName == nil || *a.IfName == "":
			return refuse(", member %d: ifname is missing or empty in %.200s", i, member)
		}
		valid[i] = types.GCAttachment{ContainerID: *a.ContainerID, IfName: *a.IfName}
	}
	return valid, nil
}

// answerError is an error as the runtime reads it (CNI specification 1.1.0,
// section 5, "Error").
type answerError struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// wireError converts an error, once. Its code is that of the first cause that
// has one.
func wireError(err error, cniVersion string) *answerError {
	out := &answerError{CNIVersion: cniVersion, Code: types.ErrInternal, Msg: err.Error()}
	var mine *delegates.Error
	var plugin *types.Error
	var refusal *conf.Refusal
	switch {
	case errors.As(err, &mine):
		out.Code = mine.Code
	case errors.As(err, &plugin):
		out.Code, out.Details = plugin.Code, plugin.Details
	case errors.As(err, &refusal):
		out.Code = types.ErrInvalidNetworkConfig
	case errors.Is(err, context.Canceled), conf.IsTemporary(err): // a deadline that has passed is temporary, too
		out.Code = types.ErrTryAgainLater
	}
	return out
}

// Environ is a Getenv over a list of "KEY=VALUE", the last one counts.
func Environ(list ...string) func(string) string {
	m := map[string]string{}
	for _, pair := range list {
		if key, value, ok := strings.Cut(pair, "="); ok {
			m[key] = value
		}
	}
	return func(key string) string { return m[key] }
}

// OSCall is the call that this process was made with.
func OSCall(as string) Call {
	return Call{As: as, Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
}

// Package call is one execution of a CNI plugin: it reads environment and standard input as
// the CNI specification 1.1.0 section 2 has them, has an engine do the verb, and writes the
// result or the error. The node agent answers many calls in one process, plexusd cni and
// plexusbuiltin one.
package call

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/engine"
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
	// ID and Runtime are those of engine.Request.
	ID, Runtime string
}

// MaxStdin bounds the configuration, in bytes.
const MaxStdin = 4 << 20

// OSCall is the call that this process was made with.
func OSCall(as string) Call {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid())) // of plexus' parent: plexus becomes plexusd
	return Call{As: as, Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Runtime: strings.TrimSpace(string(name))}
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

// Respond has the call served and returns the exit status, and the answer for standard
// output. serve is given standard input. An error is in the answer too.
func (c *Call) Respond(serve func(stdin []byte) (any, error)) (status int, out []byte, err error) {
	stdin, err := io.ReadAll(io.LimitReader(c.Stdin, MaxStdin+1))
	if err == nil && len(stdin) > MaxStdin {
		err = fmt.Errorf("standard input: more than %d bytes", MaxStdin)
	}
	var answer any
	if err != nil {
		err = &delegates.Error{Code: types.ErrIOFailure, Err: err}
	} else {
		answer, err = c.answer(stdin, serve)
	}
	if err == nil && answer != nil {
		out, err = json.MarshalIndent(answer, "", "    ")
	}
	if err != nil {
		status = 1
		var errMarshal error
		out, errMarshal = json.MarshalIndent(WireError(err, versionOf(stdin)), "", "    ")
		err = errors.Join(err, errMarshal)
	}
	if out != nil {
		out = append(out, '\n')
	}
	return status, out, err
}

// answer turns a panic into an error: a runtime can show one, and the journal
// holds what is to be undone.
func (c *Call) answer(stdin []byte, serve func(stdin []byte) (any, error)) (out any, err error) {
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
	return serve(stdin)
}

// required refuses a call that lacks what its verb needs (CNI specification
// 1.1.0, section 2, "CNI operations").
func (c *Call) required(command string) error {
	if command == "" {
		return environmentError("CNI_COMMAND is not set: plexus is executed by a container runtime, see plexusctl for people")
	}
	needed, ok := map[string][]string{
		"ADD":    {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"CHECK":  {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"DEL":    {"CNI_CONTAINERID", "CNI_IFNAME"},
		"GC":     nil,
		"STATUS": nil,
	}[command]
	if !ok {
		return environmentError("CNI_COMMAND %.40q, allowed are ADD, DEL, CHECK, GC, STATUS, VERSION", command)
	}
	missing := slices.DeleteFunc(needed, func(key string) bool { return c.Getenv(key) != "" })
	if len(missing) > 0 {
		return environmentError("%s: not set: %s", command, strings.Join(missing, ", "))
	}
	return nil
}

// parse reads the request, and the settings that it is served with.
func (c *Call) parse(stdin []byte) (*engine.Request, *conf.Conf, error) {
	args, err := conf.ParseArgs(c.Getenv("CNI_ARGS"))
	if err != nil {
		return nil, nil, &delegates.Error{Code: types.ErrInvalidEnvironmentVariables, Err: err}
	}
	r := &engine.Request{
		Stdin:   stdin,
		Sandbox: c.Getenv("CNI_CONTAINERID"),
		Netns:   c.Getenv("CNI_NETNS"),
		IfName:  c.Getenv("CNI_IFNAME"),
		Args:    args,
		Path:    filepath.SplitList(c.Getenv("CNI_PATH")),
		ID:      c.ID,
		Runtime: c.Runtime,
	}
	if conf.IsOwnType(c.As) {
		settings, err := conf.Parse(stdin)
		if err != nil {
			return nil, nil, configError(err)
		}
		r.Conf, r.Network = settings, settings.Name
		return r, settings, nil
	}
	settings := &conf.Conf{DataDir: conf.DefaultDataDir, LogLevel: conf.LogError}
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(stdin, &named); err != nil {
		return nil, nil, configError(fmt.Errorf("network configuration: %w", err))
	}
	r.Network = named.Name
	if settings.Bounds, err = readBounds(conf.NodeFile); err != nil {
		return nil, nil, configError(err)
	}
	return r, settings, nil
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

// Open makes the engine for the settings of a call. Nothing is sent.
type Open func(settings *conf.Conf, log *slog.Logger, stderr io.Writer) *engine.Engine

// Do parses the call, opens its log and its engine, and has the verb done.
func (c *Call) Do(stdin []byte, files *LogFiles, open Open, verb func(*engine.Engine, *engine.Request) (any, error)) (any, error) {
	r, settings, err := c.parse(stdin)
	if err != nil {
		return nil, err
	}
	log, done := files.open(settings, c.Stderr)
	defer done()
	e := open(settings, log, c.Stderr)
	if r.Conf == nil && !e.Delegates.Has(c.As) {
		return nil, configError(fmt.Errorf("%q is not a delegate of this plexus", c.As))
	}
	return verb(e, r)
}

// Alone has the call served in this process, which serves no other, writes the answer to Stdout
// and returns the exit status.
func (c *Call) Alone(open Open, verb func(*engine.Engine, *engine.Request) (any, error)) (status int) {
	status, text, _ := c.Respond(func(stdin []byte) (any, error) {
		return c.Do(stdin, &LogFiles{}, open, func(e *engine.Engine, r *engine.Request) (any, error) {
			defer e.Close()
			return verb(e, r)
		})
	})
	if len(text) > 0 {
		if _, err := c.Stdout.Write(text); err != nil {
			fmt.Fprintln(c.Stderr, "plexus: write answer:", err)
			return 1
		}
	}
	return status
}

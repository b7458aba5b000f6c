package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Request is the attachment for which a network's plugin list runs.
type Request struct {
	Network conf.Network
	Sandbox string
	Netns   string // path; "" when it is gone
	NetnsID string
	Pod     *conf.Pod
	Path    []string // folders of executables
	// Endpoints are allowed in addition to those of the bounds.
	Endpoints []string
	// Executed: executables have attached it, built-in types too.
	Executed bool
	// State is the recorded state of the built-ins, by plugin type; Result is the recorded
	// result. Both are nil before ADD.
	State  map[string]json.RawMessage
	Result *types100.Result
}

// Chain is the list of one attachment, each plugin of it parsed once.
type Chain struct {
	*Runner
	Request
	Warnings []string // of the built-ins' configurations, for people

	list     *libcni.NetworkConfigList
	builtins []*Builtin

	nativeInterfaces []*types100.Interface // of built-ins, with the keys of CNI 1.1
	deleting         bool                  // Del runs
	delErrs          []error               // of plugins, that libcni does not see
}

// Builtin is a plugin of a list that is built in.
type Builtin struct {
	Type     string // as the list names it
	Name     string // of the delegate in Runner.Delegates
	Delegate delegates.Delegate
	*delegates.Attachment
	// Refused is the error of a configuration that is not accepted. A recorded attachment
	// can be undone all the same.
	Refused error

	ipam       *ipam
	detachErr  *error // the result of Delegate.Detach; nil before the call
	releaseErr *error // the result of ipam's DEL; nil before it
	dropped    error  // what is asked of the built-in that none does
}

// Chain parses the plugin list of an attachment.
func (r *Runner) Chain(of Request) (*Chain, error) {
	data, err := json.Marshal(of.Network.List)
	if err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	c := &Chain{Runner: r, Request: of, list: list}
	for _, p := range list.Plugins {
		if c.isBuiltin(p.Network.Type) {
			config, err := c.inject(p)
			if err != nil {
				return nil, err
			}
			c.builtins = append(c.builtins, c.builtin(p.Network.Type, config))
		}
	}
	return c, nil
}

func (c *Chain) isBuiltin(typ string) bool { return !c.Executed && c.Delegates.Has(typ) }

// builtin parses the configuration of a built-in plugin: as libcni hands it on, less prevResult.
func (c *Chain) builtin(typ string, config []byte) *Builtin {
	b := &Builtin{Type: typ, Attachment: &delegates.Attachment{
		Sandbox: c.Sandbox, Netns: c.Netns, NetnsID: c.NetnsID, IfName: c.Network.IfName, Name: c.Network.Name,
		Owner: c.DataDir, Pod: c.Pod, Args: c.Network.Args, Bounds: c.bounds(), State: c.State[typ], Result: c.Result,
	}}
	if b.Name, b.Delegate, b.Refused = c.Delegates.Of(typ, config); b.Refused == nil {
		var warnings []string
		b.Network, warnings, b.Refused = b.Delegate.Parse(c.Network.Name, config)
		c.Warnings = append(c.Warnings, warnings...)
	}
	if b.Refused != nil {
		b.Network = nil
	}
	b.ipam = c.newIPAM(config, b.Attachment)
	b.dropped = c.dropped(typ, config)
	return b
}

// bounds are the bounds of the attachment's configuration.
func (c *Chain) bounds() conf.Bounds {
	b := c.Bounds
	b.Endpoints = slices.Concat(b.Endpoints, c.Endpoints)
	if c.Network.OfNode {
		b = b.ForOwn()
	}
	return b
}

// inject adds the keys to the configuration of a built-in that libcni will add, except
// prevResult. A built-in need not declare the capability mac.
func (c *Chain) inject(p *libcni.PluginConfig) ([]byte, error) {
	keys := map[string]any{"name": c.list.Name, "cniVersion": c.list.CNIVersion}
	runtime := map[string]any{}
	for name, on := range p.Network.Capabilities {
		if value, asked := c.Network.CapabilityArgs[name]; on && asked {
			runtime[name] = value
		}
	}
	if mac, asked := c.Network.CapabilityArgs["mac"]; asked {
		runtime["mac"] = mac
	}
	if len(runtime) > 0 {
		keys["runtimeConfig"] = runtime
	}
	with, err := libcni.InjectConf(p, keys)
	if err != nil {
		return nil, err
	}
	return with.Bytes, nil
}

// Builtins are the plugins of the list that are built in, in order.
func (c *Chain) Builtins() []*Builtin { return c.builtins }

// Single is the built-in of a list that has no other plugin, else nil.
func (c *Chain) Single() *Builtin {
	if len(c.list.Plugins) != 1 || len(c.builtins) != 1 {
		return nil
	}
	return c.builtins[0]
}

// EndpointsOf lists the vswitches that the built-ins attach to.
func (c *Chain) EndpointsOf() []string {
	var all []string
	for _, b := range c.builtins {
		if b.Network != nil && b.Network.Endpoint() != "" {
			all = append(all, b.Network.Endpoint())
		}
	}
	return all
}

func (c *Chain) libcni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(c.Path, c.DataDir, c)
}

func (c *Chain) runtimeConf(args conf.Args) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    c.Sandbox,
		NetNS:          c.Netns,
		IfName:         c.Network.IfName,
		Args:           args,
		CapabilityArgs: c.Network.CapabilityArgs,
	}
}

// Prepare finds every executable and prepares the built-ins. The only changes are
// reservations, which Release gives back. It returns the state that the built-ins need to
// detach, by plugin type; after an error, of the built-ins prepared until then.
func (c *Chain) Prepare(ctx context.Context) (map[string]json.RawMessage, error) {
	state := map[string]json.RawMessage{}
	if name := filepath.Base(c.cacheFile()); len(name) > unix.NAME_MAX {
		return state, conf.Refuse(fmt.Errorf("network %s: key %q: with container ID and interface it has %d bytes and names a file, at most %d are allowed: shorten it", c.Network.Name, "name", len(name), unix.NAME_MAX))
	}
	if err := c.Executables(); err != nil {
		return state, err
	}
	for _, b := range c.builtins {
		if _, twice := state[b.Type]; twice {
			return state, conf.Refuse(fmt.Errorf("plugin %q stands twice in its list, a built-in delegate may once", b.Type))
		}
		if b.Refused != nil { // the error names network and plugin
			return state, conf.Refuse(b.Refused)
		}
		err := cmp.Or(b.dropped, b.ipam.checkType())
		if err == nil {
			b.State, err = b.Network.Prepare(ctx, b.Attachment)
		}
		if err != nil {
			return state, fmt.Errorf("%s: %w", b.Type, err)
		}
		state[b.Type] = b.State
	}
	return state, nil
}

// Release gives back the reservations of Prepare, for an attachment whose plugins have not run.
func (c *Chain) Release(ctx context.Context) error {
	var errs []error
	for _, b := range c.builtins {
		if b.State != nil && b.Network != nil {
			errs = append(errs, b.Network.Release(ctx, b.Attachment))
		}
	}
	return errors.Join(errs...)
}

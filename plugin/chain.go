package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Request is an attachment to run the list of a network for.
type Request struct {
	Network conf.Network
	Sandbox string
	Netns   string // path; "" when it is gone
	NetnsID string
	Pod     *conf.Pod
	Path    []string // folders of executables
	// Endpoints may be named beside those of the bounds.
	Endpoints []string
	// Executed: executables alone have attached it, whatever is built in.
	Executed bool
	// State is what the built-ins have prepared, by plugin type; Result is the recorded
	// result. Both nil before ADD.
	State  map[string]json.RawMessage
	Result *types100.Result
}

// Chain is the list of one attachment, each plugin of it parsed once.
type Chain struct {
	*Runner
	Request
	Warnings []string // of the built-ins' configurations, for people

	list    *libcni.NetworkConfigList
	plugins []*plugin
	exec    *executor

	attached []*types100.Interface // by built-ins, with all that CNI 1.1 has
	delErrs  []error
}

// plugin is one plugin of a list.
type plugin struct {
	typ     string
	config  []byte   // as libcni hands it on, less prevResult
	builtin *Builtin // nil for an executable
}

// Builtin is a plugin of a list that is built in.
type Builtin struct {
	Type     string // as the list names it
	Name     string // of the delegate in Runner.Delegates
	Delegate delegates.Delegate
	*delegates.Attachment
	// Refused is why the configuration is not accepted. What is recorded can be undone
	// all the same.
	Refused error

	ipam *ipam
	gone *error // what Detach has said, when the engine has called it
}

// Chain reads the list of an attachment.
func (r *Runner) Chain(of Request) (*Chain, error) {
	list, err := networkList(&of.Network.List)
	if err != nil {
		return nil, err
	}
	c := &Chain{Runner: r, Request: of, list: list, exec: r.executor()}
	for _, p := range list.Plugins {
		one := &plugin{typ: p.Network.Type}
		if one.config, err = c.inject(p); err != nil {
			return nil, err
		}
		if !of.Executed && r.Delegates.Has(one.typ) {
			one.builtin = c.builtin(one)
		}
		c.plugins = append(c.plugins, one)
	}
	return c, nil
}

// builtin parses the configuration of a plugin that is built in.
func (c *Chain) builtin(p *plugin) *Builtin {
	b := &Builtin{Type: p.typ, Attachment: c.attachment()}
	b.State = c.State[p.typ]
	if b.Name, b.Delegate, b.Refused = c.Delegates.Of(p.typ, p.config); b.Refused == nil {
		var warnings []string
		b.Network, warnings, b.Refused = b.Delegate.Parse(c.Network.Name, p.config)
		c.Warnings = append(c.Warnings, warnings...)
	}
	if b.Refused != nil {
		b.Network = nil
	}
	b.ipam = c.newIPAM(p.config, b.Attachment)
	return b
}

func (c *Chain) attachment() *delegates.Attachment {
	return &delegates.Attachment{
		Sandbox: c.Sandbox, Netns: c.Netns, NetnsID: c.NetnsID, IfName: c.Network.IfName, Name: c.Network.Name,
		Owner: c.DataDir, Pod: c.Pod, Args: c.Network.Args, Bounds: c.bounds(), Result: c.Result,
	}
}

// bounds are those of the attachment's configuration.
func (c *Chain) bounds() conf.Bounds {
	b := c.Bounds
	b.Endpoints = slices.Concat(b.Endpoints, c.Endpoints)
	if c.Network.OfNode {
		b = b.ForOwn()
	}
	return b
}

// inject gives a plugin configuration what libcni will give to it, but for prevResult.
func (c *Chain) inject(p *libcni.PluginConfig) ([]byte, error) {
	keys := map[string]any{"name": c.list.Name, "cniVersion": c.list.CNIVersion}
	runtime := map[string]any{}
	for name, on := range p.Network.Capabilities {
		if value, asked := c.Network.CapabilityArgs[name]; on && asked {
			runtime[name] = value
		}
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

// networkList is the configuration list in libcni's form.
func networkList(l *conf.List) (*libcni.NetworkConfigList, error) {
	data, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	list := &libcni.NetworkConfigList{Name: l.Name, CNIVersion: l.CNIVersion, DisableCheck: l.DisableCheck, DisableGC: l.DisableGC, Bytes: data}
	for _, raw := range l.Plugins {
		p, err := libcni.NetworkPluginConfFromBytes(raw)
		if err != nil {
			return nil, err
		}
		list.Plugins = append(list.Plugins, p)
	}
	return list, nil
}

// Builtins are the plugins of the list that are built in, in order.
func (c *Chain) Builtins() []*Builtin {
	var all []*Builtin
	for _, p := range c.plugins {
		if p.builtin != nil {
			all = append(all, p.builtin)
		}
	}
	return all
}

// Single is the built-in of a list that has no other plugin, else nil.
func (c *Chain) Single() *Builtin {
	if len(c.plugins) != 1 {
		return nil
	}
	return c.plugins[0].builtin
}

// Endpoints are the vswitches that the built-ins attach to.
func (c *Chain) EndpointsOf() []string {
	var all []string
	for _, b := range c.Builtins() {
		if b.Network != nil && b.Network.Endpoint() != "" {
			all = append(all, b.Network.Endpoint())
		}
	}
	return all
}

func (c *Chain) libcni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(c.Path, c.DataDir, c)
}

func (c *Chain) runtimeConf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    c.Sandbox,
		NetNS:          c.Netns,
		IfName:         c.Network.IfName,
		Args:           c.Network.Args,
		CapabilityArgs: c.Network.CapabilityArgs,
	}
}

// Prepare finds every executable and asks the built-ins what they will do. Nothing is
// changed but what Release gives back. It returns what the built-ins will need to
// detach, by plugin type, with an error too: of those that have been asked by then.
func (c *Chain) Prepare(ctx context.Context) (map[string]json.RawMessage, error) {
	state := map[string]json.RawMessage{}
	if name := filepath.Base(c.cacheFile()); len(name) > unix.NAME_MAX {
		return state, conf.Refuse(fmt.Errorf("network %s: key %q: with container ID and interface it has %d bytes and names a file, at most %d are allowed: shorten it", c.Network.Name, "name", len(name), unix.NAME_MAX))
	}
	for _, p := range c.plugins {
		b := p.builtin
		if b == nil {
			if _, err := c.FindInPath(p.typ, c.Path); err != nil {
				return state, err
			}
			continue
		}
		if _, twice := state[p.typ]; twice {
			return state, conf.Refuse(fmt.Errorf("plugin %q stands twice in its list, a built-in delegate may once", p.typ))
		}
		err := conf.Refuse(b.Refused)
		if err == nil {
			err = b.ipam.find()
		}
		if err == nil {
			b.State, err = b.Network.Prepare(ctx, b.Attachment)
		}
		if err != nil {
			return state, fmt.Errorf("%s: %w", p.typ, err)
		}
		state[p.typ] = b.State
	}
	return state, nil
}

// Release gives back what Prepare has reserved for an attachment that is not begun.
func (c *Chain) Release(ctx context.Context) error {
	var errs []error
	for _, b := range c.Builtins() {
		if b.State != nil && b.Network != nil {
			errs = append(errs, b.Network.Release(ctx, b.Attachment))
		}
	}
	return errors.Join(errs...)
}

// Add runs ADD over the list. A built-in that is attached already says so. libcni
// panics on some results with a null in them; as an error it has what was attached
// undone.
func (c *Chain) Add(ctx context.Context) (result *types100.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("internal error: %v", p)
		}
	}()
	r, err := c.libcni().AddNetworkList(ctx, c.list, c.runtimeConf())
	if err != nil {
		return nil, err
	}
	result, err = types100.NewResultFromResult(r)
	if err == nil {
		err = checkResult(result)
	}
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	c.restoreNative(result)
	return result, nil
}

// restoreNative gives a result back what only CNI 1.1 can say, which a list of an older
// version has lost.
func (c *Chain) restoreNative(result *types100.Result) {
	for _, mine := range c.attached {
		for _, i := range slices.Backward(result.Interfaces) {
			if i.Name == mine.Name && i.Sandbox == mine.Sandbox && i.Mac == mine.Mac {
				i.Mtu, i.SocketPath, i.PciID = mine.Mtu, mine.SocketPath, mine.PciID
				break
			}
		}
	}
}

// Check runs CHECK over the list. Lists below CNI 0.4.0 know no CHECK; their built-ins
// are asked all the same.
func (c *Chain) Check(ctx context.Context) error {
	if c.list.DisableCheck {
		return nil
	}
	if knows, err := version.GreaterThanOrEqualTo(c.list.CNIVersion, "0.4.0"); err != nil || knows {
		return errors.Join(err, c.libcni().CheckNetworkList(ctx, c.list, c.runtimeConf()))
	}
	for _, b := range c.Builtins() {
		if err := b.check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Detached says what Delegate.Detach has answered for the built-in: the DEL that
// follows does not ask again.
func (b *Builtin) Detached(err error) { b.gone = &err }

// IsDetached reports whether Detached was called.
func (b *Builtin) IsDetached() bool { return b.gone != nil }

// Del runs DEL over the list, last plugin first. A plugin that fails stops none of the
// others; libcni would, so it is not told (ExecPlugin). The cached result is kept for
// the next DEL when one failed.
func (c *Chain) Del(ctx context.Context) error {
	cached, err := os.ReadFile(c.cacheFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENAMETOOLONG) {
		return err
	}
	err = errors.Join(c.libcni().DelNetworkList(ctx, c.list, c.runtimeConf()), errors.Join(c.delErrs...))
	if err != nil && len(cached) > 0 {
		return errors.Join(err, os.WriteFile(c.cacheFile(), cached, 0o600))
	}
	if err == nil && len(cached) > 0 { // libcni does not say when it could not remove it
		err = c.forget()
	}
	return err
}

func (c *Chain) forget() error {
	if err := os.Remove(c.cacheFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the cached result: %w", err)
	}
	return nil
}

func (c *Chain) cacheFile() string {
	return filepath.Join(c.CacheFolder(), fmt.Sprintf("%s-%s-%s", c.list.Name, c.Sandbox, c.Network.IfName))
}

// Status says whether ADD could be served. Built-ins are asked whatever the list's
// version is, executables as libcni does, from CNI 1.1.0 on.
func (c *Chain) Status(ctx context.Context) error {
	for _, p := range c.plugins {
		b := p.builtin
		if b == nil {
			if _, err := c.FindInPath(p.typ, c.Path); err != nil {
				return err
			}
			continue
		}
		err := b.Refused
		if err == nil {
			err = b.Network.Ready(ctx)
		}
		if err != nil {
			return err
		}
	}
	return c.libcni().GetStatusNetworkList(ctx, c.list)
}

// GC hands GC to the executables of the list. libcni would first DEL what its cache
// knows and the list of valid attachments does not; the journal has seen to that, so
// libcni is shown no cache.
func (c *Chain) GC(ctx context.Context, valid []types.GCAttachment) error {
	if valid == nil {
		valid = []types.GCAttachment{}
	}
	noCache := filepath.Join(c.DataDir, "no-cache")
	return libcni.NewCNIConfigWithCacheDir(c.Path, noCache, c).GCNetworkList(ctx, c.list, &libcni.GCArgs{ValidAttachments: valid})
}

// Executables sees that the executables of the list are there.
func (c *Chain) Executables() error {
	for _, p := range c.plugins {
		if p.builtin == nil {
			if _, err := c.FindInPath(p.typ, c.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkResult refuses a result that would not survive being written and read.
func checkResult(r *types100.Result) error {
	if at := slices.Index(r.Interfaces, nil); at >= 0 {
		return fmt.Errorf("interfaces[%d] is null", at)
	}
	if at := slices.IndexFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip == nil || ip.Address.IP == nil }); at >= 0 {
		return fmt.Errorf("ips[%d] has no address", at)
	}
	if at := slices.IndexFunc(r.Routes, func(route *types.Route) bool { return route == nil || route.Dst.IP == nil }); at >= 0 {
		return fmt.Errorf("routes[%d] has no dst", at)
	}
	return nil
}

func lookup(environ []string, key string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(environ[i], key+"="); ok {
			return value
		}
	}
	return ""
}

package delegates

import (
	"cmp"
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
)

// chain runs the plugins of one attachment through libcni. To libcni it is an
// invoke.Exec that finds the built-in delegates in memory and executes
// everything else.
type chain struct {
	*Engine
	sandbox string
	tx      *Transaction
	entry   *Entry
	netns   string
	exec    *executor

	native  []*types100.Interface // what built-ins added, with all that CNI 1.1 has
	delErrs []error
}

// builtinPath is the "path" of a built-in delegate; no executable has it.
const builtinPath = "built-in:"

func (e *Engine) chain(sandbox string, tx *Transaction, entry *Entry, netns string) *chain {
	return &chain{Engine: e, sandbox: sandbox, tx: tx, entry: entry, netns: netns, exec: &executor{stderr: e.Stderr, timeout: cmp.Or(e.PluginTimeout, conf.DefaultPluginTimeout)}}
}

func (c *chain) libcni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(c.tx.Path, c.Journal.DataDir(), c)
}

func (c *chain) runtimeConf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    c.sandbox,
		NetNS:          c.netns,
		IfName:         c.entry.IfName,
		Args:           c.entry.Args,
		CapabilityArgs: c.entry.CapabilityArgs,
	}
}

// readList is an attachment's list as libcni reads it, and the configurations of
// its plugins as libcni will hand them on.
type readList struct {
	*libcni.NetworkConfigList
	planned map[int][]byte
}

// list reads the attachment's list, once.
func (c *chain) list() (*readList, error) {
	if c.entry.read == nil {
		list, err := networkList(&c.entry.List)
		if err != nil {
			return nil, err
		}
		c.entry.read = &readList{list, map[int][]byte{}}
	}
	return c.entry.read, nil
}

// types are the plugin types of the attachment's list, in order.
func (c *chain) types() ([]string, error) {
	list, err := c.list()
	if err != nil {
		return nil, err
	}
	types := make([]string, len(list.Plugins))
	for i, p := range list.Plugins {
		types[i] = p.Network.Type
	}
	return types, nil
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

// add runs ADD over the chain. libcni panics on some results with a null in
// them; as an error it has what was attached undone.
func (c *chain) add(ctx context.Context) (result *types100.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("internal error: %v", p)
		}
	}()
	list, err := c.list()
	if err != nil {
		return nil, err
	}
	r, err := c.addPlugins(ctx, list)
	if err != nil {
		return nil, err
	}
	result, err = types100.NewResultFromResult(r)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	if err := checkResult(result); err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	// A list of an older version has lost what only CNI 1.1 can say.
	for _, mine := range c.native {
		for _, i := range slices.Backward(result.Interfaces) {
			if i.Name == mine.Name && i.Sandbox == mine.Sandbox && i.Mac == mine.Mac {
				i.Mtu, i.SocketPath, i.PciID = mine.Mtu, mine.SocketPath, mine.PciID
				break
			}
		}
	}
	return result, nil
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

// check runs CHECK over the chain. Lists below CNI 0.4.0 know no CHECK; their
// built-ins are asked all the same.
func (c *chain) check(ctx context.Context) error {
	list, err := c.list()
	if err != nil {
		return err
	}
	if list.DisableCheck {
		return nil
	}
	if knows, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); err != nil || knows {
		return errors.Join(err, c.libcni().CheckNetworkList(ctx, list.NetworkConfigList, c.runtimeConf()))
	}
	for i, typ := range c.entry.List.Types() {
		if d, ok := c.builtIn(typ); ok {
			a, err := c.planned(i)
			if err != nil {
				return err
			}
			if err := errors.Join(d.Check(ctx, a, c.entry.State[typ]), c.ipam(a, c.entry.Args.String()).check(ctx)); err != nil {
				return err
			}
		}
	}
	return nil
}

// del runs DEL over the chain, last plugin first. A plugin that fails stops
// none of the others; libcni would, so it is not told (ExecPlugin). The cached
// result is kept for the next DEL when one failed.
func (c *chain) del(ctx context.Context) error {
	list, err := c.list()
	if err != nil {
		return err
	}
	cache := c.cacheFile()
	cached, err := os.ReadFile(cache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENAMETOOLONG) {
		return err
	}
	err = errors.Join(c.libcni().DelNetworkList(ctx, list.NetworkConfigList, c.runtimeConf()), errors.Join(c.delErrs...))
	if err != nil && len(cached) > 0 {
		return errors.Join(err, c.remember(cached))
	}
	if err == nil && len(cached) > 0 { // libcni does not say when it could not remove it
		err = c.forget(cache)
	}
	return err
}

func (c *chain) forget(cache string) error {
	if err := os.Remove(cache); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the cached result: %w", err)
	}
	return nil
}

// planned is plugin i of the chain as an Attachment, with the configuration
// that libcni will hand to it, less the prevResult.
func (c *chain) planned(i int) (conf.Attachment, error) {
	list, err := c.list()
	if err != nil {
		return conf.Attachment{}, err
	}
	if config, ok := list.planned[i]; ok {
		return c.attachment(config), nil
	}
	keys := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	runtime := map[string]any{}
	for name, on := range list.Plugins[i].Network.Capabilities {
		if value, asked := c.entry.CapabilityArgs[name]; on && asked {
			runtime[name] = value
		}
	}
	if len(runtime) > 0 {
		keys["runtimeConfig"] = runtime
	}
	p, err := libcni.InjectConf(list.Plugins[i], keys)
	if err != nil {
		return conf.Attachment{}, err
	}
	list.planned[i] = p.Bytes
	return c.attachment(p.Bytes), nil
}

func (c *chain) attachment(config []byte) conf.Attachment {
	return conf.Attachment{
		Sandbox: c.sandbox, Netns: c.netns, NetnsID: c.tx.NetnsID, IfName: c.entry.IfName, Network: c.entry.Name,
		Owner: c.Journal.DataDir(), Pod: c.tx.Pod, Args: c.entry.Args, Conf: config, Bounds: c.bounds(),
	}
}

// bounds are those of the attachment's configuration.
func (c *chain) bounds() conf.Bounds {
	b := c.Bounds
	b.Endpoints = slices.Concat(b.Endpoints, c.entry.endpoints)
	if c.entry.OfNode {
		b = b.ForOwn()
	}
	return b
}

// builtIn is the delegate of a plugin type, if the attachment is by built-ins.
func (c *chain) builtIn(typ string) (Delegate, bool) {
	d, ok := c.Delegates[typ]
	return d, ok && !c.entry.Executed
}

// FindInPath is invoke.Exec: built-ins are found first.
func (c *chain) FindInPath(plugin string, paths []string) (string, error) {
	if _, ok := c.builtIn(plugin); ok {
		return builtinPath + plugin, nil
	}
	path, err := c.exec.FindInPath(plugin, paths)
	switch {
	case errors.Is(err, errPlexus) && c.entry.Executed:
		err = fmt.Errorf("plugin %q attached this pod before plexus came, and %s is plexus by now: put the former executable where CNI_PATH has it first", plugin, path)
	case err != nil && !errors.Is(err, errPlexus):
		err = fmt.Errorf("plugin %q is neither built in nor in %s: install it there or correct \"type\"", plugin, strings.Join(paths, ":"))
	}
	if err != nil {
		return "", types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	return path, nil
}

// Decode is invoke.Exec.
func (c *chain) Decode(data []byte) (version.PluginInfo, error) { return c.exec.Decode(data) }

// insideOnly are plugins that change nothing outside of the pod's network
// namespace, and whose DEL fails when that is gone.
var insideOnly = []string{"sbr"}

// ExecPlugin is invoke.Exec: one verb of one plugin.
func (c *chain) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	command := lookup(environ, "CNI_COMMAND")
	name := filepath.Base(strings.TrimPrefix(path, builtinPath))
	if err := c.step(ctx, command, name); err != nil {
		return c.forgive(command, name, err)
	}
	plugin, ok := strings.CutPrefix(path, builtinPath)
	if !ok {
		if command == "DEL" && c.netns == "" && slices.Contains(insideOnly, name) {
			return nil, nil
		}
		out, err := c.exec.ExecPlugin(ctx, path, stdin, environ)
		if err != nil {
			return c.forgive(command, name, err)
		}
		return out, nil
	}
	out, err := c.builtin(ctx, command, plugin, stdin, environ)
	if err != nil {
		return c.forgive(command, name, err)
	}
	return out, nil
}

func (c *chain) step(ctx context.Context, command, plugin string) error {
	return conf.Step(ctx, "%s: %s %s", c.entry.IfName, strings.ToLower(command), plugin)
}

// forgive keeps an error of DEL to itself, so that libcni goes on.
func (c *chain) forgive(command, plugin string, err error) ([]byte, error) {
	if command != "DEL" {
		return nil, err
	}
	c.delErrs = append(c.delErrs, fmt.Errorf("%s: %w", plugin, err))
	return nil, nil
}

func (c *chain) builtin(ctx context.Context, command, name string, stdin []byte, environ []string) ([]byte, error) {
	d, state := c.Delegates[name], c.entry.State[name]
	a := c.attachment(stdin)
	ipam := c.ipam(a, lookup(environ, "CNI_ARGS"))
	switch command { // ADD is addBuiltin's
	case "CHECK":
		return nil, errors.Join(d.Check(ctx, a, state), ipam.check(ctx))
	case "DEL":
		return nil, errors.Join(d.Del(ctx, a, state), ipam.del(ctx))
	case "STATUS":
		if r, ok := d.(Readier); ok {
			return nil, r.Ready(ctx, stdin)
		}
		return nil, nil
	case "GC": // Engine.GC sweeps once for all networks
		return nil, ipam.gc(ctx)
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND %q", command), "")
}

func lookup(environ []string, key string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(environ[i], key+"="); ok {
			return value
		}
	}
	return ""
}

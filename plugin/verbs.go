package plugin

import (
	"context"
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
)

// Add runs ADD over the list. A built-in that the engine has attached only returns its
// result. libcni panics on some results with a null in them: Add turns the panic into an
// error, so that the attachment is undone.
func (c *Chain) Add(ctx context.Context) (result *types100.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("internal error: %v", p)
		}
	}()
	r, err := c.libcni().AddNetworkList(ctx, c.list, c.runtimeConf(c.Network.AddArgs()))
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

// restoreNative restores the keys of CNI 1.1 in a result that a list of an older version has
// lost.
func (c *Chain) restoreNative(result *types100.Result) {
	restored := map[*types100.Interface]bool{}
	for _, mine := range slices.Backward(c.nativeInterfaces) {
		for _, i := range slices.Backward(result.Interfaces) {
			if !restored[i] && i.Name == mine.Name && i.Sandbox == mine.Sandbox && i.Mac == mine.Mac {
				i.Mtu, i.SocketPath, i.PciID = mine.Mtu, mine.SocketPath, mine.PciID
				restored[i] = true
				break
			}
		}
	}
}

// Check runs CHECK over the list. Lists below CNI 0.4.0 have no CHECK; their built-ins are
// checked all the same.
func (c *Chain) Check(ctx context.Context) error {
	if c.list.DisableCheck {
		return nil
	}
	if knows, err := version.GreaterThanOrEqualTo(c.list.CNIVersion, "0.4.0"); err != nil || knows {
		return errors.Join(err, c.libcni().CheckNetworkList(ctx, c.list, c.runtimeConf(c.Network.Args)))
	}
	for _, b := range c.builtins {
		if err := b.check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// SetDetached stores the result of Delegate.Detach for the built-in: the DEL that follows
// does not call it again.
func (b *Builtin) SetDetached(err error) { b.detachErr = &err }

// IsDetached reports whether SetDetached was called.
func (b *Builtin) IsDetached() bool { return b.detachErr != nil }

// Del runs DEL over the list, last plugin first. After a plugin's failure the others still
// run; libcni would stop, so ExecPlugin hides the error from it. The cached result is kept for
// the next DEL when a plugin failed. An error of executables alone satisfies OnlyExecutables.
func (c *Chain) Del(ctx context.Context) error {
	c.deleting = true
	cached, errRead := os.ReadFile(c.cacheFile()) // DEL goes on without, as libcni does
	err := errors.Join(c.libcni().DelNetworkList(ctx, c.list, c.runtimeConf(c.Network.Args)), errors.Join(c.delErrs...))
	switch {
	case err != nil && errRead == nil:
		return errors.Join(err, os.WriteFile(c.cacheFile(), cached, 0o600))
	case err != nil || errors.Is(errRead, fs.ErrNotExist) || errors.Is(errRead, unix.ENAMETOOLONG):
		return err
	}
	return c.Forget() // libcni ignores a failure
}

// Forget removes libcni's cached result.
func (c *Chain) Forget() error {
	if err := os.Remove(c.cacheFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the cached result: %w", err)
	}
	return nil
}

func (c *Chain) cacheFile() string {
	return filepath.Join(c.CacheFolder(), fmt.Sprintf("%s-%s-%s", c.list.Name, c.Sandbox, c.Network.IfName))
}

// Status reports whether ADD could be served. It asks built-ins in lists of any version, and
// executables from CNI 1.1.0 on, as libcni does.
func (c *Chain) Status(ctx context.Context) error {
	if err := c.Executables(); err != nil {
		return err
	}
	for _, b := range c.builtins {
		err := b.Refused
		if err == nil {
			err = b.ipam.checkType()
		}
		if err == nil {
			err = b.Network.Ready(ctx)
		}
		if err != nil {
			return err
		}
	}
	return c.libcni().GetStatusNetworkList(ctx, c.list)
}

// GC runs GC of the executables of the list. libcni would first DEL cached attachments that
// are not valid. The engine has undone those, so libcni gets an empty cache.
func (c *Chain) GC(ctx context.Context, valid []types.GCAttachment) error {
	if valid == nil {
		valid = []types.GCAttachment{}
	}
	noCache := filepath.Join(c.DataDir, "no-cache")
	return libcni.NewCNIConfigWithCacheDir(c.Path, noCache, c).GCNetworkList(ctx, c.list, &libcni.GCArgs{ValidAttachments: valid})
}

// ownIPAM are the plugins whose "ipam.type" is no executable of CNI_PATH: azure-vnet asks a
// service itself (type azure-cns), and antrea's agent runs IPAM in its own container.
var ownIPAM = []string{"azure-vnet", "antrea"}

// Executables checks that the executables of the list exist: those that the keys type and
// ipam.type of its plugins name (CNI specification 1.1.0, section 1). Prepare and Status check
// the IPAM of built-ins.
func (c *Chain) Executables() error {
	for _, p := range c.list.Plugins {
		typ, ipam := p.Network.Type, p.Network.IPAM.Type
		if _, err := c.FindInPath(typ, c.Path); err != nil {
			return err
		}
		if ipam == "" || c.isBuiltin(typ) || slices.Contains(ownIPAM, typ) {
			continue
		}
		if err := c.findIPAM(ipam); err != nil {
			return fmt.Errorf("plugin %q: %w", typ, err)
		}
	}
	return nil
}

// checkResult refuses a result that cannot be written to the journal and read back.
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
	for _, pair := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(pair, key+"="); ok {
			return value
		}
	}
	return ""
}

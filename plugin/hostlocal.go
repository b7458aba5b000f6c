package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// hostLocal is the IPAM plugin host-local in this process: the plugin's own reader of
// configurations and its own choice of addresses, on the plugin's files. Its executable
// and plexus exclude each other by the same lock.
type hostLocal struct {
	a      *delegates.Attachment
	config *allocator.IPAMConfig
}

// defaultDataDir is host-local's folder when a configuration names none.
const defaultDataDir = "/var/lib/cni/networks"

// newHostLocal reads the configuration. args may have several addresses in IP, where the
// executable takes one.
func newHostLocal(a *delegates.Attachment, config []byte, args conf.Args) (*hostLocal, error) {
	c, _, err := allocator.LoadIPAMConfig(config, "")
	if err != nil {
		if bad := checkIPs(config); bad != nil {
			err = bad
		} else {
			err = fmt.Errorf("key %q: %w", "ipam", err)
		}
		return nil, conf.Refuse(err)
	}
	for _, text := range listOf(args, "IP") {
		asked := ip.ParseIP(text)
		if asked == nil {
			return nil, conf.Refuse(fmt.Errorf("CNI_ARGS IP: %.60q, want an address like 10.0.0.7 or 10.0.0.7/24", text))
		}
		if !slices.ContainsFunc(c.IPArgs, asked.IP.Equal) {
			c.IPArgs = append(c.IPArgs, asked.ToIP())
		}
	}
	if !filepath.IsLocal(c.Name) || filepath.Base(c.Name) != c.Name || c.Name == "." {
		return nil, conf.Refuse(fmt.Errorf("key %q: %.200q is no name of a folder", "name", c.Name))
	}
	c.DataDir = cmp.Or(c.DataDir, defaultDataDir)
	return &hostLocal{a, c}, nil
}

// checkIPs refuses requested addresses that are malformed; host-local's own error names no key.
func checkIPs(config []byte) error {
	var keys struct {
		RuntimeConfig struct {
			IPs []string `json:"ips"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(config, &keys); err != nil {
		return fmt.Errorf("key %q: want a list of texts: %w", "runtimeConfig.ips", err)
	}
	for _, text := range keys.RuntimeConfig.IPs {
		address, _, _ := strings.Cut(text, "/")
		if net.ParseIP(address) == nil {
			return fmt.Errorf("key %q: %.60q, want an address like 10.0.0.7 or 10.0.0.7/24", "runtimeConfig.ips", text)
		}
	}
	return nil
}

// open opens and locks the network's folder of addresses. It returns nil for a missing folder
// when create is false. DEL of what is recorded works after the bounds have changed.
func (h *hostLocal) open(ctx context.Context, create bool) (*addressFolder, error) {
	base, below := h.place()
	return openAddresses(ctx, base, below, create)
}

// place is the network's folder of addresses: its path below a folder of the node.
func (h *hostLocal) place() (base string, below []string) {
	base, below = h.a.Bounds.IPAMBase(h.config.DataDir)
	return base, append(below, h.config.Name)
}

// checkBounds refuses a folder or a file outside of the node's bounds.
func (h *hostLocal) checkBounds() error {
	err := h.a.Bounds.IPAMDir("ipam.dataDir", h.config.DataDir)
	if file := h.config.ResolvConf; file != "" {
		err = errors.Join(err, h.a.Bounds.ResolvConf("ipam.resolvConf", file))
	}
	_, below := h.place()
	for _, name := range below {
		// A folder of that name inside of another network's folder would collide with the file.
		if name == addressLock || strings.HasPrefix(name, lastReserved) || net.ParseIP(name) != nil {
			err = errors.Join(err, fmt.Errorf("network %s: its folder of addresses would be in the place of host-local's file %q: give \"name\" or \"ipam.dataDir\" another one", h.config.Name, name))
		}
	}
	return err
}

// add reserves an address of each range.
func (h *hostLocal) add(ctx context.Context) (*types100.Result, error) {
	c := h.config
	if err := h.checkBounds(); err != nil {
		return nil, conf.Refuse(err)
	}
	result := &types100.Result{Routes: c.Routes}
	if c.ResolvConf != "" {
		var err error
		if result.DNS, err = readResolvConf(c.ResolvConf); err != nil {
			return nil, conf.Refuse(fmt.Errorf("key %q: %w", "ipam.resolvConf", err))
		}
	}
	folder, err := h.open(ctx, true)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	mine, err := folder.owned(h.a.Sandbox, h.a.IfName)
	if err != nil {
		return nil, err
	}
	store := &addressStore{folder, mine}
	wanted := slices.Clone(c.IPArgs)
	for n, set := range c.Ranges {
		var asked net.IP
		if at := slices.IndexFunc(wanted, set.Contains); at >= 0 {
			asked = wanted[at]
			wanted = slices.Delete(wanted, at, at+1)
		}
		ip, err := allocator.NewIPAllocator(&set, store, n).Get(h.a.Sandbox, h.a.IfName, asked)
		if err != nil {
			return nil, fmt.Errorf("range %s: %w", set.String(), err)
		}
		result.IPs = append(result.IPs, ip)
	}
	if len(wanted) > 0 {
		return nil, conf.Refuse(fmt.Errorf("key %q: address %v asked for is in none of the ranges", "ips", wanted[0]))
	}
	return result, nil
}

func (h *hostLocal) check(ctx context.Context) error {
	reserved := false
	err := h.inFolder(ctx, func(f *addressFolder) error {
		mine, err := f.owned(h.a.Sandbox, h.a.IfName)
		reserved = len(mine) > 0
		return err
	})
	if err == nil && !reserved {
		err = fmt.Errorf("network %s: no address is reserved for %s of sandbox %s", h.config.Name, h.a.IfName, h.a.Sandbox)
	}
	return err
}

// del releases the addresses of the attachment. It does not check the bounds of a recorded one,
// which ADD has checked; without a record a folder out of bounds has none of its addresses.
func (h *hostLocal) del(ctx context.Context) error {
	if h.a.State == nil && h.checkBounds() != nil {
		return nil
	}
	return h.inFolder(ctx, func(f *addressFolder) error { return f.release(h.a.Sandbox, h.a.IfName) })
}

// inFolder calls do with the folder of addresses, unless it is missing.
func (h *hostLocal) inFolder(ctx context.Context, do func(*addressFolder) error) error {
	folder, err := h.open(ctx, false)
	if err != nil || folder == nil {
		return err
	}
	defer folder.Close()
	return do(folder)
}

// CollectAddresses releases the addresses that the built-ins of the list have reserved
// by host-local for sandboxes that keep does not keep. seen has the folders that an earlier
// call has collected; they are left out. keep is called with each owner while the folder is
// locked.
func (c *Chain) CollectAddresses(ctx context.Context, seen map[string]bool, keep func(sandbox string) bool) error {
	var errs []error
	for _, b := range c.builtins {
		err := b.ipam.refused
		if h := b.ipam.local; h != nil && !seen[h.config.DataDir+"\x00"+h.config.Name] {
			seen[h.config.DataDir+"\x00"+h.config.Name] = true
			err = h.collect(ctx, keep)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", c.list.Name, b.ipam.named(err)))
		}
	}
	return errors.Join(errs...)
}

// collect skips a folder outside of the node's bounds: the configuration may be a tenant's.
func (h *hostLocal) collect(ctx context.Context, keep func(sandbox string) bool) error {
	if h.checkBounds() != nil {
		return nil
	}
	return h.inFolder(ctx, func(f *addressFolder) error { return f.collect(ctx, h.config.Name, keep) })
}

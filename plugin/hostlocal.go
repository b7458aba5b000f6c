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

func newHostLocal(a *delegates.Attachment, config []byte, args string) (*hostLocal, error) {
	c, _, err := allocator.LoadIPAMConfig(config, args)
	if err != nil {
		return nil, conf.Refuse(explainIPAM(config, err))
	}
	if !filepath.IsLocal(c.Name) || filepath.Base(c.Name) != c.Name || c.Name == "." {
		return nil, conf.Refuse(fmt.Errorf("key %q: %.200q is no name of a folder", "name", c.Name))
	}
	return &hostLocal{a, c}, nil
}

// explainIPAM names the key of what host-local could not read.
func explainIPAM(config []byte, err error) error {
	if bad := checkIPs(config); bad != nil {
		return bad
	}
	return fmt.Errorf("key %q: %w", "ipam", err)
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
// when create is false. Only ADD checks the bounds: DEL works after they have changed.
func (h *hostLocal) open(ctx context.Context, create bool) (*addressFolder, error) {
	base, below := h.a.Bounds.IPAMBase(cmp.Or(h.config.DataDir, defaultDataDir))
	return openAddresses(ctx, base, append(below, h.config.Name), create)
}

// checkBounds refuses a folder or a file outside of the node's bounds.
func (h *hostLocal) checkBounds() error {
	err := h.a.Bounds.IPAMDir("ipam.dataDir", cmp.Or(h.config.DataDir, defaultDataDir))
	if file := h.config.ResolvConf; file != "" {
		err = errors.Join(err, h.a.Bounds.ResolvConf("ipam.resolvConf", file))
	}
	_, below := h.a.Bounds.IPAMBase(cmp.Or(h.config.DataDir, defaultDataDir))
	for _, name := range append(below, h.config.Name) {
		if isAddressFile(name) {
			err = errors.Join(err, fmt.Errorf("network %s: its folder of addresses would be in the place of host-local's file %q: give \"name\" or \"ipam.dataDir\" another one", h.config.Name, name))
		}
	}
	return err
}

// isAddressFile reports whether a name is one that host-local gives to a file: a
// folder of that name inside of another network's folder would collide with it.
func isAddressFile(name string) bool {
	return name == addressLock || strings.HasPrefix(name, lastReserved) || net.ParseIP(name) != nil
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
	folder, err := h.open(ctx, false)
	if err != nil {
		return err
	}
	if folder != nil {
		defer folder.Close()
		if mine, err := folder.owned(h.a.Sandbox, h.a.IfName); err != nil || len(mine) > 0 {
			return err
		}
	}
	return fmt.Errorf("network %s: no address is reserved for %s of sandbox %s", h.config.Name, h.a.IfName, h.a.Sandbox)
}

// del releases the addresses of the attachment. It does not check the bounds: the content of
// a file names its owner.
func (h *hostLocal) del(ctx context.Context) error {
	folder, err := h.open(ctx, false)
	if err != nil || folder == nil {
		return err
	}
	defer folder.Close()
	return folder.release(h.a.Sandbox, h.a.IfName)
}

// CollectAddresses releases the addresses that the built-ins of the list have reserved
// by host-local for sandboxes that keep does not keep. seen has the folders that an earlier
// call has collected; they are left out. keep is called with each owner while the folder is
// locked.
func (c *Chain) CollectAddresses(ctx context.Context, seen map[string]bool, keep func(sandbox string) bool) error {
	var errs []error
	for _, b := range c.Builtins() {
		if b.ipam.typ != "host-local" {
			continue
		}
		h, err := newHostLocal(b.Attachment, b.ipam.config, "")
		if err == nil && !seen[h.config.DataDir+"\x00"+h.config.Name] {
			seen[h.config.DataDir+"\x00"+h.config.Name] = true
			err = h.collect(ctx, keep)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network %s: ipam host-local: %w", c.list.Name, err))
		}
	}
	return errors.Join(errs...)
}

// collect skips a folder outside of the node's bounds: the configuration may be a tenant's.
func (h *hostLocal) collect(ctx context.Context, keep func(sandbox string) bool) error {
	if h.checkBounds() != nil {
		return nil
	}
	folder, err := h.open(ctx, false)
	if err != nil || folder == nil {
		return err
	}
	defer folder.Close()
	return folder.collect(ctx, h.config.Name, keep)
}

// ipamType is the type of a plugin's IPAM, "" without one.
func ipamType(config []byte) string {
	var c struct {
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	_ = json.Unmarshal(config, &c) // libcni has parsed it before
	return c.IPAM.Type
}

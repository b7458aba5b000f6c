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
		return nil, conf.Refuse(errors.Join(checkIPs(config), err))
	}
	if !filepath.IsLocal(c.Name) || filepath.Base(c.Name) != c.Name || c.Name == "." {
		return nil, conf.Refuse(fmt.Errorf("key %q: %.200q is no name of a folder", "name", c.Name))
	}
	return &hostLocal{a, c}, nil
}

// checkIPs finds the addresses asked for that are none. host-local names no key.
func checkIPs(config []byte) error {
	var asked struct {
		RuntimeConfig struct {
			IPs []string `json:"ips"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(config, &asked); err != nil {
		return fmt.Errorf("key %q: want a list of texts: %w", "runtimeConfig.ips", err)
	}
	for _, text := range asked.RuntimeConfig.IPs {
		address, _, _ := strings.Cut(text, "/")
		if net.ParseIP(address) == nil {
			return fmt.Errorf("key %q: %.60q, want an address like 10.0.0.7 or 10.0.0.7/24", "runtimeConfig.ips", text)
		}
	}
	return nil
}

// open opens the network's folder of addresses, locked. nil: there is none, and create is
// false. The bounds are ADD's matter: what it has accepted is undone, whatever they are now.
func (h *hostLocal) open(ctx context.Context, create bool) (*addressFolder, error) {
	base, below := h.a.Bounds.IPAMBase(cmp.Or(h.config.DataDir, defaultDataDir))
	return openAddresses(ctx, base, append(below, h.config.Name), create)
}

// within refuses a folder or a file that the node does not allow.
func (h *hostLocal) within() error {
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
// folder of that name below another network's would be in its way.
func isAddressFile(name string) bool {
	return name == addressLock || strings.HasPrefix(name, lastReserved) || net.ParseIP(name) != nil
}

// add reserves an address of each range.
func (h *hostLocal) add(ctx context.Context) (*types100.Result, error) {
	c := h.config
	if err := h.within(); err != nil {
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

// del releases what the attachment has reserved. The bounds of today do not matter: a
// file goes by what stands in it.
func (h *hostLocal) del(ctx context.Context) error {
	folder, err := h.open(ctx, false)
	if err != nil || folder == nil {
		return err
	}
	defer folder.Close()
	return folder.release(h.a.Sandbox, h.a.IfName)
}

// CollectAddresses releases the addresses that the built-ins of the list have reserved
// by host-local for sandboxes that are not to be kept, in each folder once: seen has
// those of before. keep is asked about each owner while the folder is locked.
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

// collect leaves a folder alone that the node does not allow: who asks may be a tenant.
func (h *hostLocal) collect(ctx context.Context, keep func(sandbox string) bool) error {
	if h.within() != nil {
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
	_ = json.Unmarshal(config, &c) // libcni has read it before
	return c.IPAM.Type
}

package delegates

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

	"github.com/plexus-cni/plexus/conf"
)

// addressDir is the folder of a network's addresses, one file each.
func addressDir(c *allocator.IPAMConfig) string {
	dir := c.DataDir
	if dir == "" {
		dir = "/var/lib/cni/networks" // disk's default
	}
	return filepath.Join(dir, c.Name)
}

// wholeFiles is the plugin's store, in which an address is never without its
// owner: the plugin makes a file and then writes into it, and one that is killed in
// between leaves an address that nobody can release.
type wholeFiles struct {
	*disk.Store
	dir string
}

// Reserve makes the file of an address, whole; false when it has one. An empty one
// is of somebody who was killed: whoever writes one has the folder's lock.
func (s *wholeFiles) Reserve(id, ifName string, ip net.IP, rangeID string) (bool, error) {
	file := disk.GetEscapedPath(s.dir, ip.String())
	if st, err := os.Lstat(file); err == nil && st.Size() == 0 && st.Mode().IsRegular() {
		if err := os.Remove(file); err != nil {
			return false, err
		}
	}
	f, err := linkNew(file, []byte(strings.TrimSpace(id)+disk.LineBreak+ifName))
	if err == nil {
		err = f.Close()
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return s.Store.Reserve(id, ifName, ip, rangeID)
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, err
	}
	last := disk.GetEscapedPath(s.dir, "last_reserved_ip."+rangeID) // of host-local's store
	if err := os.WriteFile(last, []byte(ip.String()), 0o600); err != nil {
		return false, errors.Join(err, os.Remove(file))
	}
	return true, nil
}

func hostLocalAdd(a conf.Attachment, args string) (*types100.Result, error) {
	c, _, err := allocator.LoadIPAMConfig(a.Conf, args)
	if err != nil {
		return nil, err
	}
	store, err := disk.New(c.Name, c.DataDir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	result := &types100.Result{Routes: c.Routes}
	wanted := slices.Clone(c.IPArgs)
	for n, set := range c.Ranges {
		var asked net.IP
		if at := slices.IndexFunc(wanted, set.Contains); at >= 0 {
			asked = wanted[at]
			wanted = slices.Delete(wanted, at, at+1)
		}
		ip, err := allocator.NewIPAllocator(&set, &wholeFiles{store, addressDir(c)}, n).Get(a.Sandbox, a.IfName, asked)
		if err != nil {
			return nil, fmt.Errorf("range %s: %w", set.String(), err)
		}
		result.IPs = append(result.IPs, ip)
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("address %v asked for is in none of the ranges", wanted[0])
	}
	if c.ResolvConf != "" {
		if result.DNS, err = readResolvConf(c.ResolvConf); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func hostLocalCheck(a conf.Attachment, args string) error {
	c, _, err := allocator.LoadIPAMConfig(a.Conf, args)
	if err != nil {
		return fmt.Errorf("ipam host-local: %w", err)
	}
	store, err := disk.New(c.Name, c.DataDir)
	if err != nil {
		return fmt.Errorf("ipam host-local: %w", err)
	}
	defer store.Close()
	if !store.FindByID(a.Sandbox, a.IfName) {
		return fmt.Errorf("ipam host-local: network %s: no address is reserved for %s of sandbox %s", c.Name, a.IfName, a.Sandbox)
	}
	return nil
}

func hostLocalDel(a conf.Attachment, args string) error {
	c, _, err := allocator.LoadIPAMConfig(a.Conf, args)
	if err != nil {
		return fmt.Errorf("ipam host-local: %w", err)
	}
	if _, err := os.Stat(addressDir(c)); errors.Is(err, fs.ErrNotExist) {
		return nil // never was; disk.New would make it
	}
	store, err := disk.New(c.Name, c.DataDir)
	if err != nil {
		return fmt.Errorf("ipam host-local: %w", err)
	}
	defer store.Close()
	if err := store.Lock(); err != nil {
		return fmt.Errorf("ipam host-local: %w", err)
	}
	defer store.Unlock()
	if err := store.ReleaseByID(a.Sandbox, a.IfName); err != nil {
		return fmt.Errorf("ipam host-local: release: %w", err)
	}
	return nil
}

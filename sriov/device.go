package sriov

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// sysfs is where sysfs(5) is mounted.
type sysfs string

const nodeSysfs = sysfs("/sys")

func (s sysfs) device(pci string, parts ...string) string {
	return filepath.Join(append([]string{string(s), "bus/pci/devices", pci}, parts...)...)
}

// function is a PCI function as it is now.
type function struct {
	PCI         string
	PF          string // PCI address of the VF's PF; empty for a PF
	VF          int    // number of the VF on its PF; -1 for a PF
	Driver      string // empty: none
	Incarnation uint64 // inode of the device in sysfs: another one when the VF was made anew
	NumVFs      int    // of a PF
}

var errNoDevice = errors.New("no such PCI device")

// function reads a PCI function.
func (s sysfs) function(pci string) (*function, error) {
	st, err := os.Stat(s.device(pci))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", pci, errNoDevice)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pci, err)
	}
	f := &function{PCI: pci, VF: -1}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		f.Incarnation = sys.Ino
	}
	if f.Driver, err = s.link(pci, "driver"); err != nil {
		return nil, err
	}
	if f.PF, err = s.link(pci, "physfn"); err != nil {
		return nil, err
	}
	if f.PF == "" {
		if text, err := s.read(pci, "sriov_numvfs"); err == nil {
			f.NumVFs, _ = strconv.Atoi(text)
		}
		return f, nil
	}
	vfs, err := s.vfs(f.PF)
	if err != nil {
		return nil, err
	}
	for n, vf := range vfs {
		if vf == pci {
			f.VF = n
		}
	}
	if f.VF < 0 {
		return nil, fmt.Errorf("%s is no VF of its PF %s: has numvfs changed meanwhile?", pci, f.PF)
	}
	return f, nil
}

// link is the last element of a symbolic link of a device, empty when there is
// none.
func (s sysfs) link(pci, name string) (string, error) {
	to, err := os.Readlink(s.device(pci, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", pci, err)
	}
	return filepath.Base(to), nil
}

func (s sysfs) read(pci, name string) (string, error) {
	data, err := os.ReadFile(s.device(pci, name))
	return strings.TrimSpace(string(data)), err
}

// vfs are the VFs of a PF by their numbers.
func (s sysfs) vfs(pf string) (map[int]string, error) {
	links, err := filepath.Glob(s.device(pf, "virtfn*"))
	if err != nil {
		return nil, err
	}
	vfs := map[int]string{}
	for _, l := range links {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(l), "virtfn"))
		if err != nil {
			continue
		}
		to, err := os.Readlink(l)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it goes at this moment
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pf, err)
		}
		vfs[n] = filepath.Base(to)
	}
	return vfs, nil
}

// netdev is a function's interface in the namespace that sysfs shows.
type netdev struct {
	Name  string
	Index int
}

// netdevs are the interfaces of a function, by index. In switchdev mode a PF
// shows the representors of its VFs as well: they are left out.
func (s sysfs) netdevs(pci string) ([]netdev, error) {
	entries, err := os.ReadDir(s.device(pci, "net"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pci, err)
	}
	var all []netdev
	for _, e := range entries {
		if port, err := s.read(pci, filepath.Join("net", e.Name(), "phys_port_name")); err == nil && representor.MatchString(port) {
			continue
		}
		text, err := s.read(pci, filepath.Join("net", e.Name(), "ifindex"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it goes at this moment
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pci, err)
		}
		index, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%s: ifindex of %s: %w", pci, e.Name(), err)
		}
		all = append(all, netdev{e.Name(), index})
	}
	slices.SortFunc(all, func(a, b netdev) int { return a.Index - b.Index })
	return all, nil
}

// representor is the phys_port_name of a VF's or SF's representor
// (networking/representors in the kernel's documentation).
var representor = regexp.MustCompile(`^(c\d+)?pf\d+((vf|sf)\d+)?$`)

// pf finds a PF by the name of its interface, or its PCI address.
func (s sysfs) pf(name string) (string, error) {
	if pciForm.MatchString(name) {
		return strings.ToLower(name), nil
	}
	to, err := os.Readlink(filepath.Join(string(s), "class/net", name, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("PF %s: no interface of that name on this node is a PCI device", name)
	}
	if err != nil {
		return "", fmt.Errorf("PF %s: %w", name, err)
	}
	if pci := filepath.Base(to); pciForm.MatchString(pci) {
		return pci, nil
	}
	return "", fmt.Errorf("PF %s: its device %s is no PCI device", name, filepath.Base(to))
}

// hasDriver reports whether a driver of PCI functions is loaded.
func (s sysfs) hasDriver(driver string) bool {
	_, err := os.Stat(filepath.Join(string(s), "bus/pci/drivers", driver))
	return err == nil
}

// iommuGroup is the number of a function's IOMMU group, and the device node by
// which a user-space driver reaches the function.
func (s sysfs) iommuGroup(pci, driver string) (group, node string, err error) {
	if group, err = s.link(pci, "iommu_group"); err != nil {
		return "", "", err
	}
	switch {
	case driver == "vfio-pci" && group == "":
	case driver == "vfio-pci":
		node = "/dev/vfio/" + group
		if mode, err := os.ReadFile(s.device(pci, "iommu_group/name")); err == nil && strings.TrimSpace(string(mode)) == "vfio-noiommu" {
			node = "/dev/vfio/noiommu-" + group
		}
	default:
		entries, err := os.ReadDir(s.device(pci, "uio"))
		if err == nil && len(entries) == 1 {
			node = "/dev/" + entries[0].Name()
		}
	}
	return group, node, nil
}

// rdmaDevice is the name of a function's RDMA device, empty when it has none.
func (s sysfs) rdmaDevice(pci string) (string, error) {
	entries, err := os.ReadDir(s.device(pci, "infiniband"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return entries[0].Name(), nil
}

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

	"golang.org/x/sys/unix"
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

// hasKernelDriver reports whether the function has a driver that makes interfaces.
func (f *function) hasKernelDriver() bool {
	return f.Driver != "" && !slices.Contains(userDrivers, f.Driver)
}

// function reads a PCI function.
func (s sysfs) function(pci string) (*function, error) {
	st, err := os.Stat(s.device(pci))
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoDevice
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
	if f.VF, err = s.numberOf(pci, f.PF); err != nil {
		return nil, err
	}
	if f.VF < 0 {
		return nil, fmt.Errorf("%s is no VF of its PF %s: has numvfs changed meanwhile?", pci, f.PF)
	}
	return f, nil
}

// numberOf is the number of a VF on its PF, -1 when it is none of the PF's. It follows from the
// addresses (PCIe base specification, section 9.2.1.2); where the PF does not tell how, all VFs
// are looked at.
func (s sysfs) numberOf(pci, pf string) (int, error) {
	offset, errOffset := s.number(pf, "sriov_offset")
	stride, errStride := s.number(pf, "sriov_stride")
	if errOffset == nil && errStride == nil && stride > 0 {
		n := (routingID(pci) - routingID(pf) - offset) / stride
		if at, err := s.link(pf, fmt.Sprintf("virtfn%d", n)); err == nil && at == pci {
			return n, nil
		}
	}
	vfs, err := s.vfs(pf)
	for n, vf := range vfs {
		if vf == pci {
			return n, err
		}
	}
	return -1, err
}

// routingID is bus, device and function of an address.
func routingID(pci string) int {
	var domain, bus, device, function int
	_, _ = fmt.Sscanf(pci, "%x:%x:%x.%x", &domain, &bus, &device, &function)
	return bus<<8 | device<<3 | function
}

func (s sysfs) number(pci, name string) (int, error) {
	text, err := s.read(pci, name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// link is the last element of a symbolic link of a device, empty when there is
// none.
func (s sysfs) link(pci, name string) (string, error) { return target(pci, s.device(pci, name)) }

// target is link of a path; object is what errors name.
func target(object, path string) (string, error) {
	to, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", object, err)
	}
	return filepath.Base(to), nil
}

// list are the names in a folder of a device, none when it has no such folder.
func (s sysfs) list(pci string, parts ...string) (names []string, err error) {
	entries, err := os.ReadDir(s.device(pci, parts...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", pci, err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// read is an attribute of a device. The kernel gives all of one, a page at most, in one read; the
// calls of os.ReadFile besides open, read and close are most of a request's time.
func (s sysfs) read(pci string, parts ...string) (string, error) {
	path := s.device(pci, parts...)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	data := make([]byte, os.Getpagesize())
	n, err := unix.Read(fd, data)
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSpace(string(data[:n])), nil
}

// vfs are the VFs of a PF by their numbers.
func (s sysfs) vfs(pf string) (map[int]string, error) {
	names, err := s.list(pf)
	if err != nil {
		return nil, err
	}
	vfs := map[int]string{}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "virtfn")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		pci, err := s.link(pf, name)
		if err != nil {
			return nil, err
		}
		if pci != "" { // else it goes at this moment
			vfs[n] = pci
		}
	}
	return vfs, nil
}

// someVFs are the VFs of a PF, which has to have any.
func (s sysfs) someVFs(pf string) (map[int]string, error) {
	vfs, err := s.vfs(pf)
	if err == nil && len(vfs) == 0 {
		err = fmt.Errorf("it has no VFs: write their number to %s", s.device(pf, "sriov_numvfs"))
	}
	return vfs, err
}

// netdev is a function's interface in the namespace that sysfs shows.
type netdev struct {
	Name  string
	Index int
}

// netdevs are the interfaces of a function, by index. In switchdev mode a PF
// shows the representors of its VFs as well: they are left out.
func (s sysfs) netdevs(pci string) ([]netdev, error) {
	names, err := s.list(pci, "net")
	if err != nil {
		return nil, err
	}
	var all []netdev
	for _, name := range names {
		if port, err := s.read(pci, "net", name, "phys_port_name"); err == nil && representor.MatchString(port) {
			continue
		}
		text, err := s.read(pci, "net", name, "ifindex")
		if errors.Is(err, fs.ErrNotExist) {
			continue // it goes at this moment
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pci, err)
		}
		index, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%s: ifindex of %s: %w", pci, name, err)
		}
		all = append(all, netdev{name, index})
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
	pci, err := target("PF "+name, filepath.Join(string(s), "class/net", name, "device"))
	switch {
	case err != nil:
		return "", err
	case pci == "":
		return "", fmt.Errorf("PF %s: no interface of that name on this node is a PCI device", name)
	case !pciForm.MatchString(pci):
		return "", fmt.Errorf("PF %s: its device %s is no PCI device", name, pci)
	}
	return pci, nil
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
	case driver == vfioPCI && group == "":
	case driver == vfioPCI:
		node = "/dev/vfio/" + group
		if mode, err := s.read(pci, "iommu_group/name"); err == nil && mode == "vfio-noiommu" {
			node = "/dev/vfio/noiommu-" + group
		}
	default:
		if names, err := s.list(pci, "uio"); err == nil && len(names) == 1 {
			node = "/dev/" + names[0]
		}
	}
	return group, node, nil
}

// rdmaDevice is the name of a function's RDMA device, empty when it has none.
func (s sysfs) rdmaDevice(pci string) (string, error) {
	names, err := s.list(pci, "infiniband")
	if err != nil || len(names) == 0 {
		return "", err
	}
	return names[0], nil
}

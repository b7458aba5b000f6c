package devices

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
)

// Function is a PCI function of the class of network controllers, as sysfs(5) shows it.
type Function struct {
	PCI                    string // address
	Vendor, Device, Driver string // the first two without 0x
	PF, PFName             string // of a VF: address and interface of its PF
	VF                     int    // number of the VF on its PF, -1 for a PF
	LinkType               string // ether, infiniband; "" where neither its interface nor that of its PF shows it
	RDMA                   string // device
	ACPIIndex              string
	NUMA                   int // node, -1 for none
}

// classNetwork is how the class of network controllers begins (PCI Code and ID Assignment
// Specification).
const classNetwork = "0x02"

// ReadFunctions reads the network controllers below a sysfs, in the order of their addresses. A
// PF that has VFs is not among them, and neither is a function whose interface inUse has: the
// node needs it. The same are left out by sriov-network-device-plugin.
func ReadFunctions(sysfs string, inUse func(ifName string) bool) ([]Function, error) {
	dir := filepath.Join(sysfs, "bus/pci/devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a node without PCI
	}
	if err != nil {
		return nil, err
	}
	s := reader{dir: dir}
	var all []Function
	for _, e := range entries {
		pci := e.Name()
		if !pciForm.MatchString(pci) || !strings.HasPrefix(s.text(pci, "class"), classNetwork) || s.number(pci, "sriov_numvfs", 0) > 0 {
			continue
		}
		links := s.interfaces(pci)
		if slices.ContainsFunc(links, inUse) {
			continue
		}
		all = append(all, s.function(pci, links))
	}
	return all, nil
}

// reader reads attributes of devices. One that cannot be read is as one that is not there: a
// device may go at any moment.
type reader struct{ dir string }

func (s reader) text(pci string, parts ...string) string {
	data, err := os.ReadFile(filepath.Join(append([]string{s.dir, pci}, parts...)...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (s reader) number(pci, name string, otherwise int) int {
	n, err := strconv.Atoi(s.text(pci, name))
	if err != nil {
		return otherwise
	}
	return n
}

// link is the last element of a symbolic link.
func (s reader) link(pci, name string) string {
	to, err := os.Readlink(filepath.Join(s.dir, pci, name))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func (s reader) names(pci, folder string) (names []string) {
	entries, err := os.ReadDir(filepath.Join(s.dir, pci, folder))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// representor is the phys_port_name of the representor of a VF, which a PF in switchdev mode
// shows beside its own interface.
var representor = regexp.MustCompile(`^(c\d+)?pf\d+(vf|sf)\d+$`)

// interfaces are those that a function has in the namespace of the node.
func (s reader) interfaces(pci string) []string {
	return slices.DeleteFunc(s.names(pci, "net"), func(name string) bool { return representor.MatchString(s.text(pci, "net", name, "phys_port_name")) })
}

func (s reader) function(pci string, links []string) Function {
	f := Function{
		PCI: pci, VF: -1, PF: s.link(pci, "physfn"), Driver: s.link(pci, "driver"), ACPIIndex: s.text(pci, "acpi_index"), NUMA: s.number(pci, "numa_node", -1),
		Vendor: strings.TrimPrefix(s.text(pci, "vendor"), "0x"), Device: strings.TrimPrefix(s.text(pci, "device"), "0x"),
	}
	if rdma := s.names(pci, "infiniband"); len(rdma) > 0 {
		f.RDMA = rdma[0]
	}
	from, shows := pci, links
	if f.PF != "" {
		f.VF = s.numberOf(f.PF, pci)
		ofPF := s.interfaces(f.PF)
		if len(ofPF) > 0 {
			f.PFName = ofPF[0]
		}
		if len(links) == 0 { // its interface is in a pod, or it has a user-space driver
			from, shows = f.PF, ofPF
		}
	}
	if len(shows) > 0 {
		f.LinkType = s.linkType(from, shows[0])
	}
	return f
}

// linkType is what netlink calls the hardware type (linux/if_arp.h).
func (s reader) linkType(pci, ifName string) string {
	return map[string]string{"1": "ether", "32": "infiniband"}[s.text(pci, "net", ifName, "type")]
}

// numberOf is the number of a VF of a PF.
func (s reader) numberOf(pf, vf string) int {
	for _, name := range s.names(pf, "") {
		if number, ok := strings.CutPrefix(name, "virtfn"); ok && s.link(pf, name) == vf {
			if n, err := strconv.Atoi(number); err == nil {
				return n
			}
		}
	}
	return -1
}

// state is why a function cannot be given to a pod now, nil when it can.
func (s reader) state(f *Function) error {
	if _, err := os.Stat(filepath.Join(s.dir, f.PCI)); err != nil {
		return fmt.Errorf("%s is not there any more", f.PCI)
	}
	if s.link(f.PCI, "driver") == "" {
		return fmt.Errorf("%s has no driver", f.PCI)
	}
	if f.PF == "" {
		return nil
	}
	links := s.interfaces(f.PF)
	if len(links) == 0 {
		return fmt.Errorf("its PF %s has no interface", f.PF)
	}
	if s.text(f.PF, "net", links[0], "carrier") != "1" {
		return fmt.Errorf("its PF %s has no carrier", links[0])
	}
	return nil
}

// nodes are the device files by which a container reaches a function of a user-space driver,
// and with rdma its RDMA device; own is the function's own of the first.
func (s reader) nodes(pci string, rdma bool) (own string, all []string) {
	switch s.link(pci, "driver") {
	case "vfio-pci":
		group := s.link(pci, "iommu_group")
		if group == "" {
			break
		}
		own = "/dev/vfio/" + group
		if s.text(pci, "iommu_group/name") == "vfio-noiommu" {
			own = "/dev/vfio/noiommu-" + group
		}
		all = append(all, own, "/dev/vfio/vfio")
	case "uio_pci_generic", "igb_uio":
		if names := s.names(pci, "uio"); len(names) == 1 {
			own = "/dev/" + names[0]
			all = append(all, own)
		}
	}
	if !rdma {
		return own, all
	}
	for _, kind := range []string{"infiniband_verbs", "infiniband_mad", "infiniband_cm"} {
		for _, name := range s.names(pci, kind) {
			all = append(all, "/dev/infiniband/"+name)
		}
	}
	if len(s.names(pci, "infiniband")) > 0 {
		all = append(all, "/dev/infiniband/rdma_cm")
	}
	return own, all
}

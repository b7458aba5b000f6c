package sriov

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/delegates"
)

const pfPCI, vfPCI, vf2PCI = "0000:03:00.0", "0000:03:02.0", "0000:03:02.1"

// tree is a folder in the form of sysfs.
type tree struct {
	sysfs
	t testing.TB
}

// newTree is a PF eth0 with two VFs; the first has an interface, the second
// vfio-pci.
func newTree(t testing.TB) *tree {
	t.Helper()
	s := &tree{sysfs(t.TempDir()), t}
	for pci, name := range map[string]string{pfPCI: "eth0", vfPCI: "eth1", vf2PCI: ""} {
		s.file(pci, "driver_override", "(null)\n")
		if name != "" {
			s.netdev(pci, name, map[string]int{"eth0": 2, "eth1": 7}[name])
		}
	}
	s.file(pfPCI, "sriov_numvfs", "2\n")
	s.driver(pfPCI, "ixgbe")
	s.driver(vfPCI, "ixgbevf")
	s.driver(vf2PCI, "vfio-pci")
	for vf, link := range map[string]string{vfPCI: "virtfn0", vf2PCI: "virtfn1"} {
		s.link("../"+pfPCI, s.device(vf, "physfn"))
		s.link("../"+vf, s.device(pfPCI, link))
	}
	return s
}

func (s *tree) file(pci, name, text string) {
	s.t.Helper()
	path := s.device(pci, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tree) link(to, at string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(to, at); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tree) folder(parts ...string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Join(append([]string{string(s.sysfs)}, parts...)...), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tree) remove(path string) {
	s.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tree) driver(pci, name string) {
	s.t.Helper()
	s.folder("bus/pci/drivers", name)
	s.link("../../drivers/"+name, s.device(pci, "driver"))
}

func (s *tree) netdev(pci, name string, index int) {
	s.t.Helper()
	s.file(pci, "net/"+name+"/ifindex", strconv.Itoa(index)+"\n")
	s.link("../../../bus/pci/devices/"+pci, filepath.Join(string(s.sysfs), "class/net", name, "device"))
}

func TestFunction(t *testing.T) {
	s := newTree(t)
	for pci, expected := range map[string]function{
		pfPCI:  {PCI: pfPCI, VF: -1, Driver: "ixgbe", NumVFs: 2},
		vfPCI:  {PCI: vfPCI, PF: pfPCI, VF: 0, Driver: "ixgbevf"},
		vf2PCI: {PCI: vf2PCI, PF: pfPCI, VF: 1, Driver: "vfio-pci"},
	} {
		f, err := s.function(pci)
		if err != nil {
			t.Error(err)
			continue
		}
		if f.Incarnation == 0 {
			t.Errorf("%s has no inode", pci)
		}
		f.Incarnation = 0
		if d := cmp.Diff(&expected, f); d != "" {
			t.Error(d)
		}
	}
	before, err := s.function(vfPCI)
	if err != nil {
		t.Fatal(err)
	}
	s.remove(s.device(vfPCI, "driver"))
	if f, err := s.function(vfPCI); err != nil || f.Driver != "" || f.Incarnation != before.Incarnation {
		t.Errorf("without a driver: %+v, %v", f, err)
	}
	s.file(pfPCI, "sriov_numvfs", "0\n")
	if f, err := s.function(pfPCI); err != nil || f.NumVFs != 0 {
		t.Errorf("numvfs 0: %+v, %v", f, err)
	}
	s.remove(s.device(pfPCI, "sriov_numvfs"))
	if f, err := s.function(pfPCI); err != nil || f.NumVFs != 0 {
		t.Errorf("a NIC without SR-IOV: %+v, %v", f, err)
	}
	if _, err := s.function("0000:03:1f.7"); !errors.Is(err, errNoDevice) {
		t.Errorf("%v, want %v", err, errNoDevice)
	}
	s.remove(s.device(pfPCI, "virtfn0"))
	_, err = s.function(vfPCI)
	wantError(t, err, vfPCI, pfPCI, "numvfs")
}

func TestVFs(t *testing.T) {
	s := newTree(t)
	s.link("../0000:03:03.7", s.device(pfPCI, "virtfn10"))
	s.link("../0000:03:03.6", s.device(pfPCI, "virtfnx")) // no number, no VF
	vfs, err := s.vfs(pfPCI)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[int]string{0: vfPCI, 1: vf2PCI, 10: "0000:03:03.7"}, vfs); d != "" {
		t.Error(d)
	}
	for _, none := range []string{vfPCI, "0000:ff:00.0"} {
		if vfs, err := s.vfs(none); err != nil || len(vfs) > 0 {
			t.Errorf("%s: %v, %v", none, vfs, err)
		}
	}
	s.file(pfPCI, "virtfn11", "") // a file where the kernel has a link
	_, err = s.vfs(pfPCI)
	wantError(t, err, pfPCI, "virtfn11")
}

func TestNetdevs(t *testing.T) {
	s := newTree(t)
	same := func(pci string, expected ...netdev) {
		t.Helper()
		all, err := s.netdevs(pci)
		if d := cmp.Diff(expected, all); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", pci, err, d)
		}
	}
	same(vfPCI, netdev{"eth1", 7})
	same(vf2PCI)
	same("0000:ff:00.0")
	s.netdev(vfPCI, "aaa", 10) // by index, not by name, and as numbers
	same(vfPCI, netdev{"eth1", 7}, netdev{"aaa", 10})
	// switchdev: the PF's own interface, or uplink, among representors
	for name, port := range map[string]string{"eth0_0": "pf0vf0", "eth0_127": "pf1vf127", "eth0_s": "pf0sf88", "eth0_c": "c1pf0vf3"} {
		s.netdev(pfPCI, name, 1)
		s.file(pfPCI, "net/"+name+"/phys_port_name", port+"\n")
	}
	same(pfPCI, netdev{"eth0", 2})
	for _, port := range []string{"p0", "p1s0", "", "pf0vf3x"} {
		s.file(pfPCI, "net/eth0/phys_port_name", port+"\n")
		same(pfPCI, netdev{"eth0", 2})
	}
	s.folder("bus/pci/devices", vfPCI, "net/going") // no ifindex any more
	same(vfPCI, netdev{"eth1", 7}, netdev{"aaa", 10})
	s.file(vfPCI, "net/odd/ifindex", "x\n")
	_, err := s.netdevs(vfPCI)
	wantError(t, err, vfPCI, "odd", "ifindex")
}

func TestPF(t *testing.T) {
	s := newTree(t)
	for name, expected := range map[string]string{"eth0": pfPCI, pfPCI: pfPCI, "0000:AF:00.1": "0000:af:00.1", "eth1": vfPCI} {
		if pci, err := s.pf(name); err != nil || pci != expected {
			t.Errorf("%s: %s, %v, want %s", name, pci, err, expected)
		}
	}
	s.folder("class/net/veth0") // a link without a device
	for _, name := range []string{"eth9", "veth0"} {
		_, err := s.pf(name)
		wantError(t, err, name, "PCI device")
	}
}

func TestDriverOverride(t *testing.T) {
	s := newTree(t)
	for text, expected := range map[string]string{"(null)\n": "", "\n": "", "": "", "vfio-pci\n": "vfio-pci"} {
		s.file(vfPCI, "driver_override", text)
		if got, err := s.overridden(vfPCI); err != nil || got != expected {
			t.Errorf("%q: %q, %v, want %q", text, got, err, expected)
		}
	}
	for _, c := range []struct{ now, asked, file string }{{"(null)\n", "", "(null)\n"}, {"(null)\n", "vfio-pci", "vfio-pci\n"}, {"vfio-pci\n", "vfio-pci", "vfio-pci\n"}, {"vfio-pci\n", "", "\n"}} {
		s.file(vfPCI, "driver_override", c.now)
		if err := s.override(t.Context(), vfPCI, c.asked); err != nil {
			t.Error(err)
		}
		if data, err := os.ReadFile(s.device(vfPCI, "driver_override")); err != nil || string(data) != c.file {
			t.Errorf("%q to %q: %q, %v, want %q", c.now, c.asked, data, err, c.file)
		}
	}
	_, err := s.overridden("0000:ff:00.0")
	wantError(t, err, "0000:ff:00.0")
	err = s.override(t.Context(), "0000:ff:00.0", "vfio-pci")
	wantError(t, err, "driver_override", "0000:ff:00.0")
}

// A folder does not bind; what is written where is all that can be seen.
func TestBindWrites(t *testing.T) {
	for _, c := range []struct {
		name, driver, override string
	}{
		{"the kernel's choice", "", ""},
		{"an overridden one", "ixgbevf", "ixgbevf"},
		{"a named one", "ixgbevf", ""},
		{"a named one, another override", "ixgbevf", "vfio-pci"},
	} {
		s := newTree(t)
		if err := s.bind(t.Context(), vfPCI, c.driver, c.override); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if data, err := os.ReadFile(filepath.Join(string(s.sysfs), "bus/pci/drivers_probe")); err != nil || string(data) != vfPCI {
			t.Errorf("%s: drivers_probe is %q, %v", c.name, data, err)
		}
		if now, err := s.overridden(vfPCI); err != nil || now != c.override {
			t.Errorf("%s: override %q, %v", c.name, now, err)
		}
	}
	s := newTree(t)
	err := s.bind(t.Context(), vfPCI, "vfio-pci", "vfio-pci")
	wantError(t, err, vfPCI, "vfio-pci", "it has ixgbevf now")
	s.remove(s.device(vfPCI, "driver"))
	err = s.bind(t.Context(), vfPCI, "", "")
	wantError(t, err, vfPCI, "the kernel's driver", "no driver")
	err = s.bind(t.Context(), vfPCI, "none", "")
	wantError(t, err, vfPCI, "none")
	if err := s.unbind(t.Context(), vfPCI); err != nil { // it has none
		t.Error(err)
	}
	if err := s.unbind(t.Context(), pfPCI); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(string(s.sysfs), "bus/pci/drivers/ixgbe/unbind")); err != nil || string(data) != pfPCI {
		t.Errorf("unbind is %q, %v", data, err)
	}
	if !s.hasDriver("vfio-pci") || s.hasDriver("igb_uio") {
		t.Error("hasDriver")
	}
}

// A driver that keeps its writer waiting keeps nobody longer than the request.
func TestWriteIsBounded(t *testing.T) {
	s := newTree(t)
	pipe := filepath.Join(string(s.sysfs), "pipe") // nobody reads
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, s.write(ctx, vfPCI, pipe, "x"), pipe, "the driver does not answer")
	err := s.write(t.Context(), vfPCI, pipe, "x") // there is no second writer
	if wantError(t, err, vfPCI); !delegates.IsTemporary(err) {
		t.Errorf("%v is not temporary", err)
	}
	if f, err := os.OpenFile(pipe, os.O_RDONLY, 0); err == nil { // lets the writer go
		_ = f.Close()
	}
}

func TestAwaitNetdevs(t *testing.T) {
	s := newTree(t)
	go func() {
		time.Sleep(20 * time.Millisecond)
		_ = os.MkdirAll(s.device(vf2PCI, "net/eth2"), 0o755)
		_ = os.WriteFile(s.device(vf2PCI, "net/eth2/ifindex"), []byte("8\n"), 0o644)
	}()
	for { // the file may be there before its text
		err := s.awaitNetdevs(t.Context(), vf2PCI, 1)
		if err != nil && strings.Contains(err.Error(), "ifindex") {
			continue
		}
		all, errList := s.netdevs(vf2PCI)
		err = errors.Join(err, errList)
		if d := cmp.Diff([]netdev{{"eth2", 8}}, all); d != "" || err != nil {
			t.Error(d, err)
		}
		break
	}
	s.remove(s.device(vf2PCI, "net"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantError(t, s.awaitNetdevs(ctx, vf2PCI, 1), vf2PCI, "no interface")
}

func TestIOMMUGroup(t *testing.T) {
	s := newTree(t)
	s.folder("kernel/iommu_groups/42")
	s.link("../../../../kernel/iommu_groups/42", s.device(vf2PCI, "iommu_group"))
	same := func(driver, group, node string) {
		t.Helper()
		if g, n, err := s.iommuGroup(vf2PCI, driver); err != nil || g != group || n != node {
			t.Errorf("%s: %q %q, %v, want %q %q", driver, g, n, err, group, node)
		}
	}
	same("vfio-pci", "42", "/dev/vfio/42")
	same("uio_pci_generic", "42", "")
	s.folder("bus/pci/devices", vf2PCI, "uio/uio3")
	same("uio_pci_generic", "42", "/dev/uio3")
	same("igb_uio", "42", "/dev/uio3")
	s.file(vf2PCI, "iommu_group/name", "vfio-noiommu\n")
	same("vfio-pci", "42", "/dev/vfio/noiommu-42")
	s.file(vf2PCI, "iommu_group/name", "other\n")
	same("vfio-pci", "42", "/dev/vfio/42")
}

func TestRDMADevice(t *testing.T) {
	s := newTree(t)
	for _, expected := range []string{"", "mlx5_2"} {
		if name, err := s.rdmaDevice(vfPCI); err != nil || name != expected {
			t.Errorf("%q, %v, want %q", name, err, expected)
		}
		s.folder("bus/pci/devices", vfPCI, "infiniband/mlx5_2")
	}
}

// The number of a VF follows from its address; links of the PF are looked at where it does not,
// or where the PF tells what is not so.
func TestNumberOfVF(t *testing.T) {
	for what, places := range map[string][2]string{"none": {"", ""}, "right": {"16", "1"}, "wrong": {"128", "2"}, "no stride": {"16", "0"}, "no number": {"x", "1"}, "below": {"200", "1"}} {
		s := newTree(t)
		if places[0] != "" {
			s.file(pfPCI, "sriov_offset", places[0]+"\n")
			s.file(pfPCI, "sriov_stride", places[1]+"\n")
		}
		for pci, want := range map[string]int{vfPCI: 0, vf2PCI: 1, "0000:03:02.2": -1, pfPCI: -1} {
			if got, err := s.numberOf(pci, pfPCI); err != nil || got != want {
				t.Errorf("%s: %s is %d, %v, want %d", what, pci, got, err, want)
			}
		}
	}
}

package devices

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree is a sysfs with these PCI functions, one line each:
//
//	address key=value ...
//
// The keys are those of the attributes, and driver, physfn, virtfnN, iommu_group (links),
// net=NAME, rdma=NAME.
func tree(t *testing.T, lines string) string {
	t.Helper()
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		dir := filepath.Join(root, "bus/pci/devices", words[0])
		write(filepath.Join(dir, "class"), "0x020000")
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			switch {
			case key == "net":
				write(filepath.Join(dir, "net", value, "type"), "1")
				write(filepath.Join(dir, "net", value, "carrier"), "1")
			case key == "ib":
				write(filepath.Join(dir, "net", value, "type"), "32")
			case key == "rdma":
				write(filepath.Join(dir, "infiniband", value, "node_type"), "1: CA")
				write(filepath.Join(dir, "infiniband_verbs", "uverbs0", "dev"), "1:1")
			case key == "driver", key == "physfn", strings.HasPrefix(key, "virtfn"), key == "iommu_group":
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("../"+value, filepath.Join(dir, key)); err != nil {
					t.Fatal(err)
				}
			default:
				write(filepath.Join(dir, key), value)
			}
		}
	}
	return root
}

// node has two PFs with VFs, one of them with a VF for DPDK and one whose interface is in a
// pod; an InfiniBand PF without VFs, a card with the default route, and a disk.
const node = `
0000:01:00.0 vendor=0x8086 device=0x1572 driver=i40e net=ens1f0 sriov_numvfs=4 numa_node=0 virtfn0=0000:01:02.0 virtfn1=0000:01:02.1 virtfn2=0000:01:02.2 virtfn3=0000:01:02.3
0000:01:02.0 vendor=0x8086 device=0x154c driver=iavf net=ens1f0v0 physfn=0000:01:00.0 numa_node=0
0000:01:02.1 vendor=0x8086 device=0x154c driver=iavf physfn=0000:01:00.0 numa_node=0
0000:01:02.2 vendor=0x8086 device=0x154c driver=vfio-pci physfn=0000:01:00.0 iommu_group=42 numa_node=0
0000:01:02.3 vendor=0x8086 device=0x154c physfn=0000:01:00.0 numa_node=0
0000:81:00.0 vendor=0x15b3 device=0x1017 driver=mlx5_core net=ens2f0 sriov_numvfs=2 numa_node=1 rdma=mlx5_0 virtfn0=0000:81:00.2 virtfn1=0000:81:00.3
0000:81:00.2 vendor=0x15b3 device=0x1018 driver=mlx5_core net=ens2f0v0 physfn=0000:81:00.0 numa_node=1 rdma=mlx5_1 acpi_index=101
0000:81:00.3 vendor=0x15b3 device=0x1018 driver=mlx5_core net=ens2f0v1 physfn=0000:81:00.0 numa_node=1
0000:82:00.0 vendor=0x15b3 device=0x1017 driver=mlx5_core ib=ib0 sriov_numvfs=0 numa_node=1
0000:03:00.0 vendor=0x8086 device=0x1533 driver=igb net=eno1
0000:04:00.0 vendor=0x144d device=0xa808 driver=nvme class=0x010802
`

func functionsOf(t *testing.T, lines string) []Function {
	t.Helper()
	all, err := ReadFunctions(tree(t, lines), func(ifName string) bool { return ifName == "eno1" })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func addresses(all []Function) (list []string) {
	for _, f := range all {
		list = append(list, f.PCI)
	}
	return list
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
}

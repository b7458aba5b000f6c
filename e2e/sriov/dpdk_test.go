package sriov

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A VF for a user-space driver, and back.
func TestDPDK(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		p := newPod(t, "dpdk")
		pci := vf(t, "eth0", 1)
		keys := map[string]any{"deviceID": pci, "driver": "vfio-pci", "vlan": 9, "mac": "02:00:00:00:00:09"}
		for range 3 {
			r := s.mustAdd("sandbox000001", p, keys)
			if i := r.Interfaces[0]; i.PciID != pci || i.Mac != "02:00:00:00:00:09" {
				t.Errorf("interface %+v", i)
			}
			if d := driver(pci); d != "vfio-pci" {
				t.Errorf("driver %s", d)
			}
			if err := s.check("sandbox000001", p, keys); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.mustDel("sandbox000001", p.Path(), keys)
			sameWorld(t, before)
		}
	})
}

// A VF whose device a process has open stays with its pod until the process closes the device.
// DEL says at once which process it is, and to try again.
func TestOpenDevice(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before, p, other, pci := world(t), newPod(t, "open"), newPod(t, "other"), vf(t, "eth0", 1)
		keys := map[string]any{"deviceID": pci, "driver": "vfio-pci"}
		s.mustAdd("sandbox000001", p, keys)
		closeDevice := openDevice(t, pci)
		defer closeDevice()
		busy := func(err error) {
			t.Helper()
			refused(t, err, pci, "is open in", fmt.Sprintf("sriov.test (pid %d)", os.Getpid()))
			var failed *cniError
			if errors.As(err, &failed) && failed.Code != 11 {
				t.Errorf("code %d, want 11", failed.Code)
			}
		}
		for range 2 {
			busy(s.del("sandbox000001", p.Path(), keys))
		}
		closed(t, p)
		_, err := s.add("sandbox000002", other, map[string]any{"deviceID": pci})
		busy(err)
		busy(s.del("sandbox000001", "", keys))
		closeDevice()
		s.mustDel("sandbox000001", "", keys)
		sameWorld(t, before)

		bind(t, pci, "vfio-pci") // the node's own use of it, by a virtual machine perhaps
		defer bind(t, pci, "")
		closeDevice = openDevice(t, pci)
		defer closeDevice()
		_, err = s.add("sandbox000002", other, map[string]any{"deviceID": pci})
		busy(err)
		closeDevice()
	})
}

// openDevice opens a function's VFIO device as DPDK and virtual machines do (linux/vfio.h).
func openDevice(t testing.TB, pci string) (closeDevice func()) {
	t.Helper()
	group, err := os.Readlink("/sys/bus/pci/devices/" + pci + "/iommu_group")
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	for _, path := range []string{"/dev/vfio/vfio", "/dev/vfio/" + filepath.Base(group)} {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("open %s: %v", path, err)
		}
		fds = append(fds, fd)
	}
	name, err := unix.BytePtrFromString(pci)
	if err != nil {
		t.Fatal(err)
	}
	container := int32(fds[0])
	for _, call := range []struct{ fd, request, arg uintptr }{
		{uintptr(fds[1]), 0x3b68, uintptr(unsafe.Pointer(&container))}, // VFIO_GROUP_SET_CONTAINER
		{uintptr(fds[0]), 0x3b66, 1},                                   // VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU
		{uintptr(fds[1]), 0x3b6a, uintptr(unsafe.Pointer(name))},       // VFIO_GROUP_GET_DEVICE_FD
	} {
		got, _, errno := unix.Syscall(unix.SYS_IOCTL, call.fd, call.request, call.arg)
		if errno != 0 {
			t.Fatalf("ioctl %#x: %v", call.request, errno)
		}
		if call.request == 0x3b6a {
			fds = append(fds, int(got))
		}
	}
	return sync.OnceFunc(func() {
		for _, fd := range slices.Backward(fds) {
			_ = unix.Close(fd)
		}
	})
}

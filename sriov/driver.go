package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

// Time limits towards a driver.
const (
	driverTimeout = 20 * time.Second
	netdevTimeout = 5 * time.Second
)

// write writes to an attribute, for a function. A driver may keep the writer waiting for ever;
// the request does not. Until such a writer has ended there is no other one for the function.
func (s sysfs) write(ctx context.Context, pci, path, value string) error {
	now, cancel := context.WithCancel(ctx)
	cancel() // a free lock is had all the same
	release, err := lock.Take(now, "driver-"+pci, "driver of "+pci)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := os.WriteFile(path, []byte(value), 0)
		release()
		done <- err
	}()
	ctx, cancel = context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write %s: the driver does not answer: %w", path, ctx.Err())
	}
}

// unbind takes a function from its driver, if it has one.
func (s sysfs) unbind(ctx context.Context, pci string) error {
	driver, err := s.link(pci, "driver")
	if err != nil || driver == "" {
		return err
	}
	if err := s.isClosed(pci, driver); err != nil {
		return err
	}
	if err := delegates.Step(ctx, "unbind %s from %s", pci, driver); err != nil {
		return err
	}
	err = s.write(ctx, pci, s.device(pci, "driver/unbind"), pci)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("unbind %s: %w", pci, err)
	}
	return nil
}

// isClosed refuses a function whose VFIO device a process has open: the kernel would let unbind
// wait until the process has closed it. It may share its IOMMU group with functions that are
// open by right: then only what is known of itself counts (VFIO in the kernel's documentation).
func (s sysfs) isClosed(pci, driver string) error {
	if driver != vfioPCI {
		return nil
	}
	_, node, err := s.iommuGroup(pci, driver)
	if err != nil {
		return err
	}
	members, err := s.list(pci, "iommu_group", "devices")
	if err != nil {
		return err
	}
	own, err := s.list(pci, "vfio-dev")
	if err != nil {
		return err
	}
	var openers []string
	isOpen := false
	if len(members) == 1 {
		fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0) // EBUSY: its group or its own file is open
		if err == nil {
			return unix.Close(fd)
		}
		if isOpen = errors.Is(err, unix.EBUSY); isOpen {
			openers = lock.Openers(node)
		}
	}
	for _, name := range own { // Linux 6.6
		openers = append(openers, lock.Openers("/dev/vfio/devices/"+name)...)
	}
	if !isOpen && len(openers) == 0 {
		return nil
	}
	return delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("%s %w: its device %s is open in %s: the process has to close it first", pci, errTaken, node,
		cmp.Or(strings.Join(openers, ", "), "a process that cannot be seen from here")))
}

// bind gives a function that is unbound to a driver; an empty one is the one
// that the kernel chooses. override is what stays in driver_override.
func (s sysfs) bind(ctx context.Context, pci, driver, override string) error {
	to := cmp.Or(driver, "the kernel's driver")
	if err := delegates.Step(ctx, "bind %s to %s", pci, to); err != nil {
		return err
	}
	// While driver_override names another driver the function takes none but that.
	if err := s.override(ctx, pci, driver); err != nil {
		return err
	}
	probe := filepath.Join(string(s), "bus/pci/drivers_probe")
	if err := s.write(ctx, pci, probe, pci); err != nil && !errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("bind %s to %s: %w", pci, to, err)
	}
	now, err := s.link(pci, "driver")
	if err == nil && (now == "" || driver != "" && now != driver) {
		err = fmt.Errorf("bind %s to %s: it has %s now: see the kernel's log", pci, to, cmp.Or(now, "no driver"))
	}
	return errors.Join(err, s.override(ctx, pci, override))
}

func (s sysfs) override(ctx context.Context, pci, driver string) error {
	if now, err := s.overridden(pci); err == nil && now == driver {
		return nil
	}
	if err := s.write(ctx, pci, s.device(pci, "driver_override"), driver+"\n"); err != nil {
		return fmt.Errorf("driver_override of %s: %w", pci, err)
	}
	return nil
}

// overridden is the driver_override of a function, empty when it has none.
func (s sysfs) overridden(pci string) (string, error) {
	text, err := s.read(pci, "driver_override")
	if err != nil {
		return "", fmt.Errorf("%s: %w", pci, err)
	}
	if text == "(null)" {
		text = ""
	}
	return text, nil
}

// restart gives a function to a driver, as bind does, with something done while it has none,
// and waits for a number of interfaces.
func (h *host) restart(ctx context.Context, pci, driver, override string, interfaces int, between func() error) error {
	err := h.sys.unbind(ctx, pci)
	if err == nil && between != nil {
		err = between()
	}
	if err == nil {
		err = h.sys.bind(ctx, pci, driver, override)
	}
	if err == nil {
		err = h.sys.awaitNetdevs(ctx, pci, interfaces)
	}
	return err
}

// awaitNetdevs waits until a function that was just bound to a kernel driver
// has a number of interfaces.
func (s sysfs) awaitNetdevs(ctx context.Context, pci string, count int) error {
	ctx, cancel := context.WithTimeout(ctx, netdevTimeout)
	defer cancel()
	enough, err := lock.Poll(ctx, func() (bool, error) {
		all, err := s.netdevs(pci)
		return len(all) >= count, err
	})
	if err == nil && !enough {
		err = fmt.Errorf("%s has got no interface from its driver within %s: see the kernel's log", pci, netdevTimeout)
	}
	return err
}

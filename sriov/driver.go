package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

// Time limits towards a driver.
const (
	driverTimeout = 20 * time.Second
	netdevTimeout = 5 * time.Second
)

// write writes to an attribute. A driver may keep the writer waiting for ever;
// the request does not.
func (s sysfs) write(ctx context.Context, path, value string) error {
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(path, []byte(value), 0) }()
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
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
	if err := delegates.Step(ctx, "unbind %s from %s", pci, driver); err != nil {
		return err
	}
	err = s.write(ctx, s.device(pci, "driver/unbind"), pci)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("unbind %s: %w", pci, err)
	}
	return nil
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
	if err := s.write(ctx, probe, pci); err != nil && !errors.Is(err, syscall.EBUSY) {
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
	if err := s.write(ctx, s.device(pci, "driver_override"), driver+"\n"); err != nil {
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/plexus-cni/plexus/rig/process"
)

const (
	qemu = "qemu-system-x86_64"
	// bootLimit is far above the few seconds that a boot takes, for machines
	// that are busy.
	bootLimit = 3 * time.Minute
)

// machine is the virtual machine of one run.
type machine struct {
	*options
	kernel string
	dir    string // of initrd, console, control and qemu.log
}

func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }

// run boots the machine and returns the status of the program once the machine
// has ended. QEMU is gone then.
func (m *machine) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, old := range []string{"control", "console", "qemu.log"} { // of a run before, in the folder of -keep
		_ = os.Remove(m.file(old))
	}
	began := time.Now()
	p, err := process.Start(process.Options{
		Name: "QEMU", Log: m.file("qemu.log"),
		// Not the file itself: QEMU would make it non-blocking for all who have it.
		Stdout: struct{ io.Writer }{os.Stdout},
	}, append([]string{qemu}, m.args()...)...)
	if err != nil {
		return 0, fmt.Errorf("%w: run rig/guest/packages.sh", err)
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.watch(ctx, cancel, began)
	}()
	p.Wait(ctx)
	why := context.Cause(ctx) // nil if QEMU ended by itself
	p.Kill()
	cancel(nil)
	<-watched

	if status, ok := m.told("exit"); ok {
		n, err := strconv.Atoi(status)
		if err != nil {
			return 0, fmt.Errorf("the guest told the status %q", status)
		}
		return n, nil
	}
	if reason, ok := m.told("fail"); ok {
		why = errors.New(reason)
	} else if why == nil {
		why = fmt.Errorf("the guest ended before the program did (QEMU: %v): is -memory %d too small?", p.Ended(), m.memory)
	}
	return 0, fmt.Errorf("%w%s%s", why, tail("QEMU", m.file("qemu.log")), tail("its console", m.file("console")))
}

// args is QEMU's command line: all PFs are on one hub, each on a port of its own.
// With more than one CPU, and a busy host, the guest's clock has been seen to jump.
func (m *machine) args() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35,kernel-irqchip=off", "-accel", "tcg,tb-size=256", "-cpu", "max",
		"-smp", "1", "-m", strconv.Itoa(m.memory),
		"-device", "intel-iommu,intremap=on,caching-mode=on",
		"-chardev", "stdio,id=program,signal=off",
		"-serial", "file:" + m.file("console"), "-serial", "chardev:program", "-serial", "file:" + m.file("control"),
		"-kernel", m.kernel, "-initrd", m.file("initrd"),
		"-append", fmt.Sprintf("console=ttyS0 earlyprintk=serial,ttyS0,115200 quiet panic=-1 oops=panic mitigations=off intel_iommu=on iommu=pt "+
			"random.trust_cpu=on no_timer_check tsc=reliable guest_pfs=%d guest_vfs=%d", m.pfs, m.vfs),
	}
	for i := 1; i <= m.pfs; i++ {
		args = append(args,
			"-device", fmt.Sprintf("pcie-root-port,id=port%d,slot=%d,chassis=%d", i, i, i),
			"-netdev", fmt.Sprintf("hubport,id=wire%d,hubid=0", i),
			"-device", fmt.Sprintf("igb,bus=port%d,netdev=wire%d,mac=52:54:00:00:00:%02x", i, i, i))
	}
	return args
}

// watch ends QEMU once the guest has told its last, and, with the cause, if the
// guest does not come up in time or the program takes too long. It returns once
// ctx is done.
func (m *machine) watch(ctx context.Context, cancel context.CancelCauseFunc, began time.Time) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	up := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if seconds, ok := m.told("up"); ok && !up {
			up = true
			fmt.Fprintf(os.Stderr, "guest: up after %.1f s (its own clock: %s s)\n", time.Since(began).Seconds(), seconds)
		}
		_, exited := m.told("exit")
		_, gaveUp := m.told("fail")
		switch passed := time.Since(began); {
		case exited || gaveUp:
			cancel(nil)
		case !up && passed > bootLimit:
			cancel(fmt.Errorf("the guest was not up after %s: is the machine very busy, or -memory too small?", bootLimit))
		case passed > m.timeout:
			cancel(fmt.Errorf("the program had not ended after %s: a larger -timeout gives it more", m.timeout))
		}
	}
}

// told returns what the guest has told of the kind given.
func (m *machine) told(kind string) (string, bool) {
	b, err := os.ReadFile(m.file("control"))
	if err != nil {
		return "", false // QEMU has not made it yet
	}
	for _, line := range strings.SplitAfter(string(b), "\n") {
		if text, whole := strings.CutSuffix(line, "\n"); whole {
			if text, ok := strings.CutPrefix(strings.TrimSpace(text), kind+" "); ok {
				return text, true
			}
		}
	}
	return "", false
}

// tail quotes the last lines of a log, if there are any.
func tail(what, file string) string {
	const most = 15
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var lines []string
	for _, l := range strings.Split(string(b), "\n") {
		// QEMU warns that the hub leads nowhere: it is meant to.
		if l = strings.TrimSpace(l); l != "" && !strings.Contains(l, "is not connected to host network") {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return fmt.Sprintf("\n%s said last:\n  %s", what, strings.Join(lines[max(0, len(lines)-most):], "\n  "))
}

// Command guest runs a program in a virtual machine of its own that has
// SR-IOV: QEMU emulates the network card igb (82576), whose physical functions
// (PFs) have up to seven virtual functions (VFs) each and share one wire. The
// program is a static executable, as `go test -c` makes one; it runs as root,
// its output is printed as it comes, its status is passed on.
//
//	guest -bin bin -pfs 2 -vfs 7 bin/sriov.test -test.v
//
// In the guest there are, besides PROGRAM in /guest, which is its current folder:
//
//	/opt/cni/bin  the programs in -bin, last in PATH: iproute2's bridge comes before the plugin
//	/guest        what -with gives, if no other path is given
//	ip, bridge, tc, ethtool, ping and busybox's commands; PLEXUS_GUEST=1 in the environment
//
// The PFs are eth0, eth1 ... at 0000:01:00.0, 0000:02:00.0 ..., up and with a
// carrier. The VFs of the first are at 0000:01:10.0, 10.2 ... 11.4 with igbvf bound
// and their links, which are numbered after the PFs', down. A VF has a carrier once
// the PF has been given its MAC and the VF is bound anew, not before: that is the
// driver's doing.
//
// Nothing of the machine is reached from the guest or changed by it.
//
// What fails here and not in PROGRAM ends with status 125, and a reason.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// failed is the status if PROGRAM did not end by itself.
const failed = 125

// options are what the command line gives.
type options struct {
	bin, cache, keep string
	pfs, vfs, memory int
	timeout          time.Duration
	with             []string
	program          []string
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	status := failed
	if err == nil {
		// SIGPIPE: nobody reads what PROGRAM prints.
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
		status, err = run(ctx, o)
		stop()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
		os.Exit(failed)
	}
	os.Exit(status)
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("guest", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: guest [FLAGS] PROGRAM [ARGS...]")
		f.PrintDefaults()
	}
	f.StringVar(&o.bin, "bin", "bin", "`folder` of plexus and the reference plugins")
	f.StringVar(&o.cache, "cache", "bin/guest.cache", "`folder` that keeps the base of the guest between runs")
	f.StringVar(&o.keep, "keep", "", "`folder` in which console, initramfs and QEMU's messages stay")
	f.IntVar(&o.pfs, "pfs", 2, "`number` of PFs, 1 to 8")
	f.IntVar(&o.vfs, "vfs", 7, "`number` of VFs of each PF, 0 to 7")
	f.IntVar(&o.memory, "memory", 768, "the guest's memory in `MiB`")
	f.DurationVar(&o.timeout, "timeout", 20*time.Minute, "`time` after which the guest is killed")
	f.Func("with", "`FILE[:PATH]`: lays a file or a folder into the guest, at PATH or in /guest; may be repeated", func(s string) error {
		o.with = append(o.with, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.program = f.Args()
	switch {
	case len(o.program) == 0:
		return nil, errors.New("no PROGRAM given; -help tells the usage")
	case o.pfs < 1 || o.pfs > 8:
		return nil, fmt.Errorf("-pfs is %d: give 1 to 8", o.pfs)
	case o.vfs < 0 || o.vfs > 7:
		return nil, fmt.Errorf("-vfs is %d: the emulated card has 0 to 7", o.vfs)
	}
	return o, nil
}

// run runs the program in a guest and returns its status.
func run(ctx context.Context, o *options) (int, error) {
	b, err := makeBase(ctx, o.cache)
	if err != nil {
		return 0, err
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "plexus-guest-"); err != nil {
			return 0, fmt.Errorf("make a folder to work in: %w", err)
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("make the folder of -keep: %w", err)
	}
	m := &machine{options: o, kernel: b.kernel, dir: dir}
	if err := writeInitrd(m.file("initrd"), b.initrd, o); err != nil {
		return 0, err
	}
	status, err := m.run(ctx)
	if err != nil && o.keep == "" {
		err = fmt.Errorf("%w\n-keep FOLDER keeps the console", err)
	}
	return status, err
}

// quote makes one word of a shell of s.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

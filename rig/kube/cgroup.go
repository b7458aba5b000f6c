package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is the control group of all that kubelet starts.
const cgroupRoot = "/plexus-kube"

// hierarchies are where control groups are mounted: one folder of version 2, or
// one for each controller of version 1 (and then, maybe, one of version 2 without
// controllers beside them).
func hierarchies() (v1, v2 []string, err error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, nil, fmt.Errorf("find the control groups: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 3 || !strings.HasPrefix(fields[1], "/sys/fs/cgroup") {
			continue
		}
		switch fields[2] {
		case "cgroup":
			v1 = append(v1, fields[1])
		case "cgroup2":
			v2 = append(v2, fields[1])
		}
	}
	if len(v1)+len(v2) == 0 {
		return nil, nil, errors.New("find the control groups: none are mounted below /sys/fs/cgroup")
	}
	return v1, v2, nil
}

// makeCgroups makes the node's control group in each hierarchy.
func makeCgroups() error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range v1 {
		if err := os.MkdirAll(h+cgroupRoot, 0o755); err != nil {
			return fmt.Errorf("make a control group: %w", err)
		}
		// A cpuset without processors takes no processes, nor do those below it.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			all, err := os.ReadFile(filepath.Join(h, f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(h+cgroupRoot, f), all, 0o644)
			}
			if err != nil {
				return fmt.Errorf("fill %s of a control group: %w", f, err)
			}
		}
	}
	if len(v1) > 0 {
		return nil
	}
	for _, h := range v2 {
		if err := os.MkdirAll(h+cgroupRoot, 0o755); err != nil {
			return fmt.Errorf("make a control group: %w", err)
		}
		controllers, err := os.ReadFile(filepath.Join(h, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("delegate controllers: %w", err)
		}
		for _, c := range strings.Fields(string(controllers)) {
			// Most are delegated already; kubelet tells which of them it misses.
			_ = os.WriteFile(filepath.Join(h, "cgroup.subtree_control"), []byte("+"+c), 0o644)
		}
	}
	return nil
}

// removeCgroups removes the node's control groups, which have no processes left.
func removeCgroups(ctx context.Context) error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	return poll(ctx, "the node's control groups are gone", func(context.Context) (bool, error, error) {
		var left error
		for _, h := range append(v1, v2...) {
			left = errors.Join(left, removeCgroup(h+cgroupRoot))
		}
		return left == nil, left, nil
	})
}

// removeCgroup removes a control group and those below it.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// Not os.Remove: for want of a folder it would report that of a file.
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		return fmt.Errorf("remove %s: %w (processes: %s)", dir, err, bytes.ReplaceAll(bytes.TrimSpace(procs), []byte("\n"), []byte(" ")))
	}
	return nil
}

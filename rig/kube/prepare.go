package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// packages of Debian are unpacked and not installed: containerd and etcd would
// become services of the machine, and containerd would take the place of Docker's.
var packages = []string{"etcd-server", "containerd", "runc", "busybox-static"}

// programs of packages that the rig runs.
var programs = []string{"etcd", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "busybox"}

// personalities are the programs that the one executable is.
var personalities = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"}

// ldflags stamp the version: an API server that does not know its own refuses to
// start.
var ldflags = func() string {
	numbers := strings.Split(strings.TrimPrefix(Version, "v"), ".")
	flags := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range []string{"gitVersion=" + Version, "gitMajor=" + numbers[0], "gitMinor=" + numbers[1], "gitTreeState=clean"} {
			flags += " -X " + pkg + "." + v
		}
	}
	return flags
}()

// Prepare makes what Start runs, as far as it is not there: it compiles Kubernetes
// and unpacks Debian's packages into the repository's .cache. What it does and how
// long it took is written to progress.
func Prepare(ctx context.Context, progress io.Writer) error {
	c, err := openCache()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	// Others who prepare at the same time wait here and find it done.
	lock, err := os.Open(c.dir)
	if err != nil {
		return fmt.Errorf("lock the cache: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the cache: %w", err)
	}
	kubernetes, debian, pause, err := c.parts()
	if err != nil {
		return err
	}
	for _, step := range []struct {
		part part
		what string
		fill func(dir string) error
	}{
		{debian, "unpacking Debian's " + strings.Join(packages, ", "), func(dir string) error { return unpack(ctx, dir) }},
		{pause, "compiling pause", func(dir string) error {
			return compile(ctx, c.root, dir, "pause", "-s -w", "./rig/kube/pause")
		}},
		{kubernetes, "compiling Kubernetes " + Version + " (minutes)", func(dir string) error {
			if err := compile(ctx, c.source("kubernetes"), dir, "kubernetes", ldflags, "."); err != nil {
				return err
			}
			for _, name := range personalities {
				if err := os.Symlink("kubernetes", filepath.Join(dir, name)); err != nil {
					return fmt.Errorf("name the executable: %w", err)
				}
			}
			return nil
		}},
	} {
		if c.has(step.part) {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(progress, "%s ...\n", step.what)
		done := make(chan struct{})
		go tick(progress, begin, done)
		err := c.add(step.part, step.fill)
		close(done)
		if err != nil {
			return err
		}
		fmt.Fprintf(progress, "%s: done in %s\n", step.what, time.Since(begin).Round(100*time.Millisecond))
	}
	return nil
}

// tick shows that a long step still runs.
func tick(progress io.Writer, begin time.Time, done <-chan struct{}) {
	t := time.NewTicker(30 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			fmt.Fprintf(progress, "  ... %s\n", time.Since(begin).Round(time.Second))
		}
	}
}

// compile makes a static executable of a package of the module in folder source.
func compile(ctx context.Context, source, dir, name, flags, pkg string) error {
	return run(ctx, source, []string{"CGO_ENABLED=0", "GOWORK=off"},
		"go", "build", "-trimpath", "-ldflags", flags, "-o", filepath.Join(dir, name), pkg)
}

// unpack puts the programs of Debian's packages into dir.
func unpack(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("this is no Debian: there is no apt-get to get " + strings.Join(packages, ", ") + " with")
	}
	tmp, err := os.MkdirTemp(dir, "deb-")
	if err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	defer os.RemoveAll(tmp)
	get := func() error {
		return run(ctx, tmp, nil, "apt-get", append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, packages...)...)
	}
	// The machine's lists may be missing or too old for the mirror.
	if get() != nil {
		if err := run(ctx, tmp, nil, "apt-get", "update", "-q"); err != nil {
			return err
		}
		if err := get(); err != nil {
			return fmt.Errorf("get %s (is the network up?): %w", strings.Join(packages, ", "), err)
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != len(packages) {
		return fmt.Errorf("want %d package files, got %d", len(packages), len(debs))
	}
	for _, deb := range debs {
		if err := run(ctx, tmp, nil, "dpkg", "-x", deb, "tree"); err != nil {
			return err
		}
	}
	for _, p := range programs {
		var from []string
		for _, bin := range []string{"bin", "sbin", "usr/bin", "usr/sbin"} {
			if file := filepath.Join(tmp, "tree", bin, p); isFile(file) {
				from = append(from, file)
			}
		}
		if len(from) != 1 {
			return fmt.Errorf("the packages hold %d programs named %s, want one", len(from), p)
		}
		if err := os.Rename(from[0], filepath.Join(dir, p)); err != nil {
			return fmt.Errorf("unpack packages: %w", err)
		}
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// run runs a program in dir; what it printed is in the error.
func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, lastLines(out.String(), 20))
	}
	return nil
}

// lastLines is the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// What the base holds.
var (
	programs = []string{"ip", "bridge", "tc", "ethtool", "ping"}
	modules  = []string{"igb", "igbvf", "vfio-pci", "vfio_iommu_type1", "uio_pci_generic", "8021q", "veth", "dummy", "bridge", "macvlan", "ipvlan", "vrf", "overlay", "nlmon", "tun", "sch_prio", "sch_ingress", "cls_matchall", "act_gact"}
	loaded   = []string{"igb", "igbvf", "vfio-pci", "vfio_iommu_type1"}
)

const kernelPackage = "linux-image-amd64"

// sources are part of the recipe: who changes how the base is made gets a new one.
//
//go:embed base.go kernel.go cpio.go
var sources embed.FS

// base is the part of the guest that is the same in every run.
type base struct{ kernel, initrd string }

// makeBase returns the base that is in the folder cache; one is made if there is
// none yet or its recipe has changed.
func makeBase(ctx context.Context, cache string) (base, error) {
	digest, err := recipe()
	if err != nil {
		return base{}, err
	}
	cache, err = filepath.Abs(cache) // it is worked in
	if err != nil {
		return base{}, fmt.Errorf("find the cache: %w", err)
	}
	dir := filepath.Join(cache, digest)
	b := base{kernel: filepath.Join(dir, "vmlinux"), initrd: filepath.Join(dir, "base.cpio")}
	if _, err := os.Stat(dir); err == nil {
		return b, nil
	}
	fmt.Fprintf(os.Stderr, "guest: making the base in %s\n", dir)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return base{}, fmt.Errorf("make the cache: %w", err)
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return base{}, fmt.Errorf("make the cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, "base")
	if err := os.Mkdir(made, 0o755); err != nil {
		return base{}, fmt.Errorf("make the cache: %w", err)
	}
	if err := fillBase(ctx, tmp, made); err != nil {
		return base{}, fmt.Errorf("make the guest's base: %w", err)
	}
	old, err := os.ReadDir(cache)
	if err != nil {
		return base{}, fmt.Errorf("read the cache: %w", err)
	}
	// Another run may have been faster: its base is as good.
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return base{}, fmt.Errorf("keep the guest's base: %w", err)
	}
	for _, e := range old {
		if e.Name() != digest && !strings.HasPrefix(e.Name(), "new-") {
			_ = os.RemoveAll(filepath.Join(cache, e.Name()))
		}
	}
	return b, nil
}

// recipe tells apart bases that differ: by how they are made and by which of the
// host's programs they hold.
func recipe() (string, error) {
	h := sha256.New()
	entries, err := sources.ReadDir(".")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		text, err := sources.ReadFile(e.Name())
		if err != nil {
			return "", err
		}
		h.Write(text)
	}
	for _, p := range append([]string{"busybox"}, programs...) {
		file, err := find(p)
		if err != nil {
			return "", err
		}
		info, err := os.Stat(file)
		if err != nil {
			return "", fmt.Errorf("look at %s: %w", p, err)
		}
		fmt.Fprintln(h, file, info.Size(), info.ModTime().UnixNano())
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// find returns where a program of the host is.
func find(program string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		p := filepath.Join(dir, program)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is missing on this machine: run rig/guest/packages.sh", program)
}

// fillBase puts kernel and initramfs into made, with tmp to work in.
func fillBase(ctx context.Context, tmp, made string) error {
	linux := filepath.Join(tmp, "linux")
	if err := fetchKernel(ctx, tmp, linux); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(linux, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("%s: want one kernel in it, got %d", kernelPackage, len(images))
	}
	if err := unpackKernel(ctx, images[0], filepath.Join(made, "vmlinux")); err != nil {
		return err
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	picked := filepath.Join(tmp, "picked")
	if err := pickModules(ctx, linux, picked, version); err != nil {
		return err
	}

	f, err := os.Create(filepath.Join(made, "base.cpio"))
	if err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	defer f.Close()
	buf := bufio.NewWriterSize(f, 1<<20)
	a := newArchive(buf)
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		a.dir("/usr/" + l)
		a.link("/"+l, "usr/"+l)
	}
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/lib/cni", "/opt/cni/bin", "/etc/cni/net.d", "/guest"} {
		a.dir(d)
	}
	a.link("/var/run", "/run")
	a.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	a.text("/etc/group", "root:x:0:\n")
	a.text("/etc/hosts", "127.0.0.1 localhost plexus-guest\n::1 localhost\n")
	a.text("/etc/modules", strings.Join(loaded, "\n")+"\n")
	a.tree("/usr/lib/modules", filepath.Join(picked, "lib", "modules"))
	if err := addPrograms(ctx, a); err != nil {
		return err
	}
	return errors.Join(a.close(), buf.Flush(), f.Close())
}

// addPrograms adds busybox, with a link for each of its commands, and the
// programs that it is no match for, with their libraries.
func addPrograms(ctx context.Context, a *archive) error {
	for _, p := range programs {
		file, err := find(p)
		if err != nil {
			return err
		}
		a.file("/usr/bin/"+p, file)
		libraries, err := output(ctx, "", "ldd", file)
		if err != nil {
			return err
		}
		for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(libraries, -1) {
			if dst := "/usr/" + strings.TrimPrefix(strings.TrimPrefix(m[1], "/usr"), "/"); !a.paths[path.Clean(dst)] {
				a.file(dst, m[1])
			}
		}
	}
	busybox, err := find("busybox")
	if err != nil {
		return err
	}
	commands, err := output(ctx, "", busybox, "--list")
	if err != nil {
		return err
	}
	a.file("/usr/bin/busybox", busybox)
	for _, c := range strings.Fields(commands) {
		a.link("/usr/bin/"+c, "busybox")
	}
	a.link("/usr/sbin/modprobe", "../bin/busybox") // where the kernel looks for it
	return a.err
}

// output runs a program of the host in dir and returns what it prints.
func output(ctx context.Context, dir string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var errs bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &errs
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is missing on this machine: run rig/guest/packages.sh", argv[0])
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}

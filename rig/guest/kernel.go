package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// fetchKernel unpacks Debian's newest kernel into linux; it is not installed.
func fetchKernel(ctx context.Context, tmp, linux string) error {
	// The machine's lists may be missing or too old for the mirror.
	get := func() error {
		out, err := output(ctx, tmp, "apt-cache", "depends", kernelPackage)
		if err != nil {
			return err
		}
		m := regexp.MustCompile(`Depends: (linux-image-\S+)`).FindStringSubmatch(out)
		if m == nil {
			return fmt.Errorf("apt-cache names no kernel that %s depends on", kernelPackage)
		}
		_, err = output(ctx, tmp, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", m[1])
		return err
	}
	if get() != nil {
		if _, err := output(ctx, tmp, "apt-get", "update", "-q"); err != nil {
			return err
		}
		if err := get(); err != nil {
			return fmt.Errorf("get %s (is the network up?): %w", kernelPackage, err)
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "linux-image-*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("get %s: want one package file, got %d", kernelPackage, len(debs))
	}
	_, err = output(ctx, tmp, "dpkg", "-x", debs[0], linux)
	return err
}

// unpackKernel takes the kernel itself out of the image: QEMU boots it as it is,
// and the guest would need seconds to unpack it.
func unpackKernel(ctx context.Context, image, to string) error {
	data, err := os.ReadFile(image)
	if err != nil {
		return fmt.Errorf("read the kernel: %w", err)
	}
	if at := bytes.Index(data, []byte("\xfd7zXZ\x00")); at >= 0 {
		packed := to + ".xz"
		if err := os.WriteFile(packed, data[at:], 0o644); err != nil {
			return fmt.Errorf("unpack the kernel: %w", err)
		}
		defer os.Remove(packed)
		plain, err := output(ctx, "", "xz", "-dc", "--single-stream", packed)
		if err != nil {
			return err
		}
		if strings.HasPrefix(plain, "\x7fELF") {
			data = []byte(plain)
		}
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		return fmt.Errorf("unpack the kernel: %w", err)
	}
	return nil
}

// pickModules copies the modules needed from linux, with those that they depend
// on, and writes modprobe's index of them.
func pickModules(ctx context.Context, linux, picked, version string) error {
	modprobe, err := find("modprobe")
	if err != nil {
		return err
	}
	depmod, err := find("depmod")
	if err != nil {
		return err
	}
	from, to := filepath.Join(linux, "lib/modules", version), filepath.Join(picked, "lib/modules", version)
	if _, err := os.Stat(from); err != nil { // a package of a merged /usr
		from = filepath.Join(linux, "usr/lib/modules", version)
		if err := os.Symlink("usr/lib", filepath.Join(linux, "lib")); err != nil {
			return fmt.Errorf("unpack the kernel: %w", err)
		}
	}
	if _, err := output(ctx, "", depmod, "-b", linux, version); err != nil {
		return err
	}
	argv := append([]string{modprobe, "-d", linux, "-S", version, "--show-depends", "-a"}, modules...)
	lines, err := output(ctx, "", argv...)
	if err != nil {
		return err
	}
	files := []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"}
	for _, l := range strings.Split(lines, "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "insmod" {
			_, rel, _ := strings.Cut(f[1], "/lib/modules/"+version+"/")
			files = append(files, rel)
		}
	}
	for _, rel := range files {
		data, err := os.ReadFile(filepath.Join(from, rel))
		if err == nil && strings.HasSuffix(rel, ".xz") {
			var plain string
			rel = strings.TrimSuffix(rel, ".xz")
			plain, err = output(ctx, from, "xz", "-dc", rel+".xz")
			data = []byte(plain)
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, rel), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("copy module %s: %w", path.Base(rel), err)
		}
	}
	_, err = output(ctx, "", depmod, "-b", picked, version)
	return err
}

package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript string

// writeInitrd writes the base and, over it, what this run adds.
func writeInitrd(file, base string, o *options) error {
	to, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	defer to.Close()
	from, err := os.Open(base)
	if err != nil {
		return fmt.Errorf("read the guest's base (remove %s to have it made again): %w", filepath.Dir(base), err)
	}
	defer from.Close()
	if _, err := io.Copy(to, from); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	buf := bufio.NewWriterSize(to, 1<<20)
	a := newArchive(buf)
	a.text("/init", initScript)
	if err := addBin(a, o.bin); err != nil {
		return err
	}
	program := path.Join("/guest", filepath.Base(o.program[0]))
	a.file(program, o.program[0])
	for _, w := range o.with {
		src, dst, given := strings.Cut(w, ":")
		if !given {
			dst = path.Join("/guest", filepath.Base(src))
		}
		if !path.IsAbs(dst) {
			return fmt.Errorf("-with %s: the path in the guest is not absolute", w)
		}
		a.tree(dst, src)
	}
	line := []string{"exec"}
	for _, w := range append([]string{program}, o.program[1:]...) {
		line = append(line, quote(w))
	}
	// The last entry: init takes the initramfs for whole if this is there.
	a.text("/guest/.run", strings.Join(line, " ")+"\n")
	if err := errors.Join(a.close(), buf.Flush(), to.Close()); err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	return nil
}

// addBin adds the programs in bin, without test binaries and guest itself.
func addBin(a *archive, bin string) error {
	entries, err := os.ReadDir(bin)
	if err != nil {
		return fmt.Errorf("read the folder of -bin (`make build plugins` fills it): %w", err)
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("look at guest itself: %w", err)
	}
	for _, e := range entries {
		src := filepath.Join(bin, e.Name())
		info, err := os.Stat(src)
		if err != nil {
			return fmt.Errorf("look at a program: %w", err)
		}
		if info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !strings.HasSuffix(src, ".test") && !os.SameFile(info, self) {
			a.file(path.Join("/opt/cni/bin", e.Name()), src)
		}
	}
	return nil
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// archive writes an initramfs: a cpio archive in the format newc. The first
// error stays; every call after it does nothing. Paths are those in the guest
// and absolute; the folders above them are made.
type archive struct {
	to    io.Writer
	ino   int
	paths map[string]bool
	inos  map[[2]uint64]int // of files with several names, by the host's device and inode
	err   error
}

func newArchive(to io.Writer) *archive {
	return &archive{to: to, paths: map[string]bool{"/": true}, inos: map[[2]uint64]int{}}
}

// fail keeps the first error.
func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *archive) dir(dst string) {
	if dst = path.Clean(dst); !a.paths[dst] {
		a.entry(dst, syscall.S_IFDIR|0o755, 2, 0, nil)
	}
}

// link makes a symbolic link, unless there is something at dst.
func (a *archive) link(dst, target string) {
	if !a.paths[path.Clean(dst)] {
		a.entry(dst, syscall.S_IFLNK|0o777, 1, int64(len(target)), bytes.NewReader([]byte(target)))
	}
}

func (a *archive) text(dst string, text string) {
	a.entry(dst, syscall.S_IFREG|0o755, 1, int64(len(text)), bytes.NewReader([]byte(text)))
}

// file adds a file of the host; symbolic links are followed. A file that is
// added under several names is held once.
func (a *archive) file(dst, src string) {
	if a.err != nil {
		return
	}
	f, err := os.Open(src)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.fail(err)
		return
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		a.fail(fmt.Errorf("%s is no file", src))
		return
	}
	mode := syscall.S_IFREG | int(info.Mode().Perm())
	id := [2]uint64{st.Dev, st.Ino}
	if ino, held := a.inos[id]; held {
		a.dir(path.Dir(dst))
		a.header(dst, ino, mode, 2, 0)
		return
	}
	a.entry(dst, mode, 2, info.Size(), f)
	a.inos[id] = a.ino
}

// tree adds a file or a folder with all that is below it.
func (a *archive) tree(dst, src string) {
	src, err := filepath.EvalSymlinks(src)
	if err != nil {
		a.fail(err)
		return
	}
	err = filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := path.Join(dst, rel)
		info, err := os.Stat(p)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			a.dir(to)
		case info.Mode().IsRegular():
			a.file(to, p)
		}
		return a.err
	})
	if err != nil {
		a.fail(err)
	}
}

// close ends the archive; another may follow it in the same file.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0, 1, 0)
	return a.err
}

// entry writes a new inode.
func (a *archive) entry(dst string, mode, names int, size int64, data io.Reader) {
	a.dir(path.Dir(dst))
	a.ino++
	a.header(dst, a.ino, mode, names, size)
	if a.err != nil || size == 0 {
		return
	}
	if _, err := io.CopyN(a.to, data, size); err != nil {
		a.fail(fmt.Errorf("write %s to the initramfs: %w", dst, err))
		return
	}
	a.pad(size)
}

// header writes what stands before the data.
func (a *archive) header(dst string, ino, mode, names int, size int64) {
	if a.err != nil {
		return
	}
	a.paths[path.Clean(dst)] = true
	name := strings.TrimPrefix(path.Clean(dst), "/")
	// inode, mode, uid, gid, nlink, mtime, size, device (2), device node (2), length of the name, checksum
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		ino, mode, 0, 0, names, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if _, err := io.WriteString(a.to, h); err != nil {
		a.fail(fmt.Errorf("write %s to the initramfs: %w", dst, err))
		return
	}
	a.pad(int64(len(h)))
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad(n int64) {
	if _, err := a.to.Write(make([]byte, -n&3)); err != nil {
		a.fail(err)
	}
}

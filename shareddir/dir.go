package shareddir

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dir is an open folder. Every name in it is one component, and is reached by the
// descriptor: a change of the path has no effect.
type dir struct {
	*os.File
	above *os.File // the folder that has it
	name  string   // in above
}

// foreignError is the error of a place that has a link, a file or a mount instead of a folder
// of plexus.
type foreignError struct{ place, is string }

func (e *foreignError) Error() string { return fmt.Sprintf("socket folder: %s %s", e.place, e.is) }

// noLinks forbids the kernel to follow a link, or to leave the starting folder (openat2(2),
// since Linux 5.6).
const noLinks = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openBelow opens a path below a folder, without following links.
func openBelow(above *os.File, path string, flags int, mode fs.FileMode, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode.Perm()), Resolve: noLinks | resolve}
	for {
		fd, err := unix.Openat2(int(above.Fd()), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(above.Name(), path)), nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case errors.Is(err, unix.ENOSYS):
			return nil, errors.New("this kernel has no openat2: Linux 5.6 or later is needed")
		default:
			return nil, &fs.PathError{Op: "open", Path: filepath.Join(above.Name(), path), Err: err}
		}
	}
}

const folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NONBLOCK

// openFolder opens the folder at a path below above.
func openFolder(above *os.File, path string, resolve uint64) (*os.File, error) {
	f, err := openBelow(above, path, folderFlags, 0, resolve)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil, obstacle(above.Name(), path)
	case errors.Is(err, unix.EXDEV):
		return nil, &foreignError{filepath.Join(above.Name(), path), "has something else mounted on it"}
	}
	return f, err
}

// obstacle describes the first component of a path that is no folder, for people.
func obstacle(above, path string) error {
	place := above
	for name := range strings.SplitSeq(path, "/") {
		place = filepath.Join(place, name)
		st, err := os.Lstat(place)
		switch {
		case err != nil:
			return &foreignError{place, "was replaced just now"}
		case st.Mode()&fs.ModeSymlink != 0:
			return &foreignError{place, "is a symbolic link, which is not followed"}
		case !st.IsDir():
			return &foreignError{place, "is no folder"}
		}
	}
	return &foreignError{place, "was replaced just now"}
}

// open opens the folder. The base of an own folder is the node's and may be a link;
// in a volume's path only the node's own links are followed.
func (f *Folder) open() (*dir, error) {
	above, name, err := f.openAbove()
	if err != nil {
		return nil, err
	}
	var resolve uint64
	if f.Own {
		resolve = unix.RESOLVE_NO_XDEV
	}
	opened, err := openFolder(above, name, resolve)
	if err != nil {
		_ = above.Close()
		return nil, err
	}
	return &dir{opened, above, name}, nil
}

// openAbove opens the parent of the folder, and returns the folder's name in it.
func (f *Folder) openAbove() (above *os.File, name string, err error) {
	if f.Own {
		above, err = os.OpenFile(filepath.Dir(f.Dir), folderFlags, 0)
		if errors.Is(err, unix.ENOTDIR) {
			err = &foreignError{filepath.Dir(f.Dir), "is no folder"}
		}
		return above, filepath.Base(f.Dir), err
	}
	place := nodePath(f.Dir)
	root, err := os.OpenFile("/", folderFlags, 0)
	if err != nil {
		return nil, "", err
	}
	parent := strings.TrimPrefix(filepath.Dir(place), "/")
	if parent == "" {
		return root, filepath.Base(place), nil
	}
	defer root.Close()
	above, err = openFolder(root, parent, 0)
	return above, filepath.Base(place), err
}

func (d *dir) close() {
	_ = d.Close()
	_ = d.above.Close()
}

// among are the uses of the folder: by its path, or by a short path, by which a vswitch knows it.
func (d *dir) among(path string, uses []Use) (same []Use, err error) {
	st, err := d.owner()
	if err != nil {
		return nil, err
	}
	var short []Use
	for _, u := range uses {
		switch {
		case u.Dir == path:
			same = append(same, u)
		case filepath.Dir(u.Dir) == ShortLinks:
			short = append(short, u)
		}
	}
	if len(short) == 0 {
		return same, nil
	}
	err = onHost(func() error {
		for _, u := range short {
			var other unix.Stat_t
			if unix.Stat(u.Dir, &other) == nil && isSame(st, other) {
				same = append(same, u)
			}
		}
		return nil
	})
	return same, err
}

func (d *dir) fd() int { return int(d.Fd()) }

// place is the path of a name, for people.
func (d *dir) place(name string) string { return filepath.Join(d.Name(), name) }

// failed adds the place to an error.
func (d *dir) failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.place(name), Err: err}
}

// stat returns the status of a name; its type in Mode is 0 when there is no file.
func (d *dir) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return unix.Stat_t{}, nil
	}
	return st, d.failed("stat", name, err)
}

func kind(st unix.Stat_t) uint32 { return st.Mode & unix.S_IFMT }

// unlink removes a name that is no folder. A link there is not followed.
func (d *dir) unlink(name string) error { return removeBelow(d.File, name, 0) }

// removeBelow removes a name in a folder: with unix.AT_REMOVEDIR an empty folder, else a file.
func removeBelow(above *os.File, name string, flags int) error {
	err := unix.Unlinkat(int(above.Fd()), name, flags)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: "remove", Path: filepath.Join(above.Name(), name), Err: err}
}

// removeAny removes a file or an empty folder.
func removeAny(above *os.File, name string) error {
	err := removeBelow(above, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = removeBelow(above, name, unix.AT_REMOVEDIR)
	}
	return err
}

func isNotEmpty(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)
}

// rmdir removes the folder itself if it is empty, and reports whether it is gone.
func (d *dir) rmdir() (gone bool, err error) {
	err = removeBelow(d.above, d.name, unix.AT_REMOVEDIR)
	switch {
	case err == nil, errors.Is(err, unix.ENOTDIR): // a link has replaced it
		return true, nil
	case isNotEmpty(err), errors.Is(err, unix.EBUSY): // a mount
		return false, nil
	}
	return false, err
}

// hasListener reports whether somebody has the socket of a name open; one that is left
// from before refuses. A datagram socket is asked with, which can connect neither to
// memif's kind nor to vhost-user's (EPROTOTYPE, unix(7)): the listener does not notice.
func (d *dir) hasListener(name string) (bool, error) {
	f, err := openBelow(d.File, name, unix.O_PATH|unix.O_NOFOLLOW, 0, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return Listens(f), nil
}

// Listens reports whether somebody listens at a socket that is open.
func Listens(socket *os.File) bool {
	c, err := net.Dial("unixgram", procPath(socket))
	if err == nil {
		_ = c.Close()
		return true
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
}

// procPath leads to the open file itself, even after its path has changed (proc_pid_fd(5)).
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

package delegates

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// linkNew makes a file that is not there yet, whole: it has no name before it has
// its content (open(2), O_TMPFILE). fs.ErrExist says that there is one,
// errors.ErrUnsupported that the file system knows no file without a name. fsync(2)
// of what it returns has name and content on the disk: ext4, XFS and btrfs write both
// in one transaction.
func linkNew(name string, data []byte) (*os.File, error) {
	fd, err := unix.Open(filepath.Dir(name), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, errors.ErrUnsupported
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	switch err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); {
	case errors.Is(err, fs.ErrExist):
		_ = f.Close()
		return nil, fs.ErrExist
	case err != nil:
		_ = f.Close()
		return nil, errors.ErrUnsupported
	}
	return f, nil
}

// openFile opens a regular file. os.OpenFile finds out first, by four calls of the kernel,
// whether it can be polled.
func openFile(name string, flags int, perm uint32) (*os.File, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, perm)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// writeFile is os.WriteFile that makes the folder when it is missing, and follows no
// link at the file's place.
func writeFile(name string, data []byte, perm uint32, folder fs.FileMode) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_NOFOLLOW
	f, err := openFile(name, flags, perm)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(name), folder); err == nil {
			f, err = openFile(name, flags, perm)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// beside is what the name of a file ends with that will replace another one.
const beside = ".new"

func replaceFile(name string, data []byte, durable bool) error {
	f, err := os.OpenFile(name+beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+beside, name); err != nil {
		return err
	}
	if !durable {
		return nil
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

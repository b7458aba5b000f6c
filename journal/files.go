package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/file"
)

// FileSystem are the file operations of the journal. It is an interface for the test that
// cuts the power between any two of them.
type FileSystem interface {
	file.Disk
	ReadFile(name string) ([]byte, error)
	// Unnamed makes a file without a name on the file system of a folder (open(2),
	// O_TMPFILE), or fails with errors.ErrUnsupported.
	Unnamed(dir string) (file.Handle, error)
	// Append opens an existing file, to write at its end.
	Append(name string) (file.Handle, error)
	// Link gives a file of Unnamed its name, fs.ErrExist when another file has it.
	Link(f file.Handle, name string) error
}

// osFiles is the FileSystem of this machine.
type osFiles struct{ file.Local }

func (osFiles) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

func (osFiles) Unnamed(dir string) (file.Handle, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	case err != nil:
		return nil, errors.ErrUnsupported
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func (osFiles) Append(name string) (file.Handle, error) {
	for { // os.OpenFile would take four more system calls, to find out whether the file can be polled
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func (osFiles) Link(f file.Handle, name string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.(*os.File).Fd()), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fs.ErrExist
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
		return &fs.PathError{Op: "link", Path: name, Err: err}
	case err != nil:
		return errors.ErrUnsupported
	}
	return nil
}

// linkNew makes a new file whose name appears with its whole content. fs.ErrExist: there is a
// file of that name; errors.ErrUnsupported: the file system has no files without a name.
// Content and name are on the disk when Sync and SyncFolder have returned.
func linkNew(files FileSystem, name string, data []byte) (file.Handle, error) {
	f, err := files.Unnamed(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(data); err == nil {
		err = files.Link(f, name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// WriteNew makes a new file whose name appears with its whole content, on this machine's file
// system. Errors are those of linkNew.
func WriteNew(name string, data []byte) error {
	f, err := linkNew(osFiles{}, name, data)
	if err != nil {
		return err
	}
	return f.Close()
}

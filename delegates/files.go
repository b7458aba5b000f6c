package delegates

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fileSystem is what the journal asks of a file system. It is an interface for the
// test that cuts the power between any two of its calls.
type fileSystem interface {
	ReadFile(name string) ([]byte, error)
	// Mkdir makes one folder, fs.ErrExist when it is there.
	Mkdir(name string) error
	// Unnamed makes a file without a name on the file system of a folder (open(2),
	// O_TMPFILE), errors.ErrUnsupported when that knows none.
	Unnamed(dir string) (openedFile, error)
	// Create makes an empty file, or empties it.
	Create(name string) (openedFile, error)
	// Append opens a file that is there, to write at its end.
	Append(name string) (openedFile, error)
	// Link gives a file of Unnamed its name, fs.ErrExist when that is taken.
	Link(f openedFile, name string) error
	Rename(from, to string) error
	Remove(name string) error
	// SyncFolder has the names in a folder on the disk when it returns.
	SyncFolder(dir string) error
}

// openedFile is a file that is written. Sync has its content on the disk, its name not.
type openedFile interface {
	io.WriteCloser
	Sync() error
}

// osFiles is the fileSystem of this machine.
type osFiles struct{}

func (osFiles) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
func (osFiles) Mkdir(name string) error              { return os.Mkdir(name, 0o700) }
func (osFiles) Rename(from, to string) error         { return os.Rename(from, to) }
func (osFiles) Remove(name string) error             { return os.Remove(name) }

func (osFiles) Unnamed(dir string) (openedFile, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	case err != nil:
		return nil, errors.ErrUnsupported
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func (osFiles) Create(name string) (openedFile, error) {
	return openFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
}

func (osFiles) Append(name string) (openedFile, error) {
	return openFile(name, unix.O_WRONLY|unix.O_APPEND, 0)
}

func (osFiles) Link(f openedFile, name string) error {
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

func (osFiles) SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// linkNew makes a file that is not there yet, whole: it has no name before it has its
// content. fs.ErrExist says that there is one, errors.ErrUnsupported that the file
// system knows no file without a name. Neither content nor name is on the disk before
// Sync and SyncFolder have returned.
func linkNew(files fileSystem, name string, data []byte) (openedFile, error) {
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

// beside is what the name of a file ends with that will replace another one.
const beside = ".new"

// replaceFile writes a file in one step: at any time, after a loss of power too, the
// name stands for what was there before, or for data. When it returns, data is on the
// disk.
func replaceFile(files fileSystem, name string, data []byte) error {
	f, err := files.Create(name + beside)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := files.Rename(name+beside, name); err != nil {
		return err
	}
	return files.SyncFolder(filepath.Dir(name))
}

// makeFolder makes a folder and those above it. Those that it made are on the disk
// when it returns.
func makeFolder(files fileSystem, dir string) error {
	err := files.Mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeFolder(files, filepath.Dir(dir)); err != nil {
			return err
		}
		err = files.Mkdir(dir)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil // a file of that name is found by the next call
	case err != nil:
		return err
	}
	return files.SyncFolder(filepath.Dir(dir))
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

// writeFile is os.WriteFile that makes the folder when it is missing, and follows no link
// at the file's place. A loss of power may leave any part of the file: it is for what can
// be lost.
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

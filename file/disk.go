package file

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Disk are the file operations of writing a file in place. It is an interface for tests in
// which one of the calls fails, or the power is cut between two of them.
type Disk interface {
	// Mkdir makes one folder, fs.ErrExist when something has its name.
	Mkdir(name string, mode fs.FileMode) error
	// Create makes an empty file with these permissions, fs.ErrExist when something has
	// its name.
	Create(name string, mode fs.FileMode) (Handle, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncFolder writes the names in a folder to the disk.
	SyncFolder(dir string) error
}

// Handle is a file that is open for writing. Sync writes its content to the disk, not its name.
type Handle interface {
	io.WriteCloser
	Sync() error
}

// Local is the Disk of this machine.
type Local struct{}

// Mkdir is os.Mkdir.
func (Local) Mkdir(name string, mode fs.FileMode) error { return os.Mkdir(name, mode) }

// Rename is os.Rename.
func (Local) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is os.Remove.
func (Local) Remove(name string) error { return os.Remove(name) }

// Create is Disk.Create. It follows no link.
func (Local) Create(name string, mode fs.FileMode) (Handle, error) {
	f, err := Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(mode.Perm()); err != nil { // the umask has cleared some bits
		return nil, errors.Join(err, f.Close(), os.Remove(name))
	}
	return f, nil
}

// Open opens a regular file; flags are those of open(2). os.OpenFile would take more system
// calls, to find out whether the file can be polled.
func Open(name string, flags int, mode fs.FileMode) (*os.File, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, uint32(mode.Perm()))
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// SyncFolder is Disk.SyncFolder.
func (Local) SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

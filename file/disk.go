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

// Create is Disk.Create. It follows no link. os.OpenFile would take four more system
// calls, to find out whether the file can be polled.
func (Local) Create(name string, mode fs.FileMode) (Handle, error) {
	for {
		fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, uint32(mode.Perm()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		f := os.NewFile(uintptr(fd), name)
		if err := f.Chmod(mode.Perm()); err != nil { // the umask has cleared some bits
			return nil, errors.Join(err, f.Close(), os.Remove(name))
		}
		return f, nil
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

// Package file writes a file in place: a reader of its path finds the former content or
// the new one, whole, however the writer ends.
package file

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
)

// Ending is the ending of a temporary file's name, unless Replacement.Temp names it.
const Ending = ".new"

// Replacement is a new or replaced file. A symbolic link at its path is replaced too: no link
// is followed. The file belongs to the user of this process.
type Replacement struct {
	Path string
	Mode fs.FileMode // permissions, whatever the umask is
	// Temp is the name of the temporary file in the folder of Path; "" stands for the
	// name of Path with Ending. One writer at a time may use it: callers have a lock. A
	// process that is killed leaves the file, and the next Write removes it.
	Temp string
	// Volatile skips fsync: a loss of power may leave an empty file.
	Volatile bool
	Disk     Disk // nil is Local
}

// Write puts the content at the path: temporary file, fsync, rename, fsync of the folder.
// When it returns nil, the file outlasts a loss of power, unless it is Volatile. After an
// error there is no temporary file, and the former file is there, unless the error is that
// of the folder's fsync. Errors name the file.
func (r Replacement) Write(content io.Reader) error {
	disk := r.Disk
	if disk == nil {
		disk = Local{}
	}
	temp := filepath.Join(filepath.Dir(r.Path), cmp.Or(r.Temp, filepath.Base(r.Path)+Ending))
	err := r.writeTemp(disk, temp, content)
	if err == nil {
		err = disk.Rename(temp, r.Path)
	}
	if err != nil {
		_ = disk.Remove(temp)
		return err
	}
	if r.Volatile {
		return nil
	}
	return disk.SyncFolder(filepath.Dir(r.Path))
}

func (r Replacement) writeTemp(disk Disk, temp string, content io.Reader) error {
	f, err := disk.Create(temp, r.Mode)
	if errors.Is(err, fs.ErrExist) { // the file of a writer that was killed
		if err = disk.Remove(temp); err == nil {
			f, err = disk.Create(temp, r.Mode)
		}
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil && !r.Volatile {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// MakeFolder makes a folder and those above it that are missing. Those that it made
// outlast a loss of power. A file of that name is no error here, but one of the next call
// that uses the folder.
func MakeFolder(disk Disk, dir string, mode fs.FileMode) error {
	err := disk.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := MakeFolder(disk, filepath.Dir(dir), mode); err != nil {
			return err
		}
		err = disk.Mkdir(dir, mode)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return disk.SyncFolder(filepath.Dir(dir))
}

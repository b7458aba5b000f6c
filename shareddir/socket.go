package shareddir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Vacant refuses a socket's place with a file of another kind, and with listen a socket that
// has a listener. fileKey is the configuration key of the socket's name.
func (f *Folder) Vacant(file, fileKey string, listen bool) error {
	d, err := f.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	defer d.close()
	return d.vacant(file, fileKey, listen)
}

func (d *dir) vacant(file, fileKey string, listen bool) error {
	st, err := d.stat(file)
	switch {
	case err != nil:
		return fmt.Errorf("socket folder: %w", err)
	case kind(st) == 0:
		return nil
	case kind(st) != unix.S_IFSOCK:
		return fmt.Errorf("%s exists and is no socket: remove it, or choose another %q", d.place(file), fileKey)
	case !listen:
		return nil
	}
	listened, err := d.hasListener(file)
	if err == nil && listened {
		err = fmt.Errorf("somebody listens at %s: choose another %q", d.place(file), fileKey)
	}
	return err
}

// Listened reports whether a socket in the folder has a listener.
func (f *Folder) Listened(file string) bool {
	d, err := f.open()
	if err != nil {
		return false
	}
	defer d.close()
	listened, err := d.hasListener(file)
	return err == nil && listened
}

// OpenSocket opens a socket without connecting to it, so that exactly that one can be
// linked. run is the node's folder; path is below it, and is not trusted: links are
// not followed, and the path cannot lead out of run.
func OpenSocket(run, path string) (*os.File, error) {
	if !filepath.IsLocal(path) {
		return nil, fmt.Errorf("socket %.200q: want a path below %s", path, run)
	}
	above, err := os.OpenFile(run, folderFlags, 0)
	if err != nil {
		return nil, err
	}
	defer above.Close()
	f, err := openBelow(above, filepath.Clean(path), unix.O_PATH|unix.O_NOFOLLOW, 0, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || kind(st) != unix.S_IFSOCK {
		return nil, errors.Join(fmt.Errorf("%s is no socket", f.Name()), err, f.Close())
	}
	return f, nil
}

// RemoveStale removes a socket that nobody listens at. run and path are those of OpenSocket.
// Where there is none nothing is done.
func RemoveStale(run, path string) error {
	above, err := os.OpenFile(run, folderFlags, 0)
	if err != nil || !filepath.IsLocal(path) {
		return nil //nolint:nilerr // there is no socket
	}
	defer above.Close()
	f, err := openBelow(above, filepath.Dir(filepath.Clean(path)), folderFlags, 0, 0)
	if err != nil {
		return nil //nolint:nilerr // there is no socket
	}
	defer f.Close()
	return (&dir{File: f}).removeSocket(filepath.Base(path), false)
}

// Linked reports whether a name in the folder is the socket itself.
func (f *Folder) Linked(origin *os.File, file string) (bool, error) {
	d, err := f.open()
	if err != nil {
		return false, err
	}
	defer d.close()
	return d.linked(origin, file)
}

func (d *dir) linked(origin *os.File, file string) (bool, error) {
	st, err := d.stat(file)
	if err != nil {
		return false, err
	}
	var of unix.Stat_t
	if err := unix.Fstat(int(origin.Fd()), &of); err != nil {
		return false, err
	}
	return st.Dev == of.Dev && st.Ino == of.Ino, nil
}

// LinkSocket makes the vswitch's socket visible in the folder: a hard link, as
// a symbolic one would lead out of the pod. It replaces a socket of that name, in a
// volume only one without a listener, and refuses any other file. fileKey is the configuration
// key of the socket's name.
func (f *Folder) LinkSocket(origin *os.File, file, fileKey string) error {
	d, err := f.open()
	if err != nil {
		return err
	}
	defer d.close()
	there, err := d.linked(origin, file)
	if err != nil {
		return err
	}
	if err := d.openToFolder(origin, f.GID); err != nil { // before the pod sees it
		return fmt.Errorf("permissions of socket %s: %w", origin.Name(), err)
	}
	if there {
		return nil
	}
	if err := d.vacant(file, fileKey, !f.Own); err != nil {
		return err
	}
	if err := d.removeSocket(file, true); err != nil {
		return err
	}
	err = unix.Linkat(unix.AT_FDCWD, procPath(origin), d.fd(), file, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("link %s to %s: they are on different file systems: put the folder beside the vswitch's, or use \"mode\": \"client\"", origin.Name(), f.Dir)
	}
	if err != nil {
		return fmt.Errorf("link %s to %s: %w", origin.Name(), d.place(file), err)
	}
	return nil
}

// Check compares the folder with what Make made. With listening the vswitch's
// socket has to be there as well; a socket that the pod makes comes and goes. What is no
// socket is an error at any time: the vswitch would follow a link to where the pod wants it.
func (f *Folder) Check(listening bool, file string) error {
	d, err := f.open()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket folder %s is gone", f.Dir)
	}
	if err != nil {
		return err
	}
	defer d.close()
	if is, err := f.shortOf(d); is != shortRight || err != nil {
		return errors.Join(fmt.Errorf("short path %s of %s is gone or changed", f.Link, f.Dir), err)
	}
	st, err := d.stat(file)
	switch {
	case err != nil:
		return err
	case kind(st) == 0 && listening:
		return fmt.Errorf("socket %s is gone", f.Place(file))
	case kind(st) == unix.S_IFLNK:
		return fmt.Errorf("%s is no socket any more: a symbolic link is there, which plexus has not made", f.Place(file))
	case kind(st) != 0 && kind(st) != unix.S_IFSOCK:
		return fmt.Errorf("%s is no socket any more", f.Place(file))
	}
	return nil
}

// Missing lists what Make and WriteFile made and is gone: folder, short path, and
// the configuration file, "" for none.
func (f *Folder) Missing(config string) (gone []string, err error) {
	d, err := f.open()
	switch {
	case err == nil:
		defer d.close()
	case errors.Is(err, fs.ErrNotExist):
		gone = append(gone, "folder "+f.Dir)
	default:
		return nil, err
	}
	if is, err := f.shortOf(d); err != nil {
		return nil, err
	} else if is == shortGone || is == shortOther {
		gone = append(gone, "short path "+f.Link)
	}
	if config == "" {
		return gone, nil
	}
	if d != nil {
		if st, err := d.stat(config); err != nil || kind(st) != 0 {
			return gone, err
		}
	}
	return append(gone, "file "+f.Place(config)), nil
}

package shareddir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// madeMark is an extended attribute of a volume's folder that plexus has made. The
// kernel lets no pod set one of that class (xattr(7)). So the last attachment of the
// folder may remove it, even if another attachment made it. On a file system
// without such attributes only the record of the attachment that made the folder says so.
const madeMark = "trusted.plexus.made"

// marked reports whether plexus has made the folder.
func (d *dir) marked() bool {
	_, err := unix.Fgetxattr(d.fd(), madeMark, nil)
	return err == nil
}

// owner is the folder's own inode.
func (d *dir) owner() (st unix.Stat_t, err error) {
	return st, d.failed("stat", "", unix.Fstat(d.fd(), &st))
}

// onlyOurs refuses an own folder with files that plexus does not make, as the folder will be
// removed with its content.
func (d *dir) onlyOurs() error {
	entries, err := d.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket && !strings.HasPrefix(e.Name(), ConfigPrefix) {
			return fmt.Errorf("socket folder %s holds what plexus has not put there, %q for one: remove it, or name another socketDir", d.Name(), e.Name())
		}
	}
	return nil
}

// Make makes the folder, its group and permissions, and the short path. The base of
// an own folder is made when it is missing; the folders above a hostPath only where a file of
// the node wants it. An emptyDir is the kubelet's to make.
func (f *Folder) Make() error {
	d, made, err := f.make()
	if err != nil {
		return fmt.Errorf("make socket folder %s: %w", f.Dir, err)
	}
	defer d.close()
	if made && !f.Own {
		_ = unix.Fsetxattr(d.fd(), madeMark, []byte("1"), 0)
	}
	if err := f.setAccess(d, made); err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	return f.makeShort(d)
}

// setAccess gives the folder its group and its permissions. Those of a hostPath that plexus has
// not made stay.
func (f *Folder) setAccess(d *dir, made bool) error {
	st, err := d.owner()
	volume := f.FormerGID != nil && f.isEmptyDir()
	ours := made || f.Own || volume || f.GID >= 0 && d.marked()
	switch {
	case err != nil:
		return err
	case !ours && f.GID >= 0 && int(st.Gid) != f.GID:
		return fmt.Errorf("%s was made by somebody else just now: its group stays", f.Dir)
	case !ours:
		return nil
	case volume && f.FormerPerm != nil: // a record of a former version has none
		if err := f.mayGive(st); err != nil {
			return err
		}
		_ = unix.Fsetxattr(d.fd(), formerMark, fmt.Appendf(nil, "%o %o", *f.FormerGID, bits(*f.FormerPerm)), 0)
	}
	if f.GID >= 0 && int(st.Gid) != f.GID {
		err = d.failed("chown", "", unix.Fchown(d.fd(), -1, f.GID))
	}
	if err == nil && (!volume || f.FormerPerm != nil) { // after chown, which takes the setgid bit away
		err = d.failed("chmod", "", unix.Fchmod(d.fd(), bits(f.Perm)))
	}
	return err
}

// make opens the folder, and makes it if it is not there.
func (f *Folder) make() (d *dir, made bool, err error) {
	if f.Own {
		err = os.MkdirAll(filepath.Dir(f.Dir), 0o755) // the base is the node's
	} else if f.Above {
		err = makeAbove(nodePath(f.Dir))
	}
	if err != nil {
		return nil, false, err
	}
	above, name, err := f.openAbove()
	if err != nil {
		return nil, false, err
	}
	if !f.isEmptyDir() {
		err = unix.Mkdirat(int(above.Fd()), name, uint32(f.Perm.Perm()))
		made = err == nil
	}
	_ = above.Close()
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, false, &fs.PathError{Op: "mkdir", Path: f.Dir, Err: err}
	}
	d, err = f.open()
	return d, made, err
}

// makeAbove makes the folders above that of a hostPath, one below the other.
func makeAbove(path string) error {
	at, err := os.OpenFile("/", folderFlags, 0)
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }()
	for name := range strings.SplitSeq(strings.TrimPrefix(filepath.Dir(path), "/"), "/") {
		err := unix.Mkdirat(int(at.Fd()), name, 0o755)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &fs.PathError{Op: "mkdir", Path: filepath.Join(at.Name(), name), Err: err}
		}
		below, err := openFolder(at, name, 0)
		if err != nil {
			return err
		}
		_ = at.Close()
		at = below
	}
	return nil
}

// WriteFile hands the container a file beside the socket. It replaces a file or
// a link of that name and follows none.
func (f *Folder) WriteFile(name string, data []byte) error {
	d, err := f.open()
	if err != nil {
		return err
	}
	defer d.close()
	left, err := d.removeConfig(name)
	if left {
		err = fmt.Errorf("%s is no regular file: remove it", d.place(name))
	}
	if err != nil {
		return err
	}
	file, err := openBelow(d.File, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o644, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

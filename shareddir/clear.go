package shareddir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Clearing are the parameters of Clear.
type Clearing struct {
	Log    *slog.Logger
	Others []Use // uses of attachments that remain
	// Recorded: the journal has the use. Otherwise it was derived from a configuration or
	// a mark of ownership.
	Recorded bool
	// Origin is the vswitch's socket that LinkSocket has linked, nil if it is gone, or if
	// the pod makes the socket.
	Origin *os.File
}

// Clear removes the socket, the configuration file and the short path. Sockets,
// group and folder of attachments that remain (Others) stay. With the last attachment an
// emptyDir gets its group and permissions back, and a volume's folder that plexus made is removed if it is
// empty. An own folder is removed too: with all files of the pod in it if the attachment is
// recorded, otherwise if it is empty. A path that no longer leads to a folder of plexus is
// logged and left alone.
func (u *Use) Clear(c Clearing) error {
	if err := u.removeShort(); err != nil {
		return err
	}
	d, err := u.open()
	var other *foreignError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.As(err, &other):
		c.Log.Warn("a socket folder is no longer the one that plexus used: it is left alone", "folder", u.Dir, "why", err)
		return nil
	case err != nil:
		return fmt.Errorf("socket folder: %w", err)
	}
	defer d.close()
	shared, err := u.clearNames(c, d)
	if err != nil || shared {
		return err
	}
	if err := u.restoreAccess(c, d); err != nil {
		return err
	}
	switch {
	case u.Own && c.Recorded:
		return d.removeAll(c.Log)
	case u.Own, u.Made, d.marked():
		_, err = d.rmdir() // files of the pod stay
	}
	return err
}

// clearNames removes the attachment's files from the folder, and reports whether other
// attachments share it.
func (u *Use) clearNames(c Clearing, d *dir) (shared bool, err error) {
	socketTaken, configTaken := u.File == "", u.Config == ""
	others, err := d.among(u.Dir, c.Others)
	if err != nil {
		return true, err
	}
	for _, other := range others {
		shared = true
		socketTaken = socketTaken || other.File == u.File
		configTaken = configTaken || other.Config == u.Config
	}
	if !configTaken {
		left, err := d.removeConfig(u.Config)
		if err != nil {
			return shared, err
		}
		if left {
			c.Log.Warn("what stands at the name of a configuration file is no file: it is left alone", "place", d.place(u.Config))
		}
	}
	if socketTaken {
		return shared, nil
	}
	all := u.Own
	if c.Origin != nil && !all {
		if all, err = d.linked(c.Origin, u.File); err != nil {
			return shared, err
		}
	}
	return shared, d.removeSocket(u.File, all)
}

// restoreAccess gives an emptyDir its former group and permissions. Other folders have no former group; only a
// record of a former version of plexus may have one for a hostPath.
func (u *Use) restoreAccess(c Clearing, d *dir) error {
	switch {
	case u.FormerGID == nil || u.Own || !c.Recorded:
		return nil
	case !u.isEmptyDir():
		c.Log.Warn("the group of a folder that is no emptyDir is not given back", "folder", u.Dir, "group", *u.FormerGID)
		return nil
	}
	err := d.failed("chown", "", unix.Fchown(d.fd(), -1, *u.FormerGID))
	if err == nil && u.FormerPerm != nil {
		err = d.failed("chmod", "", unix.Fchmod(d.fd(), bits(*u.FormerPerm)))
		_ = unix.Fremovexattr(d.fd(), formerMark)
	}
	return err
}

// removeSocket removes a socket. A file of another kind stays. Unless all is set, a socket with
// a listener stays too: it can be a service of the node, in a hostPath that a pod has chosen.
func (d *dir) removeSocket(name string, all bool) error {
	st, err := d.stat(name)
	if err != nil || kind(st) != unix.S_IFSOCK {
		return err
	}
	if !all {
		listened, err := d.hasListener(name)
		if err != nil || listened {
			return err
		}
	}
	return d.unlink(name)
}

// removeConfig removes a configuration file, or a link at its place. Anything else is
// the pod's, and is left.
func (d *dir) removeConfig(name string) (left bool, err error) {
	st, err := d.stat(name)
	switch {
	case err != nil || kind(st) == 0:
		return false, err
	case kind(st) == unix.S_IFREG, kind(st) == unix.S_IFLNK:
		return false, d.unlink(name)
	}
	return true, nil
}

// Bounds of a removal: a pod that still runs may fill the folder meanwhile.
const (
	maxPasses = 100_000 // over the folder; each removes one level of nested folders
	batch     = 512     // names that are read at once
)

// removeAll removes the folder with its content. It follows no links and enters no mount. It
// lifts nested folders into the folder itself, level by level, as they may be deeper than the
// longest path.
func (d *dir) removeAll(log *slog.Logger) error {
	mounted := map[string]bool{}
	lifted := 0
	for range maxPasses {
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("socket folder: %w", err)
		}
		names, err := d.Readdirnames(batch + len(mounted))
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("socket folder: %w", err)
		}
		left := 0
		for _, name := range names {
			if mounted[name] {
				continue
			}
			left++
			var other *foreignError
			switch err := d.removeTree(name, &lifted); {
			case errors.As(err, &other), errors.Is(err, unix.EBUSY):
				mounted[name] = true
				log.Warn("something is mounted in a socket folder: it is left alone", "place", d.place(name))
			case err != nil:
				return fmt.Errorf("socket folder: %w", err)
			}
		}
		if left > 0 {
			continue
		}
		if gone, err := d.rmdir(); err != nil || gone || len(mounted) > 0 {
			return err
		}
	}
	return fmt.Errorf("socket folder %s: it is filled faster than it is emptied", d.Name())
}

// removeTree removes a name. Of a folder that is not empty it removes files and empty
// folders, and lifts the others into d.
func (d *dir) removeTree(name string, lifted *int) error {
	err := removeAny(d.File, name)
	if !isNotEmpty(err) {
		return err
	}
	below, err := openFolder(d.File, name, unix.RESOLVE_NO_XDEV)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer below.Close()
	for {
		names, err := below.Readdirnames(batch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, inner := range names {
			if err := d.lift(below, inner, lifted); err != nil {
				return err
			}
		}
	}
}

// lift removes a name from a folder in d, or moves it into d if it is a folder.
func (d *dir) lift(below *os.File, name string, lifted *int) error {
	err := removeAny(below, name)
	for isNotEmpty(err) || errors.Is(err, unix.ENOTDIR) {
		*lifted++ // the pod may have made a file of that name
		if err = unix.Renameat(int(below.Fd()), name, d.fd(), fmt.Sprintf(".plexus-removes-%d", *lifted)); err != nil {
			err = &fs.PathError{Op: "remove", Path: filepath.Join(below.Name(), name), Err: err}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Package shareddir is the folder that a pod and the node's vswitch share: the
// sockets of vhost-user and memif are in it, and what a container reads about
// them. It is the pod's volume shared-dir, as userspace-cni has it, or a folder
// of the sandbox's own. The pod may write to it: nothing in it is followed or
// trusted, and files are reached through os.Root.
package shareddir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// Folder is the folder of one attachment, as decided before anything is changed
// and as recorded.
type Folder struct {
	Dir  string `json:"dir,omitempty"`
	Own  bool   `json:"own,omitempty"`  // the sandbox's own, below a base: made and removed by plexus
	Made bool   `json:"made,omitempty"` // a volume's folder that was not there: made by plexus, removed when empty
	Link string `json:"link,omitempty"` // a short path to Dir, made and removed by plexus
	// GID is the group that the folder gets, -1 for none; Perm the permissions
	// of an own folder.
	GID  int         `json:"gid"`
	Perm fs.FileMode `json:"perm,omitempty"`
	// Was is the group of a folder that is not our own, to be restored.
	Was *int `json:"was,omitempty"`
}

// Wish is what a configuration says of the folder.
type Wish struct {
	Base        string                   // folder below which a sandbox has its own
	Group       string                   // group of folder and socket
	Permissions string                   // of an own folder, octal
	Key         func(name string) string // what the user calls the keys group, permissions and file
	MaxPath     int                      // of a socket in bytes, where the vswitch takes less than MaxSocketPath
}

// ShortLinks is where links to folders are whose path is too long for a socket.
const ShortLinks = "/run/plexus/short"

// MaxSocketPath is the longest path of a unix socket, in bytes: sun_path has 108
// with the terminating zero (unix(7)).
const MaxSocketPath = 107

// ConfigPrefix begins the name of a configuration file.
const ConfigPrefix = "configData-"

// Short is how userspace-cni abbreviates a container ID in file names.
func Short(sandbox string) string { return sandbox[:min(12, len(sandbox))] }

// Choose picks the pod's volume shared-dir, else a folder of the sandbox below
// the base, and a short link when the socket's path would not fit. It changes
// nothing. unique names the attachment.
func Choose(w Wish, a conf.Attachment, file, unique string) (Folder, error) {
	f := Folder{GID: -1, Perm: 0o750}
	if dir := a.Pod.HostDir(conf.SharedDir); dir != "" {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
			return f, fmt.Errorf("pod %s: volume %s: path %.200q, want an absolute path below /", a.Pod, conf.SharedDir, dir)
		}
		f.Dir = filepath.Clean(dir)
	} else {
		f.Dir, f.Own = filepath.Join(w.Base, Short(a.Sandbox)), true
	}
	if w.Group != "" {
		g, err := user.LookupGroup(w.Group)
		if err != nil {
			return f, fmt.Errorf("key %q: %w", w.Key("group"), err)
		}
		if f.GID, err = strconv.Atoi(g.Gid); err != nil {
			return f, fmt.Errorf("key %q: %w", w.Key("group"), err)
		}
		f.Perm = 0o770
	}
	if w.Permissions != "" {
		mode, err := strconv.ParseUint(w.Permissions, 8, 32)
		if err != nil || mode > 0o777 {
			return f, fmt.Errorf("key %q: %.20q, want octal digits up to 0777", w.Key("permissions"), w.Permissions)
		}
		f.Perm = fs.FileMode(mode)
	}
	most := MaxSocketPath
	if w.MaxPath != 0 {
		most = w.MaxPath
	}
	if len(filepath.Join(f.Dir, file)) > most {
		f.Link = filepath.Join(ShortLinks, unique)
		if path := filepath.Join(f.Link, file); len(path) > most {
			return f, fmt.Errorf("socket path %s has %d bytes, at most %d are allowed: shorten %q", path, len(path), most, w.Key("file"))
		}
	}
	return f, f.look()
}

// Place is where the socket really is, whatever short link leads there.
func (f *Folder) Place(file string) string { return filepath.Join(f.Dir, file) }

// Valid refuses a recorded folder that plexus would not have chosen for the
// sandbox: files in it are removed, an own one with all that it holds.
func (f *Folder) Valid(sandbox, unique string) bool {
	return filepath.IsAbs(f.Dir) && filepath.Clean(f.Dir) == f.Dir && f.Dir != "/" &&
		(!f.Own || filepath.Base(f.Dir) == Short(sandbox)) &&
		(f.Link == "" || f.Link == filepath.Join(ShortLinks, unique))
}

// Inherit takes over what the attachments that share the folder know of its
// past: the last of them restores it.
func (f *Folder) Inherit(others []Use) {
	for _, other := range others {
		if other.Dir != f.Dir {
			continue
		}
		f.Made = f.Made || other.Made
		if other.Was != nil {
			f.Was = other.Was
		}
	}
}

// look reads what is at the folder's place now.
func (f *Folder) look() error {
	st, err := os.Lstat(f.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Made = !f.Own
		return nil
	case err != nil:
		return fmt.Errorf("socket folder: %w", err)
	case !st.IsDir():
		return fmt.Errorf("socket folder %s exists and is no folder (a symbolic link is not followed)", f.Dir)
	}
	if f.Own {
		return onlyOurs(f.Dir)
	}
	if f.GID >= 0 {
		var now unix.Stat_t
		if err := unix.Lstat(f.Dir, &now); err != nil {
			return fmt.Errorf("socket folder: %w", err)
		}
		gid := int(now.Gid)
		f.Was = &gid
	}
	return nil
}

// onlyOurs refuses to take a folder for the sandbox's own that holds what
// plexus would not have put there: the folder is removed one day.
func onlyOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket && !strings.HasPrefix(e.Name(), ConfigPrefix) {
			return fmt.Errorf("socket folder %s holds what plexus has not put there, %q for one: remove it, or name another socketDir", dir, e.Name())
		}
	}
	return nil
}

// Path is the socket's path as the vswitch is given it.
func (f *Folder) Path(file string) string {
	if f.Link != "" {
		return filepath.Join(f.Link, file)
	}
	return filepath.Join(f.Dir, file)
}

// Make makes the folder, its group and permissions, and the short link.
func (f *Folder) Make() error {
	err := os.Mkdir(f.Dir, f.Perm)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(f.Dir), 0o755); err == nil {
			err = os.Mkdir(f.Dir, f.Perm)
		}
	}
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("socket folder: %w", err)
	}
	err = f.Within(func(dir *os.Root) error {
		if made || f.Own {
			if err := dir.Chmod(".", f.Perm); err != nil {
				return err
			}
		}
		if f.GID >= 0 {
			return dir.Chown(".", -1, f.GID)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("socket folder %s: %w", f.Dir, err)
	}
	if f.Link == "" {
		return nil
	}
	if err := os.MkdirAll(ShortLinks, 0o755); err != nil {
		return fmt.Errorf("short link to %s: %w", f.Dir, err)
	}
	if at, err := os.Readlink(f.Link); err == nil && at == f.Dir {
		return nil
	}
	if err := os.Symlink(f.Dir, f.Link); err != nil {
		return fmt.Errorf("short link to %s: %w", f.Dir, err)
	}
	return nil
}

// Within opens the folder, not following a link at its place.
func (f *Folder) Within(do func(*os.Root) error) error {
	st, err := os.Lstat(f.Dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	there, err := root.Stat(".")
	if err != nil {
		return err
	}
	if !os.SameFile(st, there) {
		return fmt.Errorf("%s is a symbolic link, or was replaced", f.Dir)
	}
	return do(root)
}

// LinkSocket makes the vswitch's socket visible in the folder: a hard link, as
// a symbolic one would lead out of the pod.
func (f *Folder) LinkSocket(origin, file string) error {
	return f.Within(func(dir *os.Root) error {
		if err := removeFile(dir, file); err != nil {
			return err
		}
		d, err := dir.Open(".")
		if err != nil {
			return err
		}
		defer d.Close()
		err = unix.Linkat(unix.AT_FDCWD, origin, int(d.Fd()), file, 0)
		if errors.Is(err, unix.EXDEV) {
			return fmt.Errorf("link %s to %s: they are on different file systems: put the folder beside the vswitch's, or use \"mode\": \"client\"", origin, f.Dir)
		}
		if err != nil {
			return fmt.Errorf("link %s to %s: %w", origin, filepath.Join(f.Dir, file), err)
		}
		if f.GID >= 0 {
			if err := dir.Lchown(file, -1, f.GID); err != nil {
				return err
			}
			return dir.Chmod(file, 0o660)
		}
		return nil
	})
}

// Check compares the folder with what Make made. With listening the vswitch's
// socket has to be there as well; a socket that the pod makes comes and goes.
func (f *Folder) Check(listening bool, file string) error {
	if f.Link != "" {
		if at, err := os.Readlink(f.Link); err != nil || at != f.Dir {
			return fmt.Errorf("short link %s to %s is gone or changed", f.Link, f.Dir)
		}
	}
	err := f.Within(func(dir *os.Root) error {
		if !listening {
			return nil
		}
		st, err := dir.Lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("socket %s is gone", f.Place(file))
		}
		if err == nil && st.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("%s is no socket any more", f.Place(file))
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket folder %s is gone", f.Dir)
	}
	return err
}

// Clear removes the socket and the configuration file. What belongs to others,
// attachments that remain, stays: their socket, the group and the folder that
// they share. With the last one a volume gets its group back, and a folder that
// plexus made goes, with what the pod has put there if it is known to be ours;
// when nothing but OVSDB's rows says so, only if nothing else is in it.
func (f *Folder) Clear(others []Use, known bool, file, config string) error {
	if f.Link != "" {
		if err := os.Remove(f.Link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("short link: %w", err)
		}
	}
	shared, socketTaken, configTaken := false, false, false
	for _, other := range others {
		if other.Dir == f.Dir {
			shared = true
			socketTaken = socketTaken || other.File == file
			configTaken = configTaken || other.Config == config
		}
	}
	err := f.Within(func(dir *os.Root) error {
		if f.Was != nil && !shared {
			if err := dir.Chown(".", -1, *f.Was); err != nil {
				return err
			}
		}
		if config != "" && !configTaken {
			if err := dir.RemoveAll(config); err != nil {
				return err
			}
		}
		if socketTaken || file == "" {
			return nil
		}
		return removeSocket(dir, file)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket folder %s: %w", f.Dir, err)
	}
	switch {
	case shared:
	case f.Own:
		if !known {
			if err := onlyOurs(f.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		err = os.RemoveAll(f.Dir)
	case f.Made:
		if err = os.Remove(f.Dir); errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
			err = nil // what the pod has put there is the pod's
		}
	default:
		err = nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket folder: %w", err)
	}
	return nil
}

// removeSocket removes a socket that the pod's application has left; what is
// no socket is the pod's own.
func removeSocket(dir *os.Root, name string) error {
	st, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return nil
	}
	return removeFile(dir, name)
}

// removeFile removes a name, whatever stands there; a link is not followed.
func removeFile(dir *os.Root, name string) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// WriteFile hands the container a file beside the socket. Whatever stands in
// its place is replaced, nothing is followed.
func (f *Folder) WriteFile(name string, data []byte) error {
	return f.Within(func(dir *os.Root) error {
		if err := dir.RemoveAll(name); err != nil {
			return err
		}
		file, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = file.Write(data)
		return errors.Join(err, file.Close())
	})
}

// CheckFileName refuses what is no name of a file in a folder.
func CheckFileName(name string) error {
	const most = 250 // NAME_MAX of 255, with room for a suffix
	switch {
	case name == "":
		return nil
	case len(name) > most:
		return fmt.Errorf("%.80q has %d bytes, at most %d are allowed", name, len(name), most)
	case !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%.80q, want a file name without a folder", name)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("%.80q has a control character", name)
		}
	}
	return nil
}

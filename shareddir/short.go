package shareddir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// makeShort makes the short path: a bind mount of the open folder. No path of the pod's is
// looked up again for it, and the folders above need not be open for the vswitch's user. The
// mount is made where process 1 sees it, and is nothing of the agent's. Local users may be in
// the vswitch's group: nothing in the folder is a program or a device for them.
func (f *Folder) makeShort(d *dir) error {
	if f.Link == "" {
		return nil
	}
	err := f.mount(d)
	if err != nil {
		return fmt.Errorf("short path of %s: %w", f.Dir, err)
	}
	return nil
}

func (f *Folder) mount(d *dir) error {
	tree, err := unix.OpenTree(d.fd(), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return d.failed("open_tree", "", err)
	}
	defer unix.Close(tree)
	flags := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &flags); err != nil {
		return d.failed("mount_setattr (Linux 5.12 or later is needed)", "", err)
	}
	st, err := d.owner()
	if err != nil {
		return err
	}
	return onHost(func() error {
		if err := f.openWay(); err != nil {
			return err
		}
		is, err := f.short(&st)
		switch {
		case err != nil || is == shortRight:
			return err
		case is == shortOther:
			err = unmount(f.Link)
		default:
			err = os.Mkdir(f.Link, 0o700)
		}
		if err != nil {
			return err
		}
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, f.Link, unix.MOVE_MOUNT_F_EMPTY_PATH)
		return pathError("move_mount", f.Link, err)
	})
}

// openWay makes the folder of short paths, which is root's alone until a vswitch needs it that
// is not root: its group may go through then. With two such groups everybody may; the names
// in it cannot be listed.
func (f *Folder) openWay() error {
	if err := os.MkdirAll(ShortLinks, 0o700); err != nil || f.User == nil {
		return err
	}
	run := filepath.Dir(ShortLinks)
	var above, st unix.Stat_t
	if err := errors.Join(pathError("stat", run, unix.Stat(run, &above)), pathError("stat", ShortLinks, unix.Stat(ShortLinks, &st))); err != nil {
		return err
	}
	mode := fs.FileMode(0o710)
	switch gid := f.User.GIDs[0]; {
	case st.Gid == 0 && gid != 0:
		if err := os.Chown(ShortLinks, -1, gid); err != nil {
			return err
		}
	case int(st.Gid) != gid, st.Mode&0o777 == 0o711:
		mode = 0o711
	}
	return errors.Join(os.Chmod(run, fs.FileMode(above.Mode&0o777|0o001)), os.Chmod(ShortLinks, mode))
}

// What is at a short path.
const (
	shortGone    = iota
	shortRight   // the folder
	shortOther   // a folder that is not the pod's, or not any more
	shortForeign // a file that plexus has not made
)

// short compares what is at the short path with the open folder, nil if it is gone. A
// symbolic link of a former version has to lead to the folder's path.
func (f *Folder) short(folder *unix.Stat_t) (int, error) {
	var st unix.Stat_t
	err := unix.Lstat(f.Link, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return shortGone, nil
	case err != nil:
		return 0, pathError("stat", f.Link, err)
	case kind(st) == unix.S_IFDIR:
		if folder != nil && isSame(st, *folder) {
			return shortRight, nil
		}
		return shortOther, nil
	}
	if at, err := os.Readlink(f.Link); err == nil && at == f.Dir {
		return shortRight, nil
	}
	return shortForeign, nil
}

// shortOf is what is at the short path of a folder, nil if it is gone; shortRight where it
// has none.
func (f *Folder) shortOf(d *dir) (is int, err error) {
	if f.Link == "" {
		return shortRight, nil
	}
	var st *unix.Stat_t
	if d != nil {
		now, err := d.owner()
		if err != nil {
			return 0, err
		}
		st = &now
	}
	err = onHost(func() (err error) { is, err = f.short(st); return err })
	return is, err
}

func isSame(a, b unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// removeShort removes the short path, of whatever version.
func (f *Folder) removeShort() error {
	if f.Link == "" {
		return nil
	}
	err := onHost(func() error {
		st, err := os.Lstat(f.Link)
		if err == nil && st.IsDir() {
			err = unmount(f.Link)
		}
		if err == nil {
			err = os.Remove(f.Link)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("short path: %w", err)
	}
	return nil
}

// unmount takes every mount off a folder; the vswitch may still have a socket in it open.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) { // there is none, or none any more
			return nil
		}
		if err != nil {
			return pathError("umount", path, err)
		}
	}
}

// onHost calls do where mounts are the node's: in the mount namespace of process 1, which an
// agent in a container or a runtime's service may not be in. Where process 1 has another
// /run, the caller's own mount namespace is the node.
func onHost(do func() error) error {
	const host = "/proc/1/ns/mnt"
	var own, first, run, firstRun unix.Stat_t
	err := errors.Join(unix.Stat("/proc/thread-self/ns/mnt", &own), unix.Stat(host, &first),
		unix.Stat("/run", &run), unix.Stat("/proc/1/root/run", &firstRun))
	if err != nil || isSame(own, first) || !isSame(run, firstRun) {
		return do()
	}
	ns, err := os.Open(host)
	if err != nil {
		return err
	}
	defer ns.Close()
	return onThread(func() error {
		// Threads share root and working folder; a thread that changes its mounts may not.
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)); err != nil {
			return fmt.Errorf("enter the node's mount namespace: %w", err)
		}
		return do()
	})
}

// onThread calls do on a thread that ends with it. It is not the main thread, which could not
// end, and which /proc/self describes.
func onThread(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			result <- onThread(do)
			return
		}
		result <- do()
	}()
	return <-result
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// VPPVariable names, in the environment, the API socket of a VPP that runs on the host. The
// node and the host then share the folders of shared, at the same paths: VPP sees the sockets
// and the network namespaces of tests, and the mounts that plexus makes. While the node is
// there, the host sees what the node has there, and nothing else. VPP has to be in the mount
// namespace of the caller, or in one that gets its mounts. Inside the node the variable names
// the socket's place there.
//
// A caller that is killed leaves the mounts; the next one replaces them.
const VPPVariable = "PLEXUS_VPP_API"

// insideAPI is the place of the API socket in a node.
const insideAPI = scratch + "/host-vpp/api.sock"

// shared are the folders that the node and the host share.
var shared = []string{scratch, "/run/plexus", netnsDir}

// share makes the shared folders on the host, each a file system in memory.
func share() error {
	for _, dir := range shared {
		_ = unix.Unmount(dir, unix.MNT_DETACH) // of a caller that was killed
		if err := isUnused(dir); err != nil {
			return err
		}
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = unix.Mount("plexus-node", dir, "tmpfs", unix.MS_NOSUID, "mode=0755")
		}
		if err == nil {
			err = unix.Mount("", dir, "", unix.MS_SHARED, "")
		}
		if err != nil {
			unshare()
			return fmt.Errorf("share %s with the VPP that %s names: %w", dir, VPPVariable, err)
		}
	}
	return nil
}

// isUnused refuses a folder with anything but locks in it, which are none of a daemon.
func isUnused(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != "locks" {
			return fmt.Errorf("%s of this machine is in use (%s), and would be hidden from it: choose another machine, or leave %s out", dir, e.Name(), VPPVariable)
		}
	}
	return nil
}

// unshare takes the shared folders away from the host, with all that is mounted in them.
func unshare() {
	for _, dir := range shared {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.Remove(dir)
	}
}

// view is a folder or a file of the host that a node attaches to itself.
type view struct {
	tree int // a detached mount
	at   string
	file bool
}

// viewsOf opens the shared folders and VPP's API socket, before the node hides them.
func viewsOf(api string) (views []view, err error) {
	open := func(path, at string, file bool) {
		tree, errOpen := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if errOpen != nil {
			err = errors.Join(err, fmt.Errorf("open %s for the node: %w", path, errOpen))
			return
		}
		views = append(views, view{tree, at, file})
	}
	for _, dir := range shared {
		open(dir, dir, false)
	}
	open(api, insideAPI, true)
	return views, err
}

// attach attaches a view in the node.
func (v view) attach() error {
	defer unix.Close(v.tree)
	folder := v.at
	if v.file {
		folder = filepath.Dir(v.at)
	}
	err := os.MkdirAll(folder, 0o755)
	if err == nil && v.file {
		err = os.WriteFile(v.at, nil, 0o600)
	}
	if err == nil {
		err = unix.MoveMount(v.tree, "", unix.AT_FDCWD, v.at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return fmt.Errorf("attach %s of the host to the node: %w", v.at, err)
	}
	return nil
}

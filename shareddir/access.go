package shareddir

import (
	"fmt"
	"io/fs"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// User is whom a vswitch runs as.
type User struct {
	UID  int   `json:"uid"`
	GIDs []int `json:"gids"` // the first is its own group
}

func (u *User) String() string { return fmt.Sprintf("user %d, groups %d", u.UID, u.GIDs) }

// mayEnter refuses a folder that the user cannot search (path_resolution(7)). Its parents do
// not matter where it has a short path.
func (u *User) mayEnter(st unix.Stat_t) error {
	if u == nil {
		return nil
	}
	bit := uint32(0o001)
	switch {
	case int(st.Uid) == u.UID:
		bit = 0o100
	case slices.Contains(u.GIDs, int(st.Gid)):
		bit = 0o010
	}
	if st.Mode&bit != 0 {
		return nil
	}
	return fmt.Errorf("mode %04o, owner %d, group %d: it is closed for the vswitch, which runs as %s: chmod o+x, or give it a group of the vswitch's, or make the volume an emptyDir",
		st.Mode&0o7777, st.Uid, st.Gid, u)
}

// hasACL reports whether the folder has more permissions than its mode shows (acl(5)).
func (d *dir) hasACL() bool {
	_, err := unix.Fgetxattr(d.fd(), "system.posix_acl_access", nil)
	return err == nil
}

// CheckGroup refuses a group or permissions that no folder of the configuration could have: the
// vswitch could not connect.
func CheckGroup(w Options) error { return (&Folder{GID: -1}).giveGroup(w) }

// giveGroup reads the configuration's group and permissions. A folder with a group has the
// setgid bit: the sockets in it get the group.
func (f *Folder) giveGroup(w Options) error {
	if w.Group != "" {
		gid, err := groupID(w.Group)
		if err != nil {
			return fmt.Errorf("key %q: %w", w.Key("group"), err)
		}
		if w.User != nil && !slices.Contains(w.User.GIDs, gid) {
			return fmt.Errorf("key %q: %s: the vswitch, which is to connect to the pod's socket, runs as %s: name a group of its own, or none", w.Key("group"), w.Group, w.User)
		}
		f.GID, f.Perm = gid, 0o770|fs.ModeSetgid
	}
	if w.Permissions != "" {
		mode, err := ParsePermissions(w.Permissions)
		if err != nil {
			return fmt.Errorf("key %q: %w", w.Key("permissions"), err)
		}
		f.Perm = mode | f.Perm&fs.ModeSetgid
	}
	return nil
}

// lookAtVolume decides what a volume that is there gets, and refuses what it cannot get.
func (f *Folder) lookAtVolume(w Options, d *dir, st unix.Stat_t) error {
	key := w.Key("group")
	if w.Group == "" {
		key = w.Key("permissions")
	}
	if f.EmptyDir && (w.Group != "" || w.Permissions != "") {
		gid, perm := d.formerAccess(st)
		f.FormerGID, f.FormerPerm = &gid, &perm
		if w.Permissions == "" {
			f.Perm = perm | 0o070 | fs.ModeSetgid
		}
		if err := f.mayGive(st); err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		return nil
	}
	if (f.GID >= 0 && f.GID != int(st.Gid)) || (w.Permissions != "" && f.Perm != modeOf(st)) {
		return fmt.Errorf("key %q: the hostPath %s was there before, and plexus gives no folder of the node another group or other permissions: make the volume an emptyDir, or leave it out, for a folder of the sandbox's own", key, f.Dir)
	}
	if err := f.User.mayEnter(st); err != nil && !d.hasACL() {
		return fmt.Errorf("socket folder %s: %w", f.Dir, err)
	}
	return nil
}

// formerMark is an extended attribute of an emptyDir to which plexus has given another group or
// other permissions: its former ones, in octal. See madeMark.
const formerMark = "trusted.plexus.former"

// formerAccess are group and permissions of an emptyDir before plexus changed them.
func (d *dir) formerAccess(st unix.Stat_t) (gid int, perm fs.FileMode) {
	text := make([]byte, 64)
	n, err := unix.Fgetxattr(d.fd(), formerMark, text)
	var former unix.Stat_t
	if err == nil {
		_, err = fmt.Sscanf(string(text[:n]), "%o %o", &former.Gid, &former.Mode)
	}
	if err != nil {
		former = st
	}
	return int(former.Gid), modeOf(former)
}

// mayGive refuses an emptyDir that another network has given another group or other permissions.
func (f *Folder) mayGive(st unix.Stat_t) error {
	now, before := modeOf(st), *f.FormerPerm
	if gid := int(st.Gid); gid == *f.FormerGID && now == before || (f.GID < 0 || gid == f.GID) && now == f.Perm {
		return nil
	}
	return fmt.Errorf("another network of the pod has given the emptyDir %s group %d and mode %v, and this one wants group %d and mode %v: give both networks the same", f.Dir, st.Gid, now, f.GID, f.Perm)
}

// giveUsersGroup gives a folder that plexus makes the vswitch's own group, unless the
// configuration gives it one.
func (f *Folder) giveUsersGroup() {
	if f.User != nil && f.GID < 0 {
		f.GID, f.Perm = f.User.GIDs[0], 0o770|fs.ModeSetgid
	}
}

// groupID is the number of a group, which may be given as a number: a pod's fsGroup has no name.
func groupID(group string) (int, error) {
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// ParsePermissions reads the octal permissions of a folder; the setgid bit may be among them.
func ParsePermissions(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode&^(0o777|unix.S_ISGID) != 0 {
		return 0, fmt.Errorf("%.20q, want octal digits up to 0777, or 2777 with the setgid bit", text)
	}
	return modeOf(unix.Stat_t{Mode: uint32(mode)}), nil
}

// modeOf are permissions and setgid bit of a folder.
func modeOf(st unix.Stat_t) fs.FileMode {
	mode := fs.FileMode(st.Mode & 0o777)
	if st.Mode&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	return mode
}

// bits are permissions and setgid bit as chmod(2) has them.
func bits(mode fs.FileMode) uint32 {
	b := uint32(mode.Perm())
	if mode&fs.ModeSetgid != 0 {
		b |= unix.S_ISGID
	}
	return b
}

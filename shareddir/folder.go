// Package shareddir is the folder that a pod and the node's vswitch share: the
// sockets of vhost-user and memif are in it, and what a container reads about
// them. It is the pod's volume shared-dir, as userspace-cni has it, or a folder
// of the sandbox's own. The pod may write to it and may swap it for a link at any
// moment: the folder is opened once without following links, and every
// operation uses names relative to its descriptor.
package shareddir

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Folder is the folder of one attachment, as chosen before any change, and as recorded.
type Folder struct {
	Dir  string `json:"dir,omitempty"`
	Own  bool   `json:"own,omitempty"`  // the sandbox's own, below a base: made and removed by plexus
	Made bool   `json:"made,omitempty"` // a volume's folder that was not there: made by plexus, removed when empty
	// Link is another path of the folder below ShortLinks, made and removed by plexus: a bind
	// mount. A symbolic link, of a former version, is used until it goes.
	Link string `json:"link,omitempty"`
	// Above: parents of a hostPath are made too (conf.Volume.Create).
	Above bool `json:"above,omitempty"`
	// GID is the group that the folder gets, -1 for none; Perm the permissions of an own
	// folder, of one that plexus has made, and of an emptyDir that is to have other ones.
	GID  int         `json:"gid"`
	Perm fs.FileMode `json:"perm,omitempty"`
	// FormerGID and FormerPerm are those of an emptyDir before it got others, to be restored.
	FormerGID  *int         `json:"was,omitempty"`
	FormerPerm *fs.FileMode `json:"wasPerm,omitempty"`
	EmptyDir   bool         `json:"emptyDir,omitempty"` // the kubelet's; see isEmptyDir for former records
	// User is whom the vswitch runs as that connects to sockets in the folder, nil for root.
	User *User `json:"user,omitempty"`
}

// Options is what a configuration says of the folder.
type Options struct {
	Base        string                   // folder below which a sandbox has its own
	Group       string                   // group of folder and socket
	Permissions string                   // of an own folder, octal
	Key         func(name string) string // what the user calls the keys group, permissions and file
	MaxPath     int                      // of a socket in bytes, where the vswitch takes less than MaxSocketPath
	User        *User                    // whom the vswitch runs as that connects to the pod's socket, nil for root
	Device      string                   // folder of a device plugin's socket, instead of the pod's volume or an own folder
	// Unseen: the folder may be one that no container of the pod sees, as with userspace-cni.
	Unseen bool
}

// The YAML by which a pod sees its sockets, for people.
const (
	sharedDirVolume = `"volumes: [{name: shared-dir, emptyDir: {}}]"`
	sharedDirMount  = `"volumeMounts: [{name: shared-dir, mountPath: /run/vhost}]"`
)

// ShortLinks is the folder of the short paths: of folders whose path is too long for a socket,
// or closed for the vswitch's user.
const ShortLinks = "/run/plexus/short"

// MaxSocketPath is the longest path of a unix socket, in bytes: sun_path has 108
// with the terminating zero (unix(7)).
const MaxSocketPath = 107

// ConfigPrefix begins the name of a configuration file.
const ConfigPrefix = "configData-"

// MarkedID is the length of the container ID's prefix in every mark of ownership, in bytes: a
// tag of VPP has room for no more. Names derived from the prefix can be found by a mark.
const MarkedID = 24

// Short is how userspace-cni abbreviates a container ID in file names.
func Short(sandbox string) string { return sandbox[:min(12, len(sandbox))] }

// OwnName is the name of a sandbox's own folder: 24 lower-case hexadecimal digits,
// the beginning of the container ID or, if that has another form, of its digest.
// The beginning of the ID as a mark has it gives the same name.
func OwnName(sandbox string) string {
	begin := sandbox[:min(MarkedID, len(sandbox))]
	if len(begin) == MarkedID && ownForm.MatchString(begin) {
		return begin
	}
	sum := sha256.Sum256([]byte(begin))
	return hex.EncodeToString(sum[:MarkedID/2])
}

var ownForm = regexp.MustCompile(`^[0-9a-f]+$`)

// Choose picks the pod's volume shared-dir, else a folder of the sandbox below
// the base, and a short link when the socket's path would not fit. It changes
// nothing, and refuses what Make would refuse: the error is a conf.Refusal of what the
// pod or the network asks for. unique names the attachment.
func Choose(w Options, a *delegates.Attachment, file, unique string) (Folder, error) {
	f, err := decide(w, a, file, unique)
	return f, conf.Refuse(err)
}

func decide(w Options, a *delegates.Attachment, file, unique string) (Folder, error) {
	f := Folder{GID: -1, Perm: 0o750, User: w.User}
	if w.Device != "" { // the device plugin has mounted it
		f.Dir = w.Device
		return f, f.place(w, file, unique)
	}
	volume := a.Pod.HostDir(conf.SharedDir)
	if kind := a.Pod.Unreachable(conf.SharedDir); kind != "" {
		return f, fmt.Errorf("pod %s: volume %s: the vswitch cannot reach a volume of kind %.40s: make it an emptyDir, %s", a.Pod, conf.SharedDir, kind, sharedDirVolume)
	}
	if volume != "" {
		if !filepath.IsAbs(volume) || filepath.Clean(volume) == "/" || strings.ContainsRune(volume, 0) {
			return f, fmt.Errorf("pod %s: volume %s: path %.200q, want an absolute path below /", a.Pod, conf.SharedDir, volume)
		}
		f.Dir, f.Above, f.EmptyDir = filepath.Clean(volume), a.Pod.IsToCreate(conf.SharedDir), a.Pod.IsEmptyDir(conf.SharedDir)
	} else {
		f.Dir, f.Own = filepath.Join(w.Base, OwnName(a.Sandbox)), true
	}
	if !w.Unseen && a.Pod != nil && len(a.Pod.Containers) > 0 && a.Pod.Seen(f.Dir) == "" {
		return f, fmt.Errorf("pod %s: no container sees %s, the folder of the socket: give the pod %s, and a container %s", a.Pod, f.Dir, sharedDirVolume, sharedDirMount)
	}
	err := f.place(w, file, unique)
	if err != nil && volume != "" {
		err = fmt.Errorf("pod %s: volume %s: %w", a.Pod, conf.SharedDir, err)
	}
	return f, err
}

// place completes a folder whose path is chosen: group, short path, and what is there.
func (f *Folder) place(w Options, file, unique string) error {
	if err := f.giveGroup(w); err != nil {
		return err
	}
	most := cmp.Or(w.MaxPath, MaxSocketPath)
	if f.User != nil || len(filepath.Join(f.Dir, file)) > most {
		f.Link = filepath.Join(ShortLinks, unique)
		if path := filepath.Join(f.Link, file); len(path) > most {
			return fmt.Errorf("socket path %s has %d bytes, at most %d are allowed: shorten %q", path, len(path), most, w.Key("file"))
		}
	}
	return f.look(w, file)
}

// look inspects the folder's place, and refuses what Make or the socket could not use.
func (f *Folder) look(w Options, file string) error {
	d, err := f.open()
	var link *foreignError
	switch {
	case errors.As(err, &link) && !f.Own:
		return fmt.Errorf("%w: give the volume the path of a folder without links in it, or make it an emptyDir", err)
	case errors.Is(err, fs.ErrNotExist) && w.Device != "":
		return fmt.Errorf("the folder %s of the device's socket is not there: look at its device plugin", f.Dir)
	case errors.Is(err, fs.ErrNotExist):
		f.Made = !f.Own
		f.giveUsersGroup()
		return f.mayMake()
	case err != nil:
		return fmt.Errorf("socket folder: %w", err)
	}
	defer d.close()
	st, err := d.owner()
	switch {
	case err != nil:
		return fmt.Errorf("socket folder: %w", err)
	case f.Own:
		f.giveUsersGroup()
		if err := d.onlyOurs(); err != nil {
			return err
		}
	case d.marked():
	default:
		if err := f.lookAtVolume(w, d, st); err != nil {
			return err
		}
	}
	return d.vacant(file, w.Key("file"), false)
}

// mayMake refuses to make the folders above that of a hostPath: pods may be able to
// write to one of them.
func (f *Folder) mayMake() error {
	if f.EmptyDir {
		return fmt.Errorf("the kubelet has made no emptyDir %s: is its root folder another one? name it as kubeletDir in the node's configuration", f.Dir)
	}
	if f.Own || f.Above {
		return nil
	}
	above, _, err := f.openAbove()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: there is no folder %s: make it, or give the hostPath \"type\": \"DirectoryOrCreate\"", f.Dir, filepath.Dir(f.Dir))
	}
	if err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	return above.Close()
}

// Place is the socket's path without the short link.
func (f *Folder) Place(file string) string { return filepath.Join(f.Dir, file) }

// Path is the socket's path for the vswitch, by the short link if there is one.
func (f *Folder) Path(file string) string {
	return filepath.Join(cmp.Or(f.Link, f.Dir), file)
}

// CheckFileName refuses a text that is no name of a file in a folder.
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

package shareddir

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Use is one attachment's use of a folder: names of the socket and of the file in it that a
// container reads, a ConfigFile or that of Names; either may be empty.
type Use struct {
	Folder
	File   string `json:"file"`
	Config string `json:"config,omitempty"`
	Seen   string `json:"seen,omitempty"` // the folder as a container sees it, of a device that plexus offers
}

// Show gives a description of the socket, which has its path on the host, the path that the
// container sees where the folder is a device's.
func (u *Use) Show(device *conf.DeviceInfo) *conf.DeviceInfo {
	if path := device.Socket(); u.Seen != "" && path != nil {
		device.Host, *path = *path, filepath.Join(u.Seen, u.File)
	}
	return device
}

// ConfigFile is the name of the file by which a container written for
// userspace-cni learns its configuration.
func ConfigFile(sandbox, ifName string) string {
	return fmt.Sprintf("%s%s-%s.json", ConfigPrefix, Short(sandbox), ifName)
}

// Marked is the use that a mark of ownership proves: files with names that plexus gives, in
// the sandbox's own folder below a base of the node. Other paths in the datapath are not
// touched. sandbox is the container ID, or
// its first MarkedID bytes; file is the socket's name as plexus gives it; unique the
// name of the short link, "" for none. It is empty for a mark with
// texts that are no file names.
func Marked(base, sandbox, ifName, file, unique string) (u Use, ok bool) {
	u = Use{File: file, Config: ConfigFile(sandbox, ifName)}
	u.Dir, u.Own, u.GID = filepath.Join(base, OwnName(sandbox)), true, -1
	if unique != "" {
		u.Link = filepath.Join(ShortLinks, unique)
	}
	return u, u.Valid(sandbox, unique)
}

// Valid refuses a recorded use that plexus would not have chosen for the sandbox: files in the
// folder are removed, an own folder with all that it holds. unique are the names that the
// attachment's short link may have. An own folder of the former form has the beginning of the
// container ID as its name.
func (u *Use) Valid(sandbox string, unique ...string) bool {
	name := filepath.Base(u.Dir)
	return filepath.IsAbs(u.Dir) && filepath.Clean(u.Dir) == u.Dir && u.Dir != "/" && sandbox != "" &&
		(!u.Own || name == OwnName(sandbox) || name == Short(sandbox)) &&
		(u.Link == "" || slices.ContainsFunc(unique, func(name string) bool { return u.Link == filepath.Join(ShortLinks, name) })) &&
		(u.Config == "" || (strings.HasPrefix(u.Config, ConfigPrefix) || (u.isEmptyDir() || u.Seen != "") && strings.HasSuffix(u.Config, infoSuffix)) && CheckFileName(u.Config) == nil) &&
		(u.Seen == "" || strings.HasPrefix(u.Dir, conf.DeviceSockets+"/")) && (u.User == nil || len(u.User.GIDs) > 0) && u.File != "" && CheckFileName(u.File) == nil
}

// Provide makes the folder ready for the socket, and hands the container what the file
// Config gets.
func (u *Use) Provide(ctx context.Context, ifName string, config []byte) error {
	if err := delegates.Step(ctx, "%s: make folder %s", ifName, u.Dir); err != nil {
		return err
	}
	if err := u.Make(); err != nil || u.Config == "" {
		return err
	}
	if err := delegates.Step(ctx, "%s: write %s", ifName, u.Config); err != nil {
		return err
	}
	if err := u.WriteFile(u.Config, config); err != nil {
		return fmt.Errorf("write %s in %s: %w", u.Config, u.Dir, err)
	}
	return nil
}

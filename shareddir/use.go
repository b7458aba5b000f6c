package shareddir

import (
	"context"
	"fmt"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// Use is one attachment's use of a folder: the socket and the configuration
// file in it, names; either may be empty.
type Use struct {
	Folder
	File   string `json:"file"`
	Config string `json:"config,omitempty"`
}

// ConfigFile is the name of the file by which a container written for
// userspace-cni learns its configuration.
func ConfigFile(a conf.Attachment) string {
	return fmt.Sprintf("%s%s-%s.json", ConfigPrefix, Short(a.Sandbox), a.IfName)
}

// Valid refuses a recorded use that plexus would not have chosen for the
// sandbox: what it names is removed.
func (u *Use) Valid(sandbox, unique string) bool {
	config := u.Config == "" || strings.HasPrefix(u.Config, ConfigPrefix) && CheckFileName(u.Config) == nil
	return config && u.File != "" && CheckFileName(u.File) == nil && u.Folder.Valid(sandbox, unique)
}

// Provide makes the folder ready for the socket, and hands the container its
// configuration when the network is written in userspace-cni's way.
func (u *Use) Provide(ctx context.Context, a conf.Attachment, userspace *conf.Userspace) error {
	if err := conf.Step(ctx, "%s: make folder %s", a.IfName, u.Dir); err != nil {
		return err
	}
	if err := u.Make(); err != nil {
		return err
	}
	if u.Config == "" {
		return nil
	}
	if err := conf.Step(ctx, "%s: write %s", a.IfName, u.Config); err != nil {
		return err
	}
	data, err := userspace.ConfigurationData(a, u.File, a.IPAM)
	if err == nil {
		err = u.WriteFile(u.Config, data)
	}
	if err != nil {
		return fmt.Errorf("write %s in %s: %w", u.Config, u.Dir, err)
	}
	return nil
}

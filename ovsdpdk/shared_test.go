package ovsdpdk

import (
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

type folder = shareddir.Folder

const (
	maxSocketPath       = shareddir.MaxSocketPath
	shortLinkDir        = shareddir.ShortLinks
	configurationPrefix = shareddir.ConfigPrefix
	nameMax             = 250
)

func chooseFolder(c *Config, a conf.Attachment, file, unique string) (folder, error) {
	return shareddir.Choose(c.wish(), a, file, unique)
}

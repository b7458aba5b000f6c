package ovsdpdk

import "github.com/plexus-cni/plexus/shareddir"

const (
	maxSocketPath = shareddir.MaxSocketPath
	shortLinkDir  = shareddir.ShortLinks
	nameMax       = 250
)

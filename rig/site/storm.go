package site

import (
	"github.com/plexus-cni/plexus/rig/node"
)

// StormPod is one of the pods of a storm.
type StormPod struct {
	*node.Pod
	Id, Name string
}

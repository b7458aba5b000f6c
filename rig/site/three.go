package site

import (
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
)

// NewThree has a pod of three networks: the cluster network by an
// executable, a vhost-user port in a bridge that plexus makes, and a conflist
// that mixes a built-in of userspace-cni's dialect with an executable.
func NewThree(t *testing.T) (*Site, *node.Pod) {
	v := OVS(t)
	s := NewVhost(t, v)
	s.InstallRecorder()
	s.NAD("mixed", map[string]any{
		"cniVersion": "1.0.0", "name": "mixed",
		"plugins": []any{
			Vhost(v, s, map[string]any{
				"cniVersion": nil, "bridge": "br-mixed", "trunk": []any{7, map[string]int{"minID": 10, "maxID": 12}},
				"ipam": map[string]any{"type": "static", "addresses": []any{map[string]string{"address": "192.168.9.9/24"}}},
			}),
			map[string]any{"type": Recorder},
		},
	})
	s.Pod("three", "fast, mixed")
	p := NewPod(t, "three")
	s.MustAdd("warmup1", p, "three")
	s.MustDel("warmup1", p, "three")
	return s, p
}

// FaultySandbox is the container ID of the pod whose requests have faults.
const FaultySandbox = "0123456789abcdef"

// interfaces of the three networks.
var ThreeNames = []string{"eth0", "net1", "net2"}

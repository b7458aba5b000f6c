package vppmemif

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	interfaces "go.fd.io/govpp/binapi/interface"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/shareddir"
)

// A tag that reads as one of plexus' is believed about its interface alone: where VPP
// says that the socket is, nothing is removed.
func TestTagsAreNoLicence(t *testing.T) {
	for name, c := range map[string]struct{ sandbox, socket string }{
		"a folder of the node":           {"kubelet", "kubelet/x.sock"},
		"a socket of the node":           {sandboxA[:24], "containerd/containerd.sock"},
		"an own folder of the past form": {sandboxA[:24], sandboxA[:12] + "/memif-" + sandboxA[:12] + "-net1.sock"},
		"a socket of another sandbox":    {sandboxA[:24], shareddir.OwnName(sandboxB) + "/memif-" + sandboxB[:12] + "-net1.sock"},
		"another name in the own folder": {sandboxA[:24], shareddir.OwnName(sandboxA) + "/x.sock"},
		"a sandbox that is a path":       {"../kubelet", "kubelet/x.sock"},
		"a sandbox that is no name":      {"..", "x.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			host := tempDir(t)
			for _, file := range []string{"kubelet/config.yaml", "containerd/config.toml", sandboxA[:12] + "/file", shareddir.OwnName(sandboxB) + "/file", shareddir.OwnName(sandboxA) + "/file"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(host, file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(host, file), []byte("the node's"), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			r.dir = host // the base that Sweep is given
			place := filepath.Join(host, c.socket)
			other := r.admin()
			empty := r.State()
			index := other.memif(place)
			other.do(&interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: index, Tag: ownerTag(testOwner) + c.sandbox + "/net1"}, &interfaces.SwInterfaceTagAddDelReply{})
			// The stand-in's own socket gives way to one that a service of the node has.
			_ = os.Remove(place)
			l, err := net.Listen("unix", place)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			before, err := node.Tree(host)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.sweep(d, func(string, string) bool { return false }); err != nil {
				t.Errorf("Sweep: %v", err)
			}
			after, err := node.Tree(host)
			if err != nil {
				t.Fatal(err)
			}
			same(t, before, after)
			same(t, empty, r.State())
		})
	}
}

package ovs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
)

// A container finds its socket by what it is told alone: the file beside the socket, called
// like the interface, and network-status. Both have its own paths, network-status the node's
// beside it. The paths are those of any other pod of the same template.
func TestContainersFindTheirSockets(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhost(t, v)
	ctx := must.Deadline(t)
	names := []string{"first", "second"}
	var volumes []string
	for n, name := range names {
		volumes = append(volumes, s.PodWithEmptyDir(name, "fast", "6f1c3a52-8d0e-4b7f-9a41-2c5d7e90b16"+string(rune('5'+n))))
	}
	warm := site.NewPod(t, "warm") // folders of the node are there from the first pod on
	s.MustAdd(site.SandboxID(129), warm, "first")
	s.MustDel(site.SandboxID(129), warm, "first")
	must.Do(t, warm.Close())
	before := s.World(v)
	pods := []*node.Pod{site.NewPod(t, names[0]), site.NewPod(t, names[1])}
	var peers []*ovs.Peer
	for n, name := range names {
		r := s.MustAdd(site.SandboxID(130+n), pods[n], name)
		var status []conf.NetworkStatus
		must.Decode(t, []byte(annotation(t, s, name)), &status)
		const socket = "/shared/net1.sock"
		if info := status[1].DeviceInfo; info == nil || info.VhostUser.Path != socket || status[1].HostSocket != volumes[n]+"/net1.sock" {
			t.Errorf("network-status: %+v, device-info %+v", status[1], info)
		}
		var info struct {
			Interface, Socket string
			MTU               int
			Addresses         []string
		}
		must.Decode(t, []byte(must.ReadFile(t, volumes[n]+"/net1.json")), &info)
		if info.Interface != "net1" || info.Socket != socket || info.MTU != 1500 || len(info.Addresses) != 1 || info.Addresses[0] != r.IPs[1].Address.String() {
			t.Errorf("net1.json: %+v", info)
		}
		// The container's mount, at another place of this mount namespace.
		mount := filepath.Join(node.Dir(), name)
		must.Do(t, os.Mkdir(mount, 0o755))
		must.Do(t, unix.Mount(volumes[n], mount, "", unix.MS_BIND, ""))
		t.Cleanup(func() {
			must.Do(t, unix.Unmount(mount, unix.MNT_DETACH))
			must.Do(t, os.Remove(mount))
		})
		peers = append(peers, site.StartPeer(t, mount+strings.TrimPrefix(info.Socket, "/shared")))
	}
	for _, p := range peers {
		must.Do(t, p.WaitLink(ctx))
	}
	must.Do(t, ovs.WarmUp(ctx, peers[0], peers[1]))
	if got, err := ovs.Transfer(ctx, peers[0], peers[1], 1000); err != nil || got != 1000 {
		t.Errorf("%d of 1000 frames arrived: %v", got, err)
	}
	for n, name := range names {
		s.MustCheck(site.SandboxID(130+n), pods[n], name)
		must.Do(t, peers[n].Stop())
		s.MustDel(site.SandboxID(130+n), pods[n], name)
		must.Do(t, pods[n].Close())
	}
	s.BecomesWorld(v, before)
}

// A pod that could not see its socket is refused before anything is changed, with what to add.
func TestPodsThatSeeNoSocket(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhost(t, v)
	p := site.NewPod(t, "blind")
	for spec, says := range map[string]string{
		`{containers: [{name: app}]}`: "volumes: [{name: shared-dir, emptyDir: {}}]",
		`{containers: [{name: app}], volumes: [{name: shared-dir, emptyDir: {}}]}`:                                                            "volumeMounts: [{name: shared-dir, mountPath: /run/vhost}]",
		`{containers: [{name: app, volumeMounts: [{name: shared-dir, mountPath: /s}]}], volumes: [{name: shared-dir, configMap: {name: x}}]}`: "configMap",
	} {
		s.Manifest("blind.pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: blind\n  uid: 6f1c3a52-8d0e-4b7f-9a41-2c5d7e90b170\n  annotations: {k8s.v1.cni.cncf.io/networks: fast}\nspec: "+spec+"\n")
		before := s.World(v)
		_, err := s.Add(site.SandboxID(135), p, "blind")
		if err == nil || !strings.Contains(err.Error(), "CNI error 7: ") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want code 7 and %q", spec, err, says)
		}
		site.SameWorld(t, before, s.World(v))
	}
}

// annotation is the network-status of a pod.
func annotation(t testing.TB, s *site.Site, pod string) string {
	t.Helper()
	var status struct {
		Metadata struct{ Annotations map[string]string }
	}
	must.Decode(t, []byte(must.ReadFile(t, filepath.Join(s.Manifests, pod+".status.json"))), &status)
	return status.Metadata.Annotations[conf.NetworkStatusAnnotation]
}

package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/kube"
	"github.com/plexus-cni/plexus/rig/memif"
)

// offered are the resources of the node, and networks that need them.
const (
	offered = `{"devices": {"resources": [
  {"name": "plexus.test/fast", "bridge": "br0", "ports": 8},
  {"name": "plexus.test/shm", "vpp": "/run/vpp/api.sock", "ports": 4},
  {"name": "plexus.test/nobridge", "bridge": "br-none", "ports": 2},
  {"name": "plexus.test/nopf", "pf": ["eth7"]}
]}}`
	offeredNetworks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fastdevice, annotations: {k8s.v1.cni.cncf.io/resourceName: plexus.test/fast}}
spec: {config: '{"cniVersion": "1.0.0", "type": "ovsdpdk", "bridge": "br0"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: shmdevice, annotations: {k8s.v1.cni.cncf.io/resourceName: plexus.test/shm}}
spec: {config: '{"cniVersion": "1.0.0", "type": "vppmemif", "bridgeDomain": {"name": "devices"}}'}
`
)

// devicePod is an ordinary user's: it has no volume, and nothing about a datapath but its
// resources and networks.
func devicePod(name, networks, resources string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {k8s.v1.cni.cncf.io/networks: '%s'}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true}
  containers:
  - name: app
    image: %s
    command: [sleep, infinity]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    resources: {limits: %s}
`, name, networks, kube.BusyboxImage, resources)
}

// A pod that requests plexus' own resources gets a vhost-user port and a memif in its container,
// without a volume. They are offered again after a restart of the kubelet's door and of the
// agent; what is not there is not offered.
func TestOfferedDevices(t *testing.T) {
	n := theNode
	settings := filepath.Join(t.TempDir(), "settings.json")
	if err := os.WriteFile(settings, []byte(offered), 0o600); err != nil {
		t.Fatal(err)
	}
	n.stopAgent()
	if err := n.startAgent(t.Context(), "--settings", settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // as the other tests have it
		n.stopAgent()
		if err := n.startAgent(context.Background()); err != nil {
			t.Fatal(err)
		}
		os.RemoveAll("/run/plexus/devices")
		os.RemoveAll("/var/lib/plexus/devices")
	})
	allocatable := func(resource, want string) {
		t.Helper()
		await(t, "the node has "+resource, func() error {
			if out := n.must(t, "get", "node", "-o", `jsonpath={.items[0].status.allocatable['`+strings.ReplaceAll(resource, ".", `\.`)+`']}`); out != want {
				return fmt.Errorf("%s: allocatable %q, want %q", resource, out, want)
			}
			return nil
		})
	}
	allocatable("plexus.test/fast", "8")
	allocatable("plexus.test/shm", "4")
	allocatable("plexus.test/nobridge", "0")
	allocatable("plexus.test/nopf", "")
	n.apply(t, offeredNetworks)
	for _, name := range []string{"device-a", "device-b"} {
		n.apply(t, devicePod(name, "fastdevice,shmdevice", `{plexus.test/fast: "1", plexus.test/shm: "1"}`))
	}
	for _, name := range []string{"device-a", "device-b"} {
		n.must(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=90s")
		var p pod
		if err := json.Unmarshal([]byte(n.must(t, "get", "pod", name, "-o", "json")), &p); err != nil {
			t.Fatal(err)
		}
		s := p.status(t)
		if len(s) != 3 || s[1].Info.VhostUser.Path != "/run/plexus/plexus.test/fast/net1.sock" || s[2].Info.Memif.Path != "/run/plexus/plexus.test/shm/net2.sock" {
			t.Fatalf("%s: network-status %+v", name, s)
		}
		n.must(t, "exec", name, "--", "test", "-S", s[2].Info.Memif.Path)                                // VPP listens
		n.must(t, "exec", name, "--", "touch", filepath.Dir(s[1].Info.VhostUser.Path)+"/may-be-written") // the pod is to listen
		if out := n.must(t, "exec", name, "--", "sh", "-c", "echo $PLEXUS_PLEXUS_TEST_FAST; cat $PLEXUS_PLEXUS_TEST_SHM/net2.json"); !strings.Contains(out, "/run/plexus/plexus.test/fast\n") || !strings.Contains(out, s[2].Info.Memif.Path) {
			t.Errorf("%s: its container reads %s", name, out)
		}
	}
	sockets, err := filepath.Glob("/run/plexus/devices/plexus.test_shm/*/*/net2.sock")
	if err != nil || len(sockets) != 2 {
		t.Fatalf("sockets on the node: %v %v", sockets, err)
	}
	var peers []*memif.Peer
	for _, socket := range sockets {
		peer, err := memif.Dial(t.Context(), socket, 0, memif.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		peers = append(peers, peer)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, peer := range peers {
		if err := peer.WaitLink(ctx); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "a frame arrives", func() error { // what is sent before VPP has both ends is lost
		once, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := memif.Transfer(once, peers[0], peers[1], 1, memif.Traffic{})
		return err
	})
	if got, err := memif.Transfer(ctx, peers[0], peers[1], 100, memif.Traffic{}); err != nil || got < 100 {
		t.Errorf("%d of 100 frames between the pods: %v", got, err)
	}
	ports, err := n.ovs.VSCtl(t.Context(), "--bare", "--columns=options", "find", "Interface", "type=dpdkvhostuserclient")
	if err != nil || strings.Count(ports, "/run/plexus/devices/plexus.test_fast/") != 2 {
		t.Errorf("ports %s (%v)", ports, err)
	}
	for _, p := range peers {
		p.Close()
	}
	// An agent that starts anew offers them again, and running pods keep theirs. After a reboot,
	// which empties /run, their folders are there again before the kubelet has them mounted.
	n.stopAgent()
	folders, err := filepath.Glob("/run/plexus/devices/*/*/*")
	if err != nil || len(folders) != 4 {
		t.Errorf("folders of devices: %v %v", folders, err)
	}
	if err := errors.Join(os.Rename("/run/plexus/devices", "/run/plexus/before"), os.RemoveAll("/run/k8s.cni.cncf.io/devinfo/dp")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll("/run/plexus/before") })
	if err := n.startAgent(t.Context(), "--settings", settings); err != nil {
		t.Fatal(err)
	}
	await(t, "the folders are there again", func() error {
		again, err := filepath.Glob("/run/plexus/devices/*/*/*")
		if err != nil || !slices.Equal(again, folders) {
			return fmt.Errorf("folders %v, want %v", again, folders)
		}
		return nil
	})
	if err := errors.Join(os.RemoveAll("/run/plexus/devices"), os.Rename("/run/plexus/before", "/run/plexus/devices")); err != nil { // the pods run on
		t.Fatal(err)
	}
	// A switch that is away takes its devices out of the scheduler's sight, and no others.
	n.vpp.Kill()
	allocatable("plexus.test/shm", "0")
	allocatable("plexus.test/fast", "8")
	if err := n.startVPP(t.Context()); err != nil {
		t.Fatal(err)
	}
	allocatable("plexus.test/shm", "4")
	n.must(t, "delete", "pod", "device-a", "device-b")
	n.nothingLeft(t)
	// The next pod does not find what the former one has left in the folder.
	n.apply(t, devicePod("device-c", "fastdevice", `{plexus.test/fast: "8"}`))
	n.must(t, "wait", "--for=condition=Ready", "pod/device-c", "--timeout=90s")
	if out := n.must(t, "exec", "device-c", "--", "sh", "-c", "ls /run/plexus/plexus.test/fast*"); strings.Contains(out, "may-be-written") {
		t.Errorf("a device has the files of a former pod: %s", out)
	}
	n.must(t, "delete", "pod", "device-c")
	n.nothingLeft(t)
	await(t, "the container ports of the resource are closed", func() error {
		if files, _ := filepath.Glob("/run/plexus/devices/*/*/*/*.sock"); len(files) > 0 {
			return errors.New(strings.Join(files, " "))
		}
		return nil
	})
}

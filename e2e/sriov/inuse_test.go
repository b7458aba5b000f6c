package sriov

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the node uses stays with the node, whether it is picked or named, a VF or
// a whole PF, unless the configuration says otherwise.
func TestInUse(t *testing.T) {
	const other = 5
	// Its driver tells the PF its address when it is up for the first time.
	first := netdev(vf(t, "eth0", other))
	wasUp := up.MatchString(run(t, "ip", "link", "show", first))
	sh(t, "ip link set "+first+" up")
	if !wasUp {
		sh(t, "ip link set "+first+" down")
	}
	for _, c := range []struct {
		name, do, undo, says string
	}{
		{"an address", "ip addr add 10.77.0.1/24 dev NIC", "ip addr flush dev NIC scope global", "address 10.77.0.1"},
		{"an IPv6 address", "ip addr add fd77::1/64 dev NIC nodad", "ip -6 addr flush dev NIC scope global", "address fd77::1"},
		{"a route", "ip link set NIC up && ip route add 10.78.0.0/24 dev NIC", "ip route flush dev NIC", "route 10.78.0.0/24"},
		{"a route of another table", "ip link set NIC up && ip route add 10.78.0.0/24 dev NIC table 77", "ip route flush dev NIC table 77", "route 10.78.0.0/24"},
		{"a macvlan", "ip link add link NIC name mv7 type macvlan", "ip link del mv7", "below interface mv7"},
		{"a VLAN", "ip link add link NIC name vlan7 type vlan id 7", "ip link del vlan7", "below interface vlan7"},
		{"a macvlan of another pod", "ip link set NIC up && ip link add link NIC name mv7 type macvlan && ip link set mv7 netns mvpod && ip netns exec mvpod ip link set mv7 up",
			"ip netns exec mvpod ip link del mv7", "macvlan of a pod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			newPod(t, "mvpod")
			both(t, func(t *testing.T, s *site) {
				before, p, pci := world(t), newPod(t, "inuse"), vf(t, "eth0", other)
				name := netdev(pci)
				on := func(commands string) { sh(t, strings.ReplaceAll(commands, "NIC", name)) }
				on(c.do)
				for _, keys := range []map[string]any{{"deviceID": pci}, {"pf": "eth0", "vf": other}, {"pf": "eth0", "deviceID": pci, "driver": "vfio-pci"}} {
					_, err := s.add("sandbox000001", p, keys)
					refused(t, err, pci, "in use by the node", name, c.says, "allowInUse")
					s.mustDel("sandbox000001", p.Path(), keys)
				}
				on(c.undo)
				if !wasUp {
					on("ip link set NIC down")
				}
				sameWorld(t, before)
			})
		})
	}
	t.Run("allowInUse", func(t *testing.T) {
		both(t, func(t *testing.T, s *site) {
			before, p, pci := world(t), newPod(t, "allowed"), vf(t, "eth0", other)
			sh(t, "ip addr add 10.77.0.1/24 dev "+netdev(pci))
			keys := map[string]any{"deviceID": pci, "allowInUse": true}
			s.mustAdd("sandbox000001", p, keys)
			s.mustDel("sandbox000001", p.Path(), keys)
			sameWorld(t, before)
		})
	})
}

// A whole PF stays on the node as long as it, or any of its VFs, is in use.
func TestInUsePF(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		forms := []map[string]any{{"pf": "eth1", "pfOnly": true}, {"deviceID": "0000:02:00.0", "pfOnly": true, "vlan": 0, "vlanQoS": 0}}
		p, other := newPod(t, "whole"), newPod(t, "other")
		before := world(t)
		add := func(says ...string) {
			t.Helper()
			for _, whole := range forms {
				_, err := s.add("sandbox000001", p, whole)
				refused(t, err, says...)
				s.mustDel("sandbox000001", p.Path(), whole)
			}
		}
		for driver, n := range map[string]int{"kernel": 2, "vfio-pci": 3} {
			keys := map[string]any{"deviceID": vf(t, "eth1", n), "driver": driver}
			s.mustAdd("sandbox000002", other, keys)
			add("0000:02:00.0", vf(t, "eth1", n), "in use by sandbox sandbox000002")
			s.mustDel("sandbox000002", other.Path(), keys)
		}
		byHand(t, vf(t, "eth1", 4), other, func() { add("0000:02:00.0", vf(t, "eth1", 4), "another network namespace") })
		sameWorld(t, before)

		sh(t, "ip link add br7 type bridge && ip link set eth1 master br7")
		add("0000:02:00.0", "in use by the node", "eth1 belongs to interface br7")
		sh(t, "ip link del br7 && ip addr add 10.77.0.1/24 dev eth1")
		add("0000:02:00.0", "in use by the node", "address 10.77.0.1")
		sh(t, "ip addr flush dev eth1 scope global && ip route add 10.78.0.0/24 dev eth1")
		add("0000:02:00.0", "in use by the node", "route 10.78.0.0/24")
		sh(t, "ip route del 10.78.0.0/24 dev eth1 && ip route add default dev eth1")
		add("0000:02:00.0", "in use by the node", "default route")
		sh(t, "ip route del default dev eth1")
		awaitCarrier(t, "eth1")
		sameWorld(t, before)
	})
}

// up is the flag of an interface that is up, as ip shows it.
var up = regexp.MustCompile(`[<,]UP[,>]`)

// A pod that names a device gets no other one than the author of the NAD has
// left open, in its first annotation and in a later one.
func TestAskedDevice(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, object any) {
		data, err := json.Marshal(object)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, config := range map[string]string{
		"own":  `{"cniVersion": "1.1.0", "name": "own", "type": "sriov", "deviceID": "` + vf(t, "eth0", 1) + `"}`,
		"both": `{"cniVersion": "1.1.0", "name": "both", "type": "sriov", "pf": "eth0", "deviceID": "` + vf(t, "eth0", 1) + `"}`,
		"open": `{"cniVersion": "1.1.0", "name": "open", "type": "sriov", "pf": "eth0"}`,
		"host": `{"cniVersion": "1.1.0", "name": "host", "type": "host-device", "capabilities": {"deviceID": true}}`,
	} {
		write(name+".yaml", map[string]any{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": map[string]any{"name": name, "namespace": "default"}, "spec": map[string]any{"config": config}})
	}
	s := newSite(t, "plexus")
	config, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": s.dataDir, "manifests": dir,
		"delegates": []any{map[string]any{"name": "cluster", "type": "sriov", "deviceID": vf(t, "eth1", 0)}}})
	if err != nil {
		t.Fatal(err)
	}
	before, p := world(t), newPod(t, "asked")
	const args = "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=app;K8S_POD_UID=1"
	try := func(network, device string) error {
		write("app.yaml", map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "app", "namespace": "default", "uid": "1", "annotations": map[string]string{
			"k8s.v1.cni.cncf.io/networks": `[{"name": "` + network + `", "deviceID": "` + device + `", "interface": "net1"}]`}}})
		_, err := s.call("ADD", "sandbox000001", p.Path(), config, args, "CNI_IFNAME=eth0")
		if err == nil {
			has(t, "pod", inPod(t, p, "ip", "-d", "link", "show", "net1"), device)
		}
		if _, errDel := s.call("DEL", "sandbox000001", p.Path(), config, args, "CNI_IFNAME=eth0"); errDel != nil {
			t.Errorf("DEL: %v", errDel)
		}
		sameWorld(t, before)
		return err
	}
	const uplink = "0000:02:00.0"
	refused(t, try("own", uplink), "default/own", `"deviceID"`, uplink, "its own")
	refused(t, try("own", vf(t, "eth0", 2)), "default/own", `"deviceID"`, "its own")
	refused(t, try("both", vf(t, "eth0", 2)), "default/both", `"deviceID"`, "its own")
	refused(t, try("host", uplink), "default/host", `"deviceID"`, uplink)
	refused(t, try("open", uplink), uplink, "whole PF", "pfOnly")
	refused(t, try("open", "0000:01:00.0"), "0000:01:00.0", "whole PF", "pfOnly")
	refused(t, try("open", vf(t, "eth1", 3)), vf(t, "eth1", 3), uplink, "eth0")
	if err := try("open", vf(t, "eth0", 3)); err != nil {
		t.Error(err)
	}
}

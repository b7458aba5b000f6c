package sriov

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/rig/node"
)

// A VF is picked from PFs: a free one, of the first PF that has one.
func TestPick(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		p := newPod(t, "pick")
		type added struct {
			env  string
			keys map[string]any
		}
		var all []added
		add := func(keys map[string]any, args string) (string, error) {
			a := added{fmt.Sprintf("CNI_IFNAME=net%d", len(all)), keys}
			r, err := s.add("sandbox000001", p, keys, a.env, "CNI_ARGS="+args)
			if err != nil {
				return "", err
			}
			all = append(all, a)
			return r.Interfaces[0].PciID, nil
		}
		wants := func(keys map[string]any, args, want string) {
			t.Helper()
			if got, err := add(keys, args); got != want || err != nil {
				t.Errorf("%v %s: got %s, %v, want %s", keys, args, got, err, want)
			}
		}
		first, list := map[string]any{"pf": "eth0", "vlan": 7}, map[string]any{"pf": []string{"eth0", "eth1"}}
		third := map[string]any{"pf": "eth0", "vf": 3, "driver": "vfio-pci"}
		wants(first, "", vf(t, "eth0", 0))
		wants(third, "", vf(t, "eth0", 3))
		_, err := add(third, "")
		refused(t, err, "PF eth0", vf(t, "eth0", 3), "in use")
		wants(third, "IgnoreUnknown=1;VF=2", vf(t, "eth0", 2))
		for _, n := range []int{1, 4} {
			wants(first, "", vf(t, "eth0", n))
		}
		wants(map[string]any{"master": "eth0"}, "", vf(t, "eth0", 5)) // what plays the same part for the ancestors
		byHand(t, vf(t, "eth0", 6), p, func() {                       // another plugin has the last
			wants(list, "", vf(t, "eth1", 0))
			_, err = add(first, "")
			refused(t, err, "PF eth0", "no VF is free", "in use by sandbox sandbox000001, interface net0", "another network namespace")
		})
		wants(first, "", vf(t, "eth0", 6))
		for n := 1; n < numVFs; n++ {
			wants(list, "", vf(t, "eth1", n))
		}
		_, err = add(list, "")
		refused(t, err, "PF eth0", "PF eth1", "no VF is free")
		for _, a := range all {
			if _, err := s.call("DEL", "sandbox000001", p.Path(), s.conf(a.keys), a.env); err != nil {
				t.Errorf("DEL: %v", err)
			}
		}
		sameWorld(t, before)
	})
}

// A VF that will not do does not keep a pod from the others.
func TestPickBesides(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		p, first := newPod(t, "besides"), vf(t, "eth1", 0)
		sh(t, "echo "+first+" >/sys/bus/pci/devices/"+first+"/driver/unbind")
		t.Cleanup(func() { bind(t, first, "") })
		before, keys := world(t), map[string]any{"pf": "eth1"}
		if got := s.mustAdd("sandbox000001", p, keys).Interfaces[0].PciID; got != vf(t, "eth1", 1) {
			t.Errorf("got %s", got)
		}
		s.mustDel("sandbox000001", p.Path(), keys)
		sameWorld(t, before)
	})
}

// A whole PF goes into a pod and comes home.
func TestWholePF(t *testing.T) {
	setVFs(t, "eth1", 0)
	pfs = pfs[:1]
	t.Cleanup(func() {
		pfs = []string{"eth0", "eth1"}
		setVFs(t, "eth1", numVFs)
	})
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		for i, keys := range []map[string]any{
			{"pf": "eth1", "pfOnly": true, "mac": "02:00:00:00:00:55", "mtu": 9000, "promiscuous": true},
			{"deviceID": "0000:02:00.0", "pfOnly": true, "ipam": static("10.1.0.1/24")},
			{"deviceID": "0000:02:00.0", "pfOnly": true, "driver": "vfio-pci"},
		} {
			p := newPod(t, fmt.Sprintf("whole%d", i))
			r := s.mustAdd("sandbox000001", p, keys)
			if r.Interfaces[0].PciID != "0000:02:00.0" {
				t.Errorf("interface %+v", r.Interfaces[0])
			}
			switch i {
			case 0:
				has(t, "pod", inPod(t, p, "ip", "link", "show", "net1"), "02:00:00:00:00:55", "mtu 9000", "PROMISC", "UP")
			case 1:
				has(t, "pod", inPod(t, p, "ip", "addr", "show", "net1"), "52:54:00:00:00:02", "10.1.0.1/24", "mtu 1500")
				closed(t, p)
			}
			s.mustDel("sandbox000001", p.Path(), keys)
			awaitCarrier(t, "eth1")
			sameWorld(t, before)
		}
	})
}

// What the pod may receive besides its own is said, and ends with the pod.
func TestPromiscuous(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before, p := world(t), newPod(t, "promisc")
		for key, flag := range map[string]string{"promiscuous": "PROMISC", "allMulti": "ALLMULTI"} {
			keys := map[string]any{"deviceID": vf(t, "eth0", 0), "trust": "on", key: true}
			s.mustAdd("sandbox000001", p, keys)
			has(t, "pod", inPod(t, p, "ip", "link", "show", "net1"), flag)
			inPod(t, p, "ip", "link", "set", "net1", "promisc", "off", "allmulticast", "off")
			refused(t, s.check("sandbox000001", p, keys), "net1", key)
			inPod(t, p, "ip", "link", "set", "net1", "promisc", "on", "allmulticast", "on")
			s.mustDel("sandbox000001", p.Path(), keys)
			sameWorld(t, before)
		}
	})
}

// with adds keys at the top of a configuration.
func with(t testing.TB, config []byte, more map[string]any) []byte {
	t.Helper()
	all := map[string]any{}
	if err := json.Unmarshal(config, &all); err != nil {
		t.Fatal(err)
	}
	maps.Copy(all, more)
	data, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The pod is told its device: in the file of the device-information
// specification, and in network-status.
func TestDeviceInfo(t *testing.T) {
	dir := t.TempDir()
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: app, namespace: default, uid: '1'}\n"
	if err := os.WriteFile(filepath.Join(dir, "app.yaml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T, s *site) {
		before, p, pci := world(t), newPod(t, "devinfo"), vf(t, "eth0", 0)
		group, err := os.Readlink("/sys/bus/pci/devices/" + pci + "/iommu_group")
		if err != nil {
			t.Fatal(err)
		}
		group = filepath.Base(group)
		for driver, pciInfo := range map[string]string{
			"kernel":   `{"pci-address":"` + pci + `","pf-pci-address":"0000:01:00.0"}`,
			"vfio-pci": `{"pci-address":"` + pci + `","pf-pci-address":"0000:01:00.0","iommu-group":"` + group + `","device-node":"/dev/vfio/` + group + `"}`,
		} {
			const folder = "/var/run/k8s.cni.cncf.io/devinfo/cni/"
			file := folder + "default-fast-1-net1-device.json"
			config := with(t, s.conf(map[string]any{"deviceID": pci, "driver": driver}), map[string]any{
				"capabilities": map[string]bool{"CNIDeviceInfoFile": true}, "runtimeConfig": map[string]any{"CNIDeviceInfoFile": file}})
			if s.as == "plexus" {
				file = folder + "sandbox000001,net1.json"
				config = with(t, s.conf(map[string]any{"deviceID": pci, "driver": driver}), map[string]any{"manifests": dir})
			}
			args := "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=app;K8S_POD_UID=1"
			if _, err := s.call("ADD", "sandbox000001", p.Path(), config, args); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			wantJSON(t, string(text), "type", `"pci"`)
			wantJSON(t, string(text), "pci", pciInfo)
			if s.as == "plexus" {
				status, err := os.ReadFile(filepath.Join(dir, "app.status.json"))
				if err != nil {
					t.Fatal(err)
				}
				var published struct {
					Metadata struct{ Annotations map[string]string }
				}
				var networks []map[string]json.RawMessage
				if err := json.Unmarshal(status, &published); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(published.Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"]), &networks); err != nil || len(networks) != 1 {
					t.Fatalf("%s: %v", status, err)
				}
				wantJSON(t, string(networks[0]["device-info"]), "pci", pciInfo)
			}
			if _, err := s.call("DEL", "sandbox000001", p.Path(), config, args); err != nil {
				t.Fatal(err)
			}
			if s.as != "plexus" { // a caller's file is the caller's to remove
				if err := os.Remove(file); err != nil {
					t.Error(err)
				}
			}
			sameWorld(t, before)
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s is left", file)
			}
		}
	})
}

// wantJSON wants the value of a key.
func wantJSON(t testing.TB, text, key, want string) {
	t.Helper()
	var all map[string]any
	var wanted any
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Errorf("%q: %v", text, err)
		return
	}
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprint(all[key]), fmt.Sprint(wanted); a != b { // maps are printed in order
		t.Errorf("%s: %s, want %s", key, a, b)
	}
}

// CHECK notices what has been changed behind its back, whether it was asked for
// or just is as it was.
func TestCheck(t *testing.T) {
	asked := map[string]any{"vlan": 7, "vlanQoS": 1, "mac": "02:00:00:00:00:07", "mtu": 1400, "spoofchk": "off", "max_tx_rate": 100, "ipam": static("10.1.0.1/24")}
	unasked := map[string]any{"trust": "on", "ipam": static("10.1.0.1/24")}
	cases := []struct {
		name   string
		keys   map[string]any
		change string // on the node
		inPod  string
		says   []string
	}{
		{"vlan", asked, "ip link set eth0 vf 0 vlan 8 qos 1", "", []string{"VF 0 of eth0", "vlan 7"}},
		{"vlanQoS", asked, "ip link set eth0 vf 0 vlan 7", "", []string{"VF 0 of eth0", "vlanQoS 1"}},
		{"spoofchk", asked, "ip link set eth0 vf 0 spoofchk on", "", []string{"VF 0 of eth0", "spoofchk off"}},
		{"trust", unasked, "ip link set eth0 vf 0 trust off", "", []string{"VF 0 of eth0", "trust on"}},
		{"max_tx_rate", asked, "ip link set eth0 vf 0 max_tx_rate 50", "", []string{"VF 0 of eth0", "max_tx_rate"}},
		{"mac on the PF", asked, "ip link set eth0 vf 0 mac 02:00:00:00:00:08", "", []string{"VF 0 of eth0", "02:00:00:00:00:08", "02:00:00:00:00:07"}},
		{"mac in the pod", unasked, "", "ip link set net1 address 02:00:00:00:00:08", []string{"net1", "02:00:00:00:00:08"}},
		{"mtu", asked, "", "ip link set net1 mtu 1300", []string{"net1", "1300", "1400"}},
		{"mtu, not asked for", unasked, "", "ip link set net1 mtu 1300", []string{"net1", "1300", "1500"}},
		{"address", asked, "", "ip addr del 10.1.0.1/24 dev net1", []string{"net1", "10.1.0.1/24"}},
		{"down", unasked, "", "ip link set net1 down", []string{"net1", "up"}},
		{"renamed", asked, "", "ip link set net1 down;ip link set net1 name other;ip link set other up", []string{"net1", "other"}},
		{"driver", asked, "echo PCI >/sys/bus/pci/devices/PCI/driver/unbind", "", []string{"PCI", "no interface in the pod"}},
		{"driver, user space", map[string]any{"driver": "vfio-pci"}, "echo PCI >/sys/bus/pci/devices/PCI/driver/unbind", "", []string{"PCI", "no driver", "vfio-pci"}},
		{"vlan, user space", map[string]any{"driver": "vfio-pci", "vlan": 7}, "ip link set eth0 vf 0 vlan 8", "", []string{"VF 0 of eth0", "vlan 7"}},
	}
	both(t, func(t *testing.T, s *site) {
		before, p, pci := world(t), newPod(t, "check"), vf(t, "eth0", 0)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				s := newSite(t, s.as)
				keys := map[string]any{"deviceID": pci}
				maps.Copy(keys, c.keys)
				s.mustAdd("sandbox000001", p, keys)
				if c.change != "" {
					sh(t, strings.ReplaceAll(c.change, "PCI", pci))
				}
				if c.inPod != "" {
					for command := range strings.SplitSeq(c.inPod, ";") {
						inPod(t, p, strings.Fields(command)...)
					}
				}
				says := strings.Split(strings.ReplaceAll(strings.Join(c.says, "|"), "PCI", pci), "|")
				refused(t, s.check("sandbox000001", p, keys), says...)
				s.mustDel("sandbox000001", p.Path(), keys)
			})
		}
		sameWorld(t, before)
	})
}

// STATUS says whether there is a device, GC brings home what no valid attachment
// has, and runtimes of older versions get answers of theirs.
func TestVerbs(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		for device, says := range map[string][]string{
			`{"pf": "eth1"}`:               nil,
			`{"deviceID": "0000:01:10.0"}`: nil,
			`{"deviceID": "0000:07:10.0"}`: {"0000:07:10.0", "no such PCI device"},
			`{"pf": "eth77"}`:              {"eth77"},
			`{"pf": "eth0", "vlan": 4095}`: {"vlan", "4094"},
		} {
			keys := map[string]any{}
			if err := json.Unmarshal([]byte(device), &keys); err != nil {
				t.Fatal(err)
			}
			_, err := s.call("STATUS", "", "", s.conf(keys))
			if says == nil && err != nil {
				t.Errorf("STATUS of %s: %v", device, err)
			} else if says != nil {
				refused(t, err, says...)
			}
		}

		var pods []*node.Pod
		keys := []map[string]any{{"pf": "eth0", "vlan": 7}, {"pf": "eth0", "vlan": 8}, {"pf": "eth0", "vlan": 9, "driver": "vfio-pci"}}
		for i := range keys {
			pods = append(pods, newPod(t, fmt.Sprintf("verbs%d", i)))
			s.mustAdd(fmt.Sprintf("sandbox%06d", i), pods[i], keys[i])
		}
		valid := map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "sandbox000000", "ifname": "net1"}}}
		if _, err := s.call("GC", "", "", with(t, s.conf(keys[0]), valid)); err != nil {
			t.Errorf("GC: %v", err)
		}
		if err := s.check("sandbox000000", pods[0], keys[0]); err != nil {
			t.Errorf("CHECK of what is valid: %v", err)
		}
		s.mustDel("sandbox000000", pods[0].Path(), keys[0])
		sameWorld(t, before) // without the DEL of the others

		keys[0] = map[string]any{"pf": "eth0", "cniVersion": "0.3.1", "ipam": static("10.1.0.1/24")}
		old := with(t, s.conf(keys[0]), map[string]any{"cniVersion": "0.3.1"})
		out, err := s.call("ADD", "sandbox000000", pods[0].Path(), old)
		if err != nil {
			t.Fatal(err)
		}
		mac := regexp.MustCompile(`link/ether (\S+)`).FindStringSubmatch(inPod(t, pods[0], "ip", "link", "show", "net1"))[1]
		wantJSON(t, string(out), "cniVersion", `"0.3.1"`)
		wantJSON(t, string(out), "interfaces", `[{"name":"net1","mac":"`+mac+`","sandbox":"`+pods[0].Path()+`"}]`)
		wantJSON(t, string(out), "ips", `[{"version":"4","interface":0,"address":"10.1.0.1/24"}]`)
		if _, err := s.call("DEL", "sandbox000000", pods[0].Path(), old); err != nil {
			t.Errorf("DEL: %v", err)
		}
		sameWorld(t, before)

		r := s.mustAdd("sandbox000000", pods[0], map[string]any{"pf": "eth0", "mtu": 1400})
		want := types100.Interface{Name: "net1", Mac: r.Interfaces[0].Mac, Mtu: 1400, Sandbox: pods[0].Path(), PciID: vf(t, "eth0", 0)}
		if *r.Interfaces[0] != want || want.Mac == "" || r.CNIVersion != "1.1.0" {
			t.Errorf("result %+v, want %+v", r.Interfaces[0], want)
		}
		s.mustDel("sandbox000000", pods[0].Path(), map[string]any{"pf": "eth0"})
		sameWorld(t, before)
	})
}

package sriov

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hustcat's CNI_ARGS have VLAN beside VF and MAC; left out, the pod is silently
// on no VLAN.
func TestVLANOfCNIArgs(t *testing.T) {
	w, _, err := parseText(t, `{"master": "eth1", "vlan": 5}`, "IgnoreUnknown=1;VF=1;VLAN=7")
	if err != nil || w.settings.VLAN == nil || w.settings.VLAN.ID != 7 {
		t.Errorf("VLAN %v, %v, want 7", w.settings.VLAN, err)
	}
	_, _, err = parseText(t, `{"master": "eth1"}`, "VLAN=x")
	wantError(t, err, `"CNI_ARGS VLAN"`)
}

// intel's plugin takes a dpdk object without any text in it for none; and what
// is refused must not be named among what is allowed.
func TestEmptyDPDK(t *testing.T) {
	w, _, err := parseText(t, `{"if0": "eth1", "dpdk": {}}`, "")
	if err != nil || w.driver != "" {
		t.Errorf("%v, want the driver as found", err)
	}
	_, _, err = parseKeys(t, `"dpdk": {"dpdk_driver": "kernel"}`)
	if err == nil || strings.Contains(err.Error(), "allowed are kernel") {
		t.Errorf("error %q allows what it refuses", err)
	}
}

// null is as good as no key everywhere else (encoding/json).
func TestNullPF(t *testing.T) {
	if _, _, err := parseKeys(t, `"pf": null`); err != nil {
		t.Error(err)
	}
}

// Errors of the types that decode themselves name their key, whole.
func TestKeysOfErrors(t *testing.T) {
	for keys, key := range map[string]string{`"pf": 7`: `"pf"`, `"runtimeConfig": 7`: `"runtimeConfig"`, `"runtimeConfig": {"mac": 7}`: `"runtimeConfig.mac"`} {
		_, _, err := parseKeys(t, keys)
		wantError(t, err, key)
	}
}

// conf reads masterplugin: it has an effect, and is no reason for a warning.
func TestMasterplugin(t *testing.T) {
	if _, warnings, err := parseKeys(t, `"masterplugin": true`); err != nil || len(warnings) > 0 {
		t.Errorf("%v, warnings %q", err, warnings)
	}
}

// The kernel pads every attribute; where the last one is not, nl.ParseRouteAttr
// panics. FuzzParseVF finds it at once.
func TestUnpadded(t *testing.T) {
	mac := attr(1, u32s(5), make([]byte, 32))
	for name, data := range map[string][]byte{
		"at the end":        append(bytes.Clone(mac), 5, 0, 2, 0, 0),
		"in the VLAN list":  append(bytes.Clone(mac), attr(12, []byte{5, 0, 1, 0, 0})...),
		"in one that holds": {5, 0, 12, 0, 0},
	} {
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("%s: panic: %v", name, p)
				}
			}()
			_, _, _ = parseVF(slices.Clip(data))
		}()
	}
}

// Some drivers tell of protocol 0 as long as a VF has no VLAN (netdevsim,
// funeth, Broadcom's own bnxt_en): such a VLAN has to be restored as none, not
// as one of a protocol that no driver takes.
func TestVLANOfProtocol0(t *testing.T) {
	l, sent := captured(t)
	_ = l.setVF(5, 3, vlanTag{}.change())
	got := sent()
	clear(got[8:16])
	if d := cmp.Diff(message(19, 5, head(5, 0, 0), attr(22, attr(1, attr(2, u32s(3, 0, 0))))), got); d != "" {
		t.Error(d)
	}
}

// On a DPU the host's PF has a representor too, pf0 or c1pf0 (devlink's names of
// ports of flavour pcipf); it is not what the DPU's own VFs are set on.
func TestRepresentorOfAPF(t *testing.T) {
	s := newTree(t)
	for name, port := range map[string]string{"pf0hpf": "pf0", "pf0ext": "c1pf0"} {
		s.netdev(pfPCI, name, 1)
		s.file(pfPCI, "net/"+name+"/phys_port_name", port+"\n")
	}
	all, err := s.netdevs(pfPCI)
	if d := cmp.Diff([]netdev{{"eth0", 2}}, all); d != "" || err != nil {
		t.Error(d, err)
	}
}

// The interface of a virtio or USB device has a device, but no PCI address.
func TestPFOfNoPCIDevice(t *testing.T) {
	s := newTree(t)
	s.link("../../../virtio0", filepath.Join(string(s.sysfs), "class/net/ens3/device"))
	pci, err := s.pf("ens3")
	if err == nil {
		t.Errorf("PF %s", pci)
		return
	}
	wantError(t, err, "ens3", "PCI device")
}

// Without a group there is no device node.
func TestNoIOMMUGroup(t *testing.T) {
	if group, node, err := newTree(t).iommuGroup(vf2PCI, "vfio-pci"); group != "" || node != "" || err != nil {
		t.Errorf("%q %q, %v", group, node, err)
	}
}

// A function with two interfaces gets them one after the other when its driver
// starts anew; bringHome and address need both.
func TestAwaitBothInterfaces(t *testing.T) {
	s := newTree(t)
	s.netdev(vf2PCI, "eth2", 8)
	second := s.device(vf2PCI, "net/eth3")
	done := make(chan error)
	go func() {
		time.Sleep(50 * time.Millisecond)
		err := os.MkdirAll(second+".new", 0o755)
		if err == nil {
			err = os.WriteFile(second+".new/ifindex", []byte("9\n"), 0o644)
		}
		done <- errors.Join(err, os.Rename(second+".new", second))
	}()
	err := s.awaitNetdevs(t.Context(), vf2PCI, 2)
	all, errList := s.netdevs(vf2PCI)
	if err != nil || errList != nil || len(all) != 2 {
		t.Errorf("%v, %v, want both", all, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A device that the runtime names is one, and needs no other in its place.
func TestParseOfRuntimeConfig(t *testing.T) {
	if _, _, err := New(logTo(t)).Parse("default/fast", []byte(`{"runtimeConfig": {"deviceID": "0000:03:02.3"}}`)); err != nil {
		t.Error(err)
	}
}

// Ready looks at the device whichever key names it.
func TestReadyOfPCIBusID(t *testing.T) {
	n, _, err := New(logTo(t)).Parse("default/fast", []byte(`{"pciBusID": "0000:ff:1f.7"}`))
	if err == nil {
		err = n.Ready(t.Context())
	}
	if !errors.Is(err, errNoDevice) {
		t.Errorf("%v, want %v", err, errNoDevice)
	}
}

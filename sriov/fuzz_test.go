package sriov

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// FuzzParse feeds whatever a NAD and CNI_ARGS may hold: nothing panics, what is
// accepted is within its bounds, and what is not is said by its key.
func FuzzParse(f *testing.F) {
	for _, seed := range [][2]string{
		{`{}`, ""}, {`null`, ""}, {``, "MAC"}, {`{"a`, ";"},
		{`{"deviceID": "0000:03:02.3", "pciBusID": "0000:03:02.3", "vlan": 4094, "vlanQoS": 7, "vlanProto": "802.1ad", "mac": "02:00:00:00:00:01", "spoofchk": "off", "trust": "on"}`, "IgnoreUnknown=1;VF=1;MAC=66:d8:02:77:aa:aa"},
		{`{"pf": "eth1,eth2", "vf": 3, "link_state": "auto", "min_tx_rate": 1, "max_tx_rate": 2147483647, "mtu": 9000, "driver": "vfio-pci", "baseline": {"vlan": 1, "mac": "02:00:00:00:00:02"}}`, "VF=65535"},
		{`{"pf": ["eth1", "0000:03:00.0"], "runtimeConfig": {"mac": "x", "infinibandGUID": "00:11:22:33:44:55:66:77", "deviceID": "0000:03:02.3"}}`, "MAC=;VF=x"},
		{`{"if0": "ens786f1", "if0name": "net0", "l2enable": true, "dpdk": {"kernel_driver": "ixgbevf", "dpdk_driver": "igb_uio", "dpdk_tool": "/x"}}`, ""},
		{`{"master": "eth1", "pfOnly": true, "promiscuous": true, "allMulti": true, "driver": "kernel"}`, ""},
		{`{"deviceID": "0000:03:02.3", "vlan": 0, "vlanQoS": 1, "min_tx_rate": 2, "max_tx_rate": 1, "baseline": {"vlanProto": "x"}}`, ""},
		{`{"deviceID": "0000:03:02.3\n", "pf": [""], "master": "../x", "if0": " ", "runtimeConfig": {"infinibandGUID": "0:0"}}`, "VF=-1"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, argText string) {
		args, err := conf.ParseArgs(argText)
		if err != nil {
			return
		}
		parsed, _, err := New(logTo(t)).Parse("n", []byte(text))
		n, _ := parsed.(*network)
		var w *spec
		if err == nil {
			w, err = n.specToReserve(args)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "network n: sriov: ") {
				t.Errorf("error %q does not say whose", err)
			}
			// One that is no JSON, or no object, has no keys.
			if json.Valid([]byte(text)) && strings.HasPrefix(strings.TrimSpace(text), "{") && len(text) <= 1<<20 && !strings.Contains(err.Error(), "key") {
				t.Errorf("error %q names no key", err)
			}
			return
		}
		checkSpec(t, w, &n.config)
	})
}

func checkSpec(t *testing.T, w *spec, c *Config) {
	t.Helper()
	if w.device == "" && len(w.pfs) == 0 || w.device != "" && !pciForm.MatchString(w.device) || w.device != strings.ToLower(w.device) {
		t.Errorf("device %q, PFs %q", w.device, w.pfs)
	}
	for _, name := range w.pfs {
		if !pciForm.MatchString(name) && conf.CheckIfName(name) != nil {
			t.Errorf("PF %q", name)
		}
	}
	if w.vf < -1 || w.vf > maxVF || w.mtu != 0 && (w.mtu < minMTU || w.mtu > maxMTU) || c.IF0Name != "" && conf.CheckIfName(c.IF0Name) != nil {
		t.Errorf("VF %d, mtu %d, if0name %q", w.vf, w.mtu, c.IF0Name)
	}
	if w.mac != nil && (len(w.mac) != 6 || w.mac[0]&1 != 0) || w.guid != nil && len(w.guid) != 8 || w.baseline.MAC != nil && len(w.baseline.MAC) != 6 {
		t.Errorf("mac %s, GUID %s, baseline.mac %s", w.mac, w.guid, w.baseline.MAC)
	}
	for _, s := range []settings{w.settings, w.baseline.settings} {
		if v := s.VLAN; v != nil && (v.ID > 4094 || v.QoS > 7 || v.Proto != proto8021q && v.Proto != proto8021ad || v.ID == 0 && (v.QoS != 0 || v.Proto != proto8021q)) {
			t.Errorf("%+v", v)
		}
		if s.LinkState != nil && *s.LinkState > 2 || s.MinRate != nil && *s.MinRate > math.MaxInt32 || s.MaxRate != nil && *s.MaxRate > math.MaxInt32 ||
			s.MinRate != nil && s.MaxRate != nil && *s.MaxRate != 0 && *s.MinRate > *s.MaxRate {
			t.Errorf("%+v", s)
		}
	}
	if w.pfOnly && (w.settings != settings{} || w.vf >= 0 || w.guid != nil || c.Baseline != nil || w.device == "" && len(w.pfs) != 1) {
		t.Errorf("a whole PF with %+v", w)
	}
	if w.driver != "" && w.driver != driverKernel && (w.promisc || w.allMulti) {
		t.Errorf("driver %q has no interface to set", w.driver)
	}
}

// FuzzParseVF feeds what a PF says of a VF.
func FuzzParseVF(f *testing.F) {
	for _, seed := range goldenVFs {
		f.Add(seed.data())
	}
	f.Add([]byte{})
	f.Add([]byte{40, 0, 1, 0})
	f.Add([]byte{3, 0, 1, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		v, n, err := parseVF(data)
		if err != nil {
			return
		}
		if n < 0 || int64(n) > math.MaxUint32 || len(v.MAC) != 6 {
			t.Errorf("VF %d: %+v", n, v)
		}
		if len(changes(v.settings, v.settings)) > 0 {
			t.Errorf("%+v differs from itself", v)
		}
	})
}

// FuzzReservation feeds the file of a reservation: what is read is the function's and can be
// written again.
func FuzzReservation(f *testing.F) {
	pci := fmt.Sprintf("0000:%02x:%02x.%d", os.Getpid()>>11&0xff, os.Getpid()>>3&0xff, os.Getpid()&7) // each worker has its own
	whole, err := json.Marshal(reservation{PCI: pci, Owner: "/var/lib/plexus", Sandbox: "s", IfName: "net1", Netns: "/run/netns/x", NetnsID: "1:2",
		Original: snapshot{Incarnation: 7, Driver: "iavf", Links: []linkSnapshot{{Name: "eth1", AltNames: []string{"a"}, MAC: zeroMAC, MTU: 1500, Up: true}},
			VF: &vfInfo{settings{VLAN: &vlanTag{7, 3, proto8021ad}, Trust: new(true), MinRate: new(uint32(1))}, zeroMAC}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(whole), `null`, `{}`, ``, `{"pci": "` + pci + `"}`, `{"pci": "` + pci + `", "sandbox": "s", "found": {"vf": null, "links": [{}]}}`, `{"pci": "0000:00:00.0", "sandbox": "s"}`, `[]`} {
		f.Add([]byte(seed), pci)
	}
	if err := os.MkdirAll(reservationDir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, as string) {
		data = bytes.ReplaceAll(data, []byte(as), []byte(pci)) // so that a seed of another process is one here
		if err := os.WriteFile(reservationFile(pci), data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readReservation(pci)
		if err != nil {
			wantError(t, err, pci, "remove the file")
			return
		}
		if c == nil || c.PCI != pci || c.Sandbox == "" {
			t.Fatalf("reservation %+v is accepted", c)
		}
		_, _ = c.driverMAC(), c.live() != ""
		if c.Original.VF != nil {
			c.home()
		}
		if err := c.write(); err != nil {
			t.Fatal(err)
		}
		again, err := readReservation(pci)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(asJSON(t, c), asJSON(t, again)) {
			t.Errorf("written again it is another: %s", cmp.Diff(c, again))
		}
		if err := c.remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(reservationFile(pci)); !errors.Is(err, unix.ENOENT) {
			t.Errorf("it is there still: %v", err)
		}
	})
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

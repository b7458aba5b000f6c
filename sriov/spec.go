package sriov

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// spec is what a configuration and CNI_ARGS ask for, in the kernel's terms.
type spec struct {
	device     string   // PCI address; empty: one of pfs, or a VF of one of them
	pfs        []string // names of interfaces, or PCI addresses
	vf         int      // -1: any
	pfOnly     bool
	allowInUse bool

	settings settings // of the VF, on its PF
	mac      net.HardwareAddr
	guid     net.HardwareAddr
	mtu      int
	driver   string
	l2       bool // no addresses
	promisc  bool
	allMulti bool
	baseline vfInfo
}

// kernel reports whether a function that has a driver is to have a kernel interface.
func (s *spec) kernel(driver string) bool {
	return !slices.Contains(userDrivers, cmp.Or(s.driver, driver))
}

// resolve checks every key. A configuration may leave the device to a device plugin, so
// that neither device nor PF are named.
func (c *Config) resolve(args conf.Args, r requests) (*spec, error) {
	errs := keyErrors{}
	// As the older plugins have it, CNI_ARGS are over the configuration.
	vf := errs.number("vf", errs.arg("VF", cmp.Or(args.Get("VF"), args.Get("vf")), maxVF, c.VF), maxVF)
	onPF := c.Settings
	onPF.VLAN = errs.arg("VLAN", args.Get("VLAN"), maxVLAN, c.VLAN)
	s := &spec{
		device: c.device(r, &errs), pfs: c.pfs(&errs), vf: -1, pfOnly: c.PFOnly, allowInUse: c.AllowInUse, settings: errs.settings(onPF),
		mac: c.mac(r, args, &errs), guid: errs.address("runtimeConfig.infinibandGUID", r.RuntimeConfig.GUID, 8, "00:11:22:33:44:55:66:77, not all zero"),
		mtu: c.MTU, driver: c.driver(&errs), l2: c.L2Enable, promisc: c.Promiscuous, allMulti: c.AllMulti,
	}
	if vf != nil {
		s.vf = int(*vf)
	}
	if b := c.Baseline; b != nil {
		ofBaseline := keyErrors{prefix: "baseline."}
		s.baseline = vfInfo{ofBaseline.settings(*b), ofBaseline.mac("mac", b.MAC)}
		errs.all = append(errs.all, ofBaseline.all...)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		errs.bad("mtu", "%d, want %d to %d", c.MTU, minMTU, maxMTU)
	}
	if err := conf.CheckIfName(c.IF0Name); c.IF0Name != "" && err != nil {
		errs.bad("if0name", "%v", err)
	}
	if v := s.settings.VLAN; s.pfOnly && v != nil && v.ID == 0 { // the SR-IOV network operator always writes it
		s.settings.VLAN = nil
	}
	if s.pfOnly && s.device == "" && len(s.pfs) > 1 {
		errs.bad("pfOnly", "want one PF, there are %d", len(s.pfs))
	}
	if s.pfOnly && (s.settings != settings{} || c.Baseline != nil || s.guid != nil || s.vf >= 0) {
		errs.bad("pfOnly", "a whole PF has no VF settings: leave out vf, vlan, vlanQoS, vlanProto, spoofchk, trust, link_state, min_tx_rate, max_tx_rate, baseline")
	}
	return s, errors.Join(errs.all...)
}

// Bounds of an MTU, in bytes; a PF has its own as well.
const minMTU, maxMTU = 68, 65535

// maxVF bounds the number of a VF: PCI has 16 bits for a function (PCIe base
// specification, section 9.3.3).
const maxVF = 1<<16 - 1

// maxVLAN is the highest number of a VLAN (IEEE 802.1Q).
const maxVLAN = 4094

var pciForm = regexp.MustCompile(`^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)

// device is the PCI address that is named, in small letters.
func (c *Config) device(r requests, errs *keyErrors) (device string) {
	for _, d := range []struct{ key, value string }{{"deviceID", c.DeviceID}, {"pciBusID", c.PCIBusID}, {"runtimeConfig.deviceID", r.RuntimeConfig.DeviceID}} {
		switch {
		case d.value == "":
		case !pciForm.MatchString(d.value):
			errs.bad(d.key, "%.60q, want a PCI address like 0000:03:02.3", d.value)
		case device != "" && device != strings.ToLower(d.value):
			errs.bad(d.key, "%s, but another key says %s: which device is it?", d.value, device)
		default:
			device = strings.ToLower(d.value)
		}
	}
	return device
}

// pfs are the PFs that are named.
func (c *Config) pfs(errs *keyErrors) (pfs []string) {
	add := func(key, name string) {
		name = strings.TrimSpace(name)
		if !pciForm.MatchString(name) && conf.CheckIfName(name) != nil {
			errs.bad(key, "%.60q, want the name of an interface, or a PCI address", name)
		} else if !slices.Contains(pfs, name) {
			pfs = append(pfs, name)
		}
	}
	for _, name := range c.PF {
		add("pf", name)
	}
	if c.Master != "" {
		add("master", c.Master)
	}
	if c.IF0 != "" {
		add("if0", c.IF0)
	}
	return pfs
}

// mac goes by runtimeConfig, CNI_ARGS, configuration, in this order.
func (c *Config) mac(r requests, args conf.Args, errs *keyErrors) net.HardwareAddr {
	for _, m := range []struct{ key, value string }{{"runtimeConfig.mac", r.RuntimeConfig.MAC}, {"CNI_ARGS MAC", args.Get("MAC")}, {"mac", c.MAC}} {
		if m.value != "" {
			return errs.mac(m.key, m.value)
		}
	}
	return nil
}

// driver is the one that the function is to have, empty: as it is.
func (c *Config) driver(errs *keyErrors) string {
	key, driver, allowed := "driver", c.Driver, append([]string{driverKernel}, userDrivers...)
	if c.DPDK != nil && *c.DPDK != (legacyDPDK{}) {
		key, driver, allowed = "dpdk.dpdk_driver", c.DPDK.DPDKDriver, userDrivers
		if c.Driver != "" {
			errs.bad("driver", "\"dpdk\" says it already: leave out one of them")
		}
	} else if driver == "" {
		return ""
	}
	if !slices.Contains(allowed, driver) {
		errs.bad(key, "%.40q, allowed are %s", driver, strings.Join(allowed, ", "))
	}
	if driver != driverKernel && (c.Promiscuous || c.AllMulti) {
		errs.bad("promiscuous, allMulti", "with driver %s there is no kernel interface to set", driver)
	}
	return driver
}

// keyErrors collects what is wrong with keys.
type keyErrors struct {
	prefix string // of the keys
	all    []error
}

func (e *keyErrors) bad(key, format string, args ...any) {
	e.all = append(e.all, fmt.Errorf("key %q: %s", e.prefix+key, fmt.Sprintf(format, args...)))
}

// settings checks a VF's settings on its PF.
func (e *keyErrors) settings(c Settings) settings {
	const most = 1<<31 - 1
	s := settings{
		VLAN: e.vlan(c), SpoofChk: e.onOff("spoofchk", c.SpoofChk), Trust: e.onOff("trust", c.Trust), LinkState: e.choice("link_state", c.LinkState, linkStates),
		MinRate: e.number("min_tx_rate", c.MinTxRate, most), MaxRate: e.number("max_tx_rate", c.MaxTxRate, most),
	}
	if s.MinRate != nil && s.MaxRate != nil && *s.MaxRate != 0 && *s.MinRate > *s.MaxRate {
		e.bad("min_tx_rate", "%d, more than max_tx_rate %d", *s.MinRate, *s.MaxRate)
	}
	return s
}

func (e *keyErrors) vlan(c Settings) *vlanTag {
	id, qos := e.number("vlan", c.VLAN, maxVLAN), e.number("vlanQoS", c.VLANQoS, 7)
	proto := value(e.choice("vlanProto", strings.ToLower(c.VLANProto), []string{"802.1q", "802.1ad"}))
	tag := vlanTag{value(id), value(qos), []uint16{proto8021q, proto8021ad}[proto]}
	switch {
	case c.VLAN == nil && c.VLANQoS != nil:
		e.bad("vlanQoS", "it needs \"vlan\"")
	case c.VLAN == nil && c.VLANProto != "":
		e.bad("vlanProto", "it needs \"vlan\"")
	case id != nil && *id == 0 && tag.QoS != 0:
		e.bad("vlanQoS", "%d: vlan 0 is no VLAN, it has no priority", tag.QoS)
	case id != nil && *id == 0 && tag.Proto == proto8021ad:
		e.bad("vlanProto", "802.1ad: vlan 0 is no VLAN")
	}
	if id == nil {
		return nil
	}
	return &tag
}

// arg is a number that CNI_ARGS have, or otherwise the configuration's.
func (e *keyErrors) arg(key, text string, most int, otherwise *int) *int {
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		e.bad("CNI_ARGS "+key, "%.20q, want 0 to %d", text, most)
		return otherwise
	}
	return &n
}

// number is nil for a key that is not there, or out of range.
func (e *keyErrors) number(key string, value *int, most int) *uint32 {
	if value == nil {
		return nil
	}
	if *value < 0 || *value > most {
		e.bad(key, "%d, want 0 to %d", *value, most)
		return nil
	}
	return new(uint32(*value))
}

// choice is the number of a value in a list, nil for an empty one or one that is not there.
func (e *keyErrors) choice(key, value string, allowed []string) *uint32 {
	i := slices.Index(allowed, value)
	if i >= 0 {
		return new(uint32(i))
	}
	if value != "" {
		e.bad(key, "%.40q, allowed are %s", value, strings.Join(allowed, ", "))
	}
	return nil
}

func (e *keyErrors) onOff(key, value string) *bool {
	if i := e.choice(key, value, []string{"on", "off"}); i != nil {
		return new(*i == 0)
	}
	return nil
}

func (e *keyErrors) mac(key, value string) net.HardwareAddr {
	return e.address(key, value, 6, "02:00:00:00:00:01, no multicast address")
}

// address has size bytes; like is an example for errors.
func (e *keyErrors) address(key, value string, size int, like string) net.HardwareAddr {
	if value == "" {
		return nil
	}
	hw, err := net.ParseMAC(value)
	if err != nil || len(hw) != size || size == 6 && hw[0]&1 != 0 || bytes.Equal(hw, make([]byte, size)) {
		e.bad(key, "%.60q, want %d bytes like %s", value, size, like)
		return nil
	}
	return hw
}

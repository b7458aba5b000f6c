// Package sriov gives pods virtual functions of SR-IOV NICs, and whole physical
// functions.
//
// A function is known by its PCI address, whatever its interface is called and
// wherever it is. In kernel mode its interface moves into the pod (rtnetlink(7),
// RTM_SETLINK with IFLA_NET_NS_FD and IFLA_IFNAME); in DPDK mode the function is
// bound to a user-space driver (sysfs, driver_override and drivers_probe). What
// a VF is on the wire, VLAN, MAC, rates and so on, is set on its PF
// (IFLA_VFINFO_LIST, linux/if_link.h).
//
// Before the first change a function gets a claim, a file that says whose it is
// and how it was found. DEL restores from it, and touches nothing that somebody
// else has claimed since.
//
// Configurations of type sriov have the keys of Config: sriov-cni's, those of
// its ancestors, and some of plexus' own.
package sriov

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// Config is the configuration of type sriov.
type Config struct {
	DeviceID string `json:"deviceID"` // PCI address of the VF, with pfOnly of the PF
	PCIBusID string `json:"pciBusID"` // the same, as Multus writes it too
	PF       names  `json:"pf"`       // a free VF of one of these, by interface name or PCI address; with a deviceID, which VFs it may be
	VF       *int   `json:"vf"`       // and this one of them
	PFOnly   bool   `json:"pfOnly"`   // the whole PF

	// AllowInUse lets the pod have a function that the node uses: its interface
	// has a master, an upper interface, an address or a route of the node.
	AllowInUse bool `json:"allowInUse"`

	VLAN      *int   `json:"vlan"`      // 0 to 4094, 0 is none
	VLANQoS   *int   `json:"vlanQoS"`   // 0 to 7
	VLANProto string `json:"vlanProto"` // 802.1q (default) or 802.1ad
	MAC       string `json:"mac"`
	SpoofChk  string `json:"spoofchk"` // on or off
	Trust     string `json:"trust"`    // on or off
	LinkState string `json:"link_state"`
	MinTxRate *int   `json:"min_tx_rate"` // Mbit/s, 0 is no bound
	MaxTxRate *int   `json:"max_tx_rate"` // likewise
	MTU       int    `json:"mtu"`         // bytes, at most the PF's
	Driver    string `json:"driver"`      // kernel, a user-space driver, or empty: as found

	Promiscuous bool `json:"promiscuous"`
	AllMulti    bool `json:"allMulti"`

	// Baseline is what DEL restores instead of what ADD found.
	Baseline *Baseline `json:"baseline"`

	// Keys of sriov-cni's ancestors.
	Master   string      `json:"master"`
	IF0      string      `json:"if0"`
	IF0Name  string      `json:"if0name"`  // the interface's name in the pod
	L2Enable bool        `json:"l2enable"` // no addresses; a VF with two interfaces needs it
	CNIDir   string      `json:"cniDir"`   // accepted; plexus keeps its own state
	DPDK     *legacyDPDK `json:"dpdk"`

	LogFile  string `json:"logFile"`  // accepted; plexus logs
	LogLevel string `json:"logLevel"` // likewise
	VFID     *int   `json:"vfid"`     // accepted, as sriov-cni writes it; it follows from the device

	RuntimeConfig asked `json:"runtimeConfig"`
}

// Baseline are settings on the PF side.
type Baseline struct {
	VLAN      *int   `json:"vlan"`
	VLANQoS   *int   `json:"vlanQoS"`
	VLANProto string `json:"vlanProto"`
	MAC       string `json:"mac"`
	SpoofChk  string `json:"spoofchk"`
	Trust     string `json:"trust"`
	LinkState string `json:"link_state"`
	MinTxRate *int   `json:"min_tx_rate"`
	MaxTxRate *int   `json:"max_tx_rate"`
}

// legacyDPDK asks for DPDK mode. The tool is not executed.
type legacyDPDK struct {
	KernelDriver string `json:"kernel_driver"`
	DPDKDriver   string `json:"dpdk_driver"`
	DPDKTool     string `json:"dpdk_tool"`
}

// asked is what the runtime puts into any configuration; the rest of it is for
// others.
type asked struct {
	MAC      string
	DeviceID string
	GUID     string
}

// UnmarshalJSON leaves the other keys alone.
func (a *asked) UnmarshalJSON(data []byte) error {
	var keys struct {
		MAC      string `json:"mac"`
		DeviceID string `json:"deviceID"`
		GUID     string `json:"infinibandGUID"`
	}
	if err := json.Unmarshal(data, &keys); err != nil {
		key := "runtimeConfig"
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && t.Field != "" {
			key += "." + t.Field
		}
		return fmt.Errorf("key %q: it is of the wrong kind", key)
	}
	*a = asked{keys.MAC, keys.DeviceID, keys.GUID}
	return nil
}

// names is one name or a list of them.
type names []string

// UnmarshalJSON takes "a", "a,b" and ["a", "b"].
func (n *names) UnmarshalJSON(data []byte) error {
	var one *string
	if json.Unmarshal(data, (*[]string)(n)) != nil && json.Unmarshal(data, &one) != nil {
		return fmt.Errorf("key %q: want a name or a list of names", "pf")
	}
	if one != nil {
		*n = strings.Split(*one, ",")
	}
	return nil
}

// Drivers of user space. With the others a function has a kernel interface.
var userDrivers = []string{"vfio-pci", "uio_pci_generic", "igb_uio"}

const driverKernel = "kernel"

// Protocols of VLAN tags (linux/if_ether.h).
const (
	proto8021q  = 0x8100
	proto8021ad = 0x88a8
)

// Link states of a VF (linux/if_link.h, IFLA_VF_LINK_STATE_*).
var linkStates = map[string]uint32{"auto": 0, "enable": 1, "disable": 2}

// want is what a configuration asks for, in the kernel's terms.
type want struct {
	device     string // PCI address; empty: pick
	pfs        []string
	vf         int // -1: any
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

	config *Config
}

func parse(a conf.Attachment) (*want, []string, error) {
	c := &Config{}
	object := fmt.Sprintf("network %s: sriov", a.Network)
	warnings, err := conf.Decode(object, a.Conf, c, conf.RefuseSlips)
	if err != nil {
		return nil, nil, conf.Refuse(err)
	}
	w, err := c.resolve(a.Args)
	if err != nil {
		return nil, nil, conf.Refuse(fmt.Errorf("%s: %w", object, err))
	}
	return w, warnings, nil
}

// complaints collects what is wrong with keys.
type complaints []error

func (b *complaints) bad(key, format string, args ...any) {
	*b = append(*b, fmt.Errorf("key %q: %s", key, fmt.Sprintf(format, args...)))
}

// resolve checks every key and says what is asked for.
func (c *Config) resolve(args conf.Args) (*want, error) {
	var errs complaints
	w := &want{vf: -1, allowInUse: c.AllowInUse, config: c, mtu: c.MTU, l2: c.L2Enable, promisc: c.Promiscuous, allMulti: c.AllMulti}
	c.resolveDevice(w, args, &errs)
	onPF := c.onPF()
	if arg := args.Get("VLAN"); arg != "" {
		n, err := strconv.Atoi(arg)
		if err != nil {
			errs.bad("CNI_ARGS VLAN", "%.20q, want 0 to 4094", arg)
		}
		onPF.VLAN = &n
	}
	w.settings = resolveSettings("", onPF, &errs)
	w.mac = resolveMAC(w, c, args, &errs)
	if b := c.Baseline; b != nil {
		w.baseline = vfInfo{resolveSettings("baseline.", *b, &errs), parseMAC("baseline.mac", b.MAC, &errs)}
	}
	if g := c.RuntimeConfig.GUID; g != "" {
		hw, err := net.ParseMAC(g)
		if err != nil || len(hw) != 8 || bytes.Equal(hw, make([]byte, 8)) {
			errs.bad("runtimeConfig.infinibandGUID", "%.60q, want 8 bytes like 00:11:22:33:44:55:66:77, not all zero", g)
		}
		w.guid = hw
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		errs.bad("mtu", "%d, want %d to %d", c.MTU, minMTU, maxMTU)
	}
	c.resolveDriver(w, &errs)
	if c.IF0Name != "" {
		if err := conf.CheckIfName(c.IF0Name); err != nil {
			errs.bad("if0name", "%v", err)
		}
	}
	if w.pfOnly && (w.settings != settings{} || c.Baseline != nil || w.guid != nil || w.vf >= 0) {
		errs.bad("pfOnly", "a whole PF has no VF settings: leave out vf, vlan, vlanQoS, vlanProto, spoofchk, trust, link_state, min_tx_rate, max_tx_rate, baseline")
	}
	return w, errors.Join(errs...)
}

// Bounds of an MTU, in bytes; a PF has its own as well.
const minMTU, maxMTU = 68, 65535

func (c *Config) onPF() Baseline {
	return Baseline{c.VLAN, c.VLANQoS, c.VLANProto, "", c.SpoofChk, c.Trust, c.LinkState, c.MinTxRate, c.MaxTxRate}
}

// resolveDevice finds out which function is meant.
func (c *Config) resolveDevice(w *want, args conf.Args, errs *complaints) {
	for _, d := range []struct{ key, value string }{{"deviceID", c.DeviceID}, {"pciBusID", c.PCIBusID}, {"runtimeConfig.deviceID", c.RuntimeConfig.DeviceID}} {
		switch {
		case d.value == "":
		case !pciForm.MatchString(d.value):
			errs.bad(d.key, "%.60q, want a PCI address like 0000:03:02.3", d.value)
		case w.device != "" && w.device != strings.ToLower(d.value):
			errs.bad(d.key, "%s, but another key says %s: which device is it?", d.value, w.device)
		default:
			w.device = strings.ToLower(d.value)
		}
	}
	for _, d := range []struct {
		key    string
		values []string
	}{{"pf", c.PF}, {"master", nonEmpty(c.Master)}, {"if0", nonEmpty(c.IF0)}} {
		for _, name := range d.values {
			name = strings.TrimSpace(name)
			if !pciForm.MatchString(name) && conf.CheckIfName(name) != nil {
				errs.bad(d.key, "%.60q, want the name of an interface, or a PCI address", name)
			} else if !slices.Contains(w.pfs, name) {
				w.pfs = append(w.pfs, name)
			}
		}
	}
	w.vf = c.number("vf", c.VF, cmp.Or(args.Get("VF"), args.Get("vf")), errs)
	w.pfOnly = c.PFOnly
	if w.device == "" && len(w.pfs) == 0 {
		errs.bad("deviceID", "there is none: the NAD's annotation k8s.v1.cni.cncf.io/resourceName lets a device plugin choose one; or name a PCI address here, or one or several PFs with \"pf\"")
	}
	if w.pfOnly && w.device == "" && len(w.pfs) > 1 {
		errs.bad("pfOnly", "want one PF, there are %d", len(w.pfs))
	}
}

// number is that of a VF: what CNI_ARGS say, as the older plugins have it, over
// the configuration. Neither is -1.
func (c *Config) number(key string, value *int, arg string, errs *complaints) int {
	if arg != "" {
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 || n > maxVF {
			errs.bad("CNI_ARGS "+strings.ToUpper(key), "%.20q, want 0 to %d", arg, maxVF)
		}
		return n
	}
	if value == nil {
		return -1
	}
	if *value < 0 || *value > maxVF {
		errs.bad(key, "%d, want 0 to %d", *value, maxVF)
	}
	return *value
}

// maxVF bounds the number of a VF: PCI has 16 bits for a function (PCIe base
// specification, section 9.3.3).
const maxVF = 1<<16 - 1

var pciForm = regexp.MustCompile(`^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)

// resolveSettings checks the keys of a VF's settings on its PF.
func resolveSettings(prefix string, c Baseline, errs *complaints) settings {
	var s settings
	bad := func(key, format string, args ...any) { errs.bad(prefix+key, format, args...) }
	inRange := func(key string, value *int, most int) *uint32 {
		if value == nil {
			return nil
		}
		if *value < 0 || *value > most {
			bad(key, "%d, want 0 to %d", *value, most)
			return nil
		}
		n := uint32(*value)
		return &n
	}
	onOff := func(key, value string) *bool {
		switch value {
		case "on", "off":
			on := value == "on"
			return &on
		case "":
		default:
			bad(key, "%.40q, allowed are on, off", value)
		}
		return nil
	}
	vlan, qos := inRange("vlan", c.VLAN, 4094), inRange("vlanQoS", c.VLANQoS, 7)
	proto := uint16(proto8021q)
	switch strings.ToLower(c.VLANProto) {
	case "", "802.1q":
	case "802.1ad":
		proto = proto8021ad
	default:
		bad("vlanProto", "%.40q, allowed are 802.1q, 802.1ad", c.VLANProto)
	}
	switch {
	case c.VLAN == nil && c.VLANQoS != nil:
		bad("vlanQoS", "it needs \"vlan\"")
	case c.VLAN == nil && c.VLANProto != "":
		bad("vlanProto", "it needs \"vlan\"")
	case vlan != nil && *vlan == 0 && qos != nil && *qos != 0:
		bad("vlanQoS", "%d: vlan 0 is no VLAN, it has no priority", *qos)
	case vlan != nil && *vlan == 0 && proto == proto8021ad:
		bad("vlanProto", "802.1ad: vlan 0 is no VLAN")
	}
	if vlan != nil {
		v := vlanTag{ID: *vlan, Proto: proto}
		if qos != nil {
			v.QoS = *qos
		}
		s.VLAN = &v
	}
	s.SpoofChk, s.Trust = onOff("spoofchk", c.SpoofChk), onOff("trust", c.Trust)
	if c.LinkState != "" {
		if state, ok := linkStates[c.LinkState]; ok {
			s.LinkState = &state
		} else {
			bad("link_state", "%.40q, allowed are auto, enable, disable", c.LinkState)
		}
	}
	const most = 1<<31 - 1
	s.MinRate, s.MaxRate = inRange("min_tx_rate", c.MinTxRate, most), inRange("max_tx_rate", c.MaxTxRate, most)
	if s.MinRate != nil && s.MaxRate != nil && *s.MaxRate != 0 && *s.MinRate > *s.MaxRate {
		bad("min_tx_rate", "%d, more than max_tx_rate %d", *s.MinRate, *s.MaxRate)
	}
	return s
}

// resolveMAC goes by runtimeConfig, CNI_ARGS, configuration, in this order.
func resolveMAC(w *want, c *Config, args conf.Args, errs *complaints) net.HardwareAddr {
	for _, m := range []struct{ key, value string }{{"runtimeConfig.mac", c.RuntimeConfig.MAC}, {"CNI_ARGS MAC", args.Get("MAC")}, {"mac", c.MAC}} {
		if m.value != "" {
			return parseMAC(m.key, m.value, errs)
		}
	}
	return nil
}

func parseMAC(key, value string, errs *complaints) net.HardwareAddr {
	if value == "" {
		return nil
	}
	hw, err := net.ParseMAC(value)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || bytes.Equal(hw, make([]byte, 6)) {
		errs.bad(key, "%.40q, want 6 bytes like 02:00:00:00:00:01, no multicast address", value)
		return nil
	}
	return hw
}

// resolveDriver says which driver the function is to have.
func (c *Config) resolveDriver(w *want, errs *complaints) {
	w.driver = c.Driver
	key := "driver"
	legacy := c.DPDK != nil && *c.DPDK != legacyDPDK{}
	allowed := append([]string{driverKernel}, userDrivers...)
	if legacy {
		allowed = userDrivers
		key = "dpdk.dpdk_driver"
		if c.Driver != "" {
			errs.bad("driver", "\"dpdk\" says it already: leave out one of them")
		}
		w.driver = c.DPDK.DPDKDriver
	}
	if w.driver == "" && !legacy {
		return
	}
	if !slices.Contains(allowed, w.driver) {
		errs.bad(key, "%.40q, allowed are %s", w.driver, strings.Join(allowed, ", "))
	}
	if w.driver != driverKernel && (c.Promiscuous || c.AllMulti) {
		errs.bad("promiscuous, allMulti", "with driver %s there is no kernel interface to set", w.driver)
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

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
// Before the first change a function gets a reservation, a file that says whose the
// function is and how it was before. DEL restores from it, and touches nothing that has
// been reserved for another pod since.
//
// Configurations of type sriov have the keys of Config: sriov-cni's, those of
// its ancestors, and some of plexus' own.
package sriov

import (
	"encoding/json"
	"fmt"
	"strings"
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

	Settings
	MTU    int    `json:"mtu"`    // bytes, at most the PF's
	Driver string `json:"driver"` // kernel, a user-space driver, or empty: as found

	Promiscuous bool `json:"promiscuous"`
	AllMulti    bool `json:"allMulti"`

	// Baseline is what DEL restores instead of what ADD found.
	Baseline *Settings `json:"baseline"`

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

	RuntimeConfig json.RawMessage `json:"runtimeConfig"` // see requests
}

// Settings are those of a VF on its PF.
type Settings struct {
	VLAN      *int   `json:"vlan"`      // 0 to 4094, 0 is none
	VLANQoS   *int   `json:"vlanQoS"`   // 0 to 7
	VLANProto string `json:"vlanProto"` // 802.1q (default) or 802.1ad
	MAC       string `json:"mac"`
	SpoofChk  string `json:"spoofchk"` // on or off
	Trust     string `json:"trust"`    // on or off
	LinkState string `json:"link_state"`
	MinTxRate *int   `json:"min_tx_rate"` // Mbit/s, 0 is no bound
	MaxTxRate *int   `json:"max_tx_rate"` // likewise
}

// legacyDPDK asks for DPDK mode. The tool is not executed.
type legacyDPDK struct {
	KernelDriver string `json:"kernel_driver"`
	DPDKDriver   string `json:"dpdk_driver"`
	DPDKTool     string `json:"dpdk_tool"`
}

// requests are what the runtime asks for in any configuration; the rest of the object is
// for others.
type requests struct {
	RuntimeConfig struct {
		MAC      string `json:"mac"`
		DeviceID string `json:"deviceID"`
		GUID     string `json:"infinibandGUID"`
	} `json:"runtimeConfig"`
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
var userDrivers = []string{vfioPCI, "uio_pci_generic", "igb_uio"}

const vfioPCI = "vfio-pci"

const driverKernel = "kernel"

// Protocols of VLAN tags (linux/if_ether.h).
const (
	proto8021q  = 0x8100
	proto8021ad = 0x88a8
)

// Link states of a VF (linux/if_link.h, IFLA_VF_LINK_STATE_*).
var linkStates = []string{"auto", "enable", "disable"}

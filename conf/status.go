package conf

import (
	"path"
	"strings"
)

// NetworkStatus is one element of the annotation
// k8s.v1.cni.cncf.io/network-status (NPWG specification 1.3, section 5).
type NetworkStatus struct {
	Name       string      `json:"name"`
	Interface  string      `json:"interface,omitempty"`
	IPs        []string    `json:"ips,omitempty"`
	MAC        string      `json:"mac,omitempty"`
	MTU        int         `json:"mtu,omitempty"` // bytes
	Default    bool        `json:"default"`       // always written (5.3.5)
	DNS        DNS         `json:"dns"`
	DeviceInfo *DeviceInfo `json:"device-info,omitempty"`
	Gateway    []string    `json:"gateway,omitempty"`
	// DefaultRoute are the gateways of a network with the pod's default route (5.3.6.4).
	DefaultRoute []string `json:"default-route,omitempty"`
	// HostSocket is the path on the node of the socket that DeviceInfo names by its path in a
	// container. The key has a domain, as the specification wants it of keys beyond its own (5.3).
	HostSocket string `json:"plexus-cni.io/host-socket,omitempty"`
}

// DNS is the dns of a network-status.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// DeviceInfo describes the device of an attachment (device-information specification 1.1.0).
type DeviceInfo struct {
	Type      string       `json:"type"` // one of the Device constants
	Version   string       `json:"version"`
	PCI       *PCIDevice   `json:"pci,omitempty"`
	VDPA      *VDPADevice  `json:"vdpa,omitempty"`
	VhostUser *VhostDevice `json:"vhost-user,omitempty"`
	Memif     *MemifDevice `json:"memif,omitempty"`

	// Host is the path of a socket on the node, where it differs from the one in Path.
	Host string `json:"-"`
}

// Socket is the path of a device that is a socket, nil for another device.
func (d *DeviceInfo) Socket() *string {
	switch {
	case d.VhostUser != nil:
		return &d.VhostUser.Path
	case d.Memif != nil:
		return &d.Memif.Path
	}
	return nil
}

// DeviceSockets is the folder of the sockets of devices that plexus itself offers, one folder
// for each allocation of a device; only root can enter it.
const DeviceSockets = "/run/plexus/devices"

// Offered is the folder of a device of this type that plexus itself offers, and the same folder
// as the container sees it; "" for any other device. Only root writes device plugins' files.
func (d *DeviceInfo) Offered(kind string) (folder, container string) {
	if d == nil || d.Type != kind {
		return "", ""
	}
	switch {
	case d.VhostUser != nil:
		folder, container = d.VhostUser.Path, d.VhostUser.Container
	case d.Memif != nil:
		folder, container = d.Memif.Path, d.Memif.Container
	}
	clean := path.Clean(folder)
	if container == "" || clean+"/" != folder || !strings.HasPrefix(folder, DeviceSockets+"/") {
		return "", ""
	}
	return clean, container
}

// SeenBy replaces the path of a socket on the node by that which a container of a pod sees, if
// one does.
func (d *DeviceInfo) SeenBy(p *Pod) {
	path := d.Socket()
	if path == nil {
		return
	}
	if seen := p.Seen(*path); seen != "" && seen != *path {
		d.Host, *path = *path, seen
	}
}

// PCIDevice is a PCI function.
type PCIDevice struct {
	Address     string `json:"pci-address,omitempty"`
	VhostNet    string `json:"vhost-net,omitempty"`
	RDMADevice  string `json:"rdma-device,omitempty"`
	PFAddress   string `json:"pf-pci-address,omitempty"`
	Representor string `json:"representor-device,omitempty"`

	// For a user-space driver; plexus' own, the specification has neither.
	IOMMUGroup string `json:"iommu-group,omitempty"`
	DeviceNode string `json:"device-node,omitempty"`
}

// VDPADevice is a vDPA device.
type VDPADevice struct {
	Parent      string `json:"parent-device,omitempty"`
	Driver      string `json:"driver,omitempty"`
	Path        string `json:"path,omitempty"`
	PCIAddress  string `json:"pci-address,omitempty"`
	PFAddress   string `json:"pf-pci-address,omitempty"`
	Representor string `json:"representor-device,omitempty"`
}

// MemifDevice is a memif socket; role is the pod's side of it.
type MemifDevice struct {
	Role string `json:"role"` // master or slave
	Path string `json:"path"`
	Mode string `json:"mode"` // ethernet or ip

	Container string `json:"container-folder,omitempty"` // see VhostDevice
}

// VhostDevice is a vhost-user socket; mode is the pod's side of it.
type VhostDevice struct {
	Mode string `json:"mode"` // client or server
	Path string `json:"path"` // of a device that plexus itself offers: a folder, which ends in a slash

	// Container is where the container has the folder of the socket; plexus' own, of a device
	// that plexus offers.
	Container string `json:"container-folder,omitempty"`
}

// Types of devices.
const (
	DevicePCI       = "pci"
	DeviceVDPA      = "vdpa"
	DeviceVhostUser = "vhost-user"
	DeviceMemif     = "memif"
)

// DeviceInfoVersion is the version of the device-information specification
// that DeviceInfo follows.
const DeviceInfoVersion = "1.1.0"

package shareddir

import (
	"cmp"
	"encoding/json"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// infoSuffix ends the name of a file with an Info.
const infoSuffix = ".json"

// Names are the names of the socket and of the file that a container reads. A dialect has a
// ConfigFile. In the folder of a device of plexus' own, and in a pod's own emptyDir, which no other pod sees, the socket is called like the
// interface, and so is the file with its Info. They stay the same when the pod gets another
// sandbox, or a virtual machine moves to another node. There are none where pods may share the
// folder, or plexus has one for the sandbox: the socket's name has the container's ID there.
func Names(a *delegates.Attachment, device string, dialect *delegates.Dialect) (socket, config string) {
	if dialect != nil {
		return "", ConfigFile(a.Sandbox, a.IfName)
	}
	if folder, _ := a.Device.Offered(device); folder != "" {
		return a.IfName + ".sock", InfoName(a.IfName)
	}
	if !a.Pod.IsEmptyDir(conf.SharedDir) || a.Pod.HostDir(conf.SharedDir) == "" {
		return "", ""
	}
	return a.IfName + ".sock", InfoName(a.IfName)
}

// InfoName is the name of the file with the Info of an interface.
func InfoName(ifName string) string { return ifName + infoSuffix }

// Info is what a container reads about its interface, beside the socket.
type Info struct {
	Interface string   `json:"interface"`
	Socket    string   `json:"socket"` // as a container sees it
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu,omitempty"`       // bytes
	Addresses []string `json:"addresses,omitempty"` // with their prefixes
	// Device is the socket in the words of the device-information specification 1.1.0: the
	// pod's side of it.
	Device *conf.DeviceInfo `json:"device-info"`
}

// NewInfo is the text of the Info of an attachment. device has the path on the host.
func NewInfo(a *delegates.Attachment, device *conf.DeviceInfo, mac string, mtu int) ([]byte, error) {
	device.SeenBy(a.Pod)
	info := Info{Interface: a.IfName, Socket: *device.Socket(), MAC: mac, MTU: mtu, Device: device}
	if ipam := cmp.Or(a.Result, a.IPAM); ipam != nil {
		for _, ip := range ipam.IPs {
			info.Addresses = append(info.Addresses, ip.Address.String())
		}
	}
	return json.Marshal(info)
}

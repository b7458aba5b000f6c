package userspace

import (
	"cmp"
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Annotations by which userspace-cni hands its configuration to the pod, and
// where it looks for the sockets when the pod mounts no volume shared-dir.
const (
	configAnnotation = "userspace/configuration-data"
	dirAnnotation    = "userspace/mapped-dir"
	mappedDir        = "/var/lib/cni/usrspcni"
)

// document is what the container reads, from an annotation or from the file beside the
// socket: its half of the configuration, with what is empty in it filled in from the host's.
func (u *Config) document(a *delegates.Attachment, socketFile string, ipam *types100.Result) ([]byte, error) {
	side, host := u.Container, &u.Host
	side.IfType = cmp.Or(side.IfType, host.IfType)
	side.NetType = cmp.Or(side.NetType, "interface")
	switch side.IfType {
	case "vhostuser":
		side.Vhost.Mode = cmp.Or(side.Vhost.Mode, other(host.Vhost.Mode, "client", "server"))
		side.Vhost.SocketFile = socketFile
	case "memif":
		side.Memif.Role = cmp.Or(side.Memif.Role, other(host.Memif.Role, "master", "slave"))
		side.Memif.Mode = cmp.Or(side.Memif.Mode, host.Memif.Mode)
		side.Memif.SocketFile = socketFile
	}
	result := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns}},
	}
	if ipam != nil {
		for _, ip := range ipam.IPs {
			result.IPs = append(result.IPs, &types100.IPConfig{Address: ip.Address})
		}
		result.Routes, result.DNS = ipam.Routes, ipam.DNS
	}
	old, err := result.GetAsVersion("0.4.0") // which readers of 1.0.0 read as well
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		ContainerID string       `json:"containerId"`
		IfName      string       `json:"ifName"`
		Name        string       `json:"name"`
		Config      Side         `json:"config"`
		IPResult    types.Result `json:"ipResult"`
	}{a.Sandbox, a.IfName, u.Name, side, old})
}

// other is the second value for the first one, else the first.
func other(value, first, second string) string {
	if value == first {
		return second
	}
	return first
}

// annotations are those of userspace-cni for the container, which it writes with a
// kubeconfig; nil without one. They have the addresses of the attachment's result.
func (u *Config) annotations(a *delegates.Attachment, socketFile string) (map[string]string, error) {
	if u.Kubeconfig == "" {
		return nil, nil
	}
	data, err := u.document(a, socketFile, a.Result)
	if err != nil {
		return nil, err
	}
	mapped := cmp.Or(a.Pod.MountOf(conf.SharedDir), mappedDir)
	return map[string]string{configAnnotation: "[" + string(data) + "]", dirAnnotation: mapped}, nil
}

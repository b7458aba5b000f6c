package devices

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
)

// Places are the folders of a node that devices are in.
type Places struct {
	Sysfs      string
	Sockets    string // one folder for each device that is a socket, in memory
	Records    string // of these folders, on the disk
	DeviceInfo string // of device plugins' files (device-information specification 1.1.0)
	Plugins    string // the kubelet's sockets of device plugins
	VhostNet   string // a device file that nodes without the module vhost_net lack
}

// DefaultPlaces are those of a node. The kubelet's folder is the same wherever its root folder
// is (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, DevicePluginPath).
func DefaultPlaces() Places {
	return Places{
		Sysfs: "/sys", Sockets: conf.DeviceSockets, Records: "/var/lib/plexus/devices", DeviceInfo: "/var/run/k8s.cni.cncf.io/devinfo/dp", Plugins: filepath.Clean(deviceplugin.DevicePluginPath), VhostNet: "/dev/vhost-net",
	}
}

// pciInfo is what a container is told about a PCI function, as sriov-network-device-plugin has
// it in PCIDEVICE_..._INFO.
type pciInfo map[string]map[string]string

// allocatePCI is a container's answer for PCI functions.
func (p *Places) allocatePCI(r *Resource, all []Function) (*deviceplugin.ContainerAllocateResponse, error) {
	answer := &deviceplugin.ContainerAllocateResponse{Envs: map[string]string{}}
	s := reader{dir: filepath.Join(p.Sysfs, "bus/pci/devices")}
	var nodes, ids []string
	infos := map[string]pciInfo{}
	for i := range all {
		f := &all[i]
		own, others := s.nodes(f.PCI, r.rdma())
		info := pciInfo{"generic": {"deviceID": f.PCI}}
		switch {
		case strings.HasPrefix(own, "/dev/vfio/"):
			info["vfio"] = map[string]string{"mount": "/dev/vfio/vfio", "dev-mount": own}
		case own != "":
			info["uio"] = map[string]string{"mount": own}
		}
		if rdma := rdmaInfo(others); len(rdma) > 0 {
			info["rdma"] = rdma
		}
		if r.VhostNet && p.hasVhostNet() {
			others = append(others, "/dev/vhost-net", "/dev/net/tun")
			info["vhost"] = map[string]string{"net-mount": "/dev/vhost-net", "tun-mount": "/dev/net/tun"}
		}
		nodes, ids = append(nodes, others...), append(ids, f.PCI)
		infos[f.PCI] = info
		device := conf.DeviceInfo{Type: conf.DevicePCI, Version: conf.DeviceInfoVersion, PCI: &conf.PCIDevice{Address: f.PCI, PFAddress: f.PF, RDMADevice: f.RDMA}}
		if err := p.writeInfo(r.Name, f.PCI, &device); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(infos)
	if err != nil {
		return nil, err
	}
	name := "PCIDEVICE_" + variable(r.Name)
	answer.Envs[name], answer.Envs[name+"_INFO"] = strings.Join(ids, ","), string(text)
	slices.Sort(nodes)
	for _, node := range slices.Compact(nodes) {
		answer.Devices = append(answer.Devices, &deviceplugin.DeviceSpec{HostPath: node, ContainerPath: node, Permissions: "rw"})
	}
	return answer, nil
}

// rdma reports whether a container gets the RDMA devices of its functions.
func (r *Resource) rdma() bool {
	return !r.legacy || slices.ContainsFunc(r.PCI, func(s Selector) bool { return s.RDMA })
}

func (p *Places) hasVhostNet() bool {
	_, err := os.Stat(p.VhostNet)
	return err == nil
}

func rdmaInfo(nodes []string) map[string]string {
	info := map[string]string{}
	for _, node := range nodes {
		for part, key := range map[string]string{"uverbs": "uverbs", "umad": "umad", "issm": "issm", "rdma_cm": "rdma_cm"} {
			if strings.HasPrefix(filepath.Base(node), part) && strings.HasPrefix(node, "/dev/infiniband/") {
				info[key] = node
			}
		}
	}
	return info
}

// variable is the part of an environment variable that stands for a resource.
func variable(resource string) string {
	return strings.ToUpper(strings.NewReplacer(".", "_", "/", "_").Replace(resource))
}

// allocateSockets is a container's answer for sockets: a folder for each device, mounted at
// MountPath. The folder is new each time: the sandbox that had the device before may still be
// about to be deleted, and has its own.
func (p *Places) allocateSockets(r *Resource, ids []string) (*deviceplugin.ContainerAllocateResponse, error) {
	answer := &deviceplugin.ContainerAllocateResponse{Envs: map[string]string{}}
	var mounted []string
	for i, id := range ids {
		seen := MountPath(r.Name, i)
		host, err := p.makeFolder(r.Name, id)
		if err != nil {
			return nil, err
		}
		info := socketInfo(r.Socket.Kind, host, seen)
		if err := errors.Join(p.record(r.Name, id, info), p.writeInfo(r.Name, id, info)); err != nil {
			return nil, err
		}
		mounted = append(mounted, seen)
		answer.Mounts = append(answer.Mounts, &deviceplugin.Mount{HostPath: host, ContainerPath: seen})
	}
	answer.Envs["PLEXUS_"+variable(r.Name)] = strings.Join(mounted, ",")
	return answer, nil
}

// MountPath is the folder in which a container has the sockets of its n-th device of a
// resource, counted from 0.
func MountPath(resource string, n int) string {
	path := filepath.Join("/run/plexus", resource)
	if n > 0 {
		path += fmt.Sprint("-", n)
	}
	return path
}

func socketInfo(kind, host, seen string) *conf.DeviceInfo {
	info := &conf.DeviceInfo{Version: conf.DeviceInfoVersion}
	if kind == "vppmemif" {
		info.Type, info.Memif = conf.DeviceMemif, &conf.MemifDevice{Path: host + "/", Container: seen}
	} else {
		info.Type, info.VhostUser = conf.DeviceVhostUser, &conf.VhostDevice{Path: host + "/", Container: seen}
	}
	return info
}

// makeFolder makes an empty folder for a device and removes the former ones. Only root can
// enter the folders above it.
func (p *Places) makeFolder(resource, id string) (string, error) {
	of := filepath.Join(p.folderOf(resource), id)
	if err := os.RemoveAll(of); err != nil {
		return "", fmt.Errorf("remove the former folder of device %s: %w", id, err)
	}
	dir := filepath.Join(of, strings.ToLower(rand.Text()[:8]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder of device %s: %w", id, err)
	}
	return dir, os.Chmod(dir, 0o777) // as an emptyDir is, whoever the container runs as
}

// record keeps a device's folder on the disk. After a reboot the kubelet has its container mount
// that folder again, and asks for no allocation.
func (p *Places) record(resource, id string, info *conf.DeviceInfo) error {
	data, err := json.Marshal(info)
	if err == nil {
		err = os.MkdirAll(p.Records, 0o700)
	}
	if err == nil {
		err = file.Replacement{Path: filepath.Join(p.Records, infoName(resource, id)), Mode: 0o600}.Write(bytes.NewReader(data))
	}
	if err != nil {
		return fmt.Errorf("record of device %s: %w", id, err)
	}
	return nil
}

// restore makes again, after a reboot, the folders and the device information of a resource's
// devices that were allocated.
func (p *Places) restore(r *Resource, ids []string) error {
	var errs []error
	for _, id := range ids {
		data, err := file.ReadRegular(filepath.Join(p.Records, infoName(r.Name, id)), maxRecord)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var info conf.DeviceInfo
		if err == nil {
			err = json.Unmarshal(data, &info)
		}
		path := info.Socket()
		if err != nil || path == nil || filepath.Dir(filepath.Dir(filepath.Clean(*path))) != p.folderOf(r.Name) || filepath.Base(filepath.Dir(filepath.Clean(*path))) != id {
			errs = append(errs, fmt.Errorf("device %s: its record cannot be used: %w", id, cmp.Or(err, errRecord)))
			continue
		}
		_, err = os.Stat(*path)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(*path, 0o700); err == nil {
				err = os.Chmod(*path, 0o777)
			}
		}
		errs = append(errs, err, p.writeInfo(r.Name, id, &info))
	}
	return errors.Join(errs...)
}

const maxRecord = 64 << 10 // bytes

var errRecord = errors.New("it names no folder of the device")

// folderOf is the folder of a resource's devices.
func (p *Places) folderOf(resource string) string {
	return filepath.Join(p.Sockets, strings.ReplaceAll(resource, "/", "_"))
}

// writeInfo writes the file that tells the network plugin of a device.
func (p *Places) writeInfo(resource, id string, info *conf.DeviceInfo) error {
	data, err := json.Marshal(info)
	if err == nil {
		err = os.MkdirAll(p.DeviceInfo, 0o755)
	}
	if err == nil {
		err = file.Replacement{Path: filepath.Join(p.DeviceInfo, infoName(resource, id)), Mode: 0o644, Volatile: true}.Write(bytes.NewReader(data))
	}
	if err != nil {
		return fmt.Errorf("device information of %s: %w", id, err)
	}
	return nil
}

func infoName(resource, id string) string {
	return strings.ReplaceAll(resource+"-"+id, "/", "-") + "-device.json"
}

// Remove removes the files of all devices of resources: plexus is taken off the node.
func (p *Places) Remove(resources []Resource) error {
	errs := []error{os.RemoveAll(p.Sockets), os.RemoveAll(p.Records)}
	entries, err := os.ReadDir(p.DeviceInfo)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	prefixes := map[string]bool{}
	for _, r := range resources {
		prefixes[strings.ReplaceAll(r.Name, "/", "-")+"-"] = true
	}
	for _, e := range entries {
		for prefix := range maps.Keys(prefixes) {
			if strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), "-device.json") {
				errs = append(errs, os.Remove(filepath.Join(p.DeviceInfo, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

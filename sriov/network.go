package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// network is one parsed configuration of type sriov.
type network struct {
	delegates.BaseNetwork
	delegate *Delegate
	object   string // that errors name
	config   Config
	requests requests
}

var _ delegates.Network = (*network)(nil)

// Parse checks a configuration. One that names neither a device nor a PF is whole: a
// device plugin chooses the device when a pod asks for the network.
func (d *Delegate) Parse(name string, config []byte) (delegates.Network, []string, error) {
	n := &network{delegate: d, object: fmt.Sprintf("network %s: sriov", name)}
	warnings, err := conf.Decode(n.object, config, &n.config, conf.RefuseSlips)
	if err != nil {
		return nil, nil, conf.Refuse(err)
	}
	if err := json.Unmarshal(config, &n.requests); err != nil {
		return nil, nil, n.refuse(conf.ExplainJSON(err, config))
	}
	if _, err := n.spec(nil); err != nil {
		return nil, nil, err
	}
	return n, warnings, nil
}

// spec is what the network asks for, with an attachment's CNI_ARGS.
func (n *network) spec(args conf.Args) (*spec, error) {
	s, err := n.config.resolve(args, n.requests)
	if err != nil {
		return nil, n.refuse(err)
	}
	return s, nil
}

// specToReserve is spec, and names a device or a PF.
func (n *network) specToReserve(args conf.Args) (*spec, error) {
	s, err := n.spec(args)
	if err == nil && s.device == "" && len(s.pfs) == 0 {
		return nil, n.refuse(fmt.Errorf("key %q: there is none: the NAD's annotation k8s.v1.cni.cncf.io/resourceName lets a device plugin choose one; "+
			"or name a PCI address here, or one or several PFs with \"pf\"", "deviceID"))
	}
	return s, err
}

func (n *network) refuse(err error) error {
	return conf.Refuse(fmt.Errorf("%s: %w", n.object, err))
}

// Ready says whether ADD would work: the device, or a PF with VFs, is there.
func (n *network) Ready(context.Context) error {
	want, err := n.spec(nil)
	if err != nil {
		return err
	}
	if want.device != "" {
		_, err := nodeSysfs.function(want.device)
		return err
	}
	var errs []error
	for _, name := range want.pfs {
		pf, err := nodeSysfs.pf(name)
		if err == nil && !want.pfOnly {
			if _, err = nodeSysfs.someVFs(pf); err != nil {
				err = fmt.Errorf("PF %s: %w", name, err)
			}
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// InterfaceFirst is delegates.Network.
func (n *network) InterfaceFirst() bool { return true }

// Prepare chooses a function and reserves it, so that no other pod gets it. The
// reservation is all that is changed; Release gives it back.
func (n *network) Prepare(ctx context.Context, a *delegates.Attachment) (json.RawMessage, error) {
	want, err := n.specToReserve(a.Args)
	if err != nil {
		return nil, err
	}
	h, err := n.delegate.open()
	if err != nil {
		return nil, err
	}
	defer h.close()
	r, err := h.choose(ctx, a, want)
	if err != nil {
		return nil, err
	}
	return json.Marshal(state{r.PCI})
}

// Release gives back what Prepare has reserved.
func (n *network) Release(ctx context.Context, a *delegates.Attachment) error {
	return n.delegate.detach(ctx, a)
}

// Describe gives the device-info of the attachment.
func (n *network) Describe(a *delegates.Attachment) (delegates.Description, error) {
	s, err := decodeState(a.State)
	if err != nil {
		return delegates.Description{}, err
	}
	f, err := nodeSysfs.function(s.PCI)
	if err != nil {
		return delegates.Description{}, err
	}
	info := &conf.PCIDevice{Address: s.PCI, PFAddress: f.PF}
	if rdma, err := nodeSysfs.rdmaDevice(s.PCI); err == nil {
		info.RDMADevice = rdma
	}
	if slices.Contains(userDrivers, f.Driver) {
		if info.IOMMUGroup, info.DeviceNode, err = nodeSysfs.iommuGroup(s.PCI, f.Driver); err != nil {
			return delegates.Description{}, err
		}
	}
	return delegates.Description{DeviceInfo: &conf.DeviceInfo{Type: conf.DevicePCI, Version: conf.DeviceInfoVersion, PCI: info}}, nil
}

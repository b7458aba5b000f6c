package sriov

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// Delegate attaches pods to functions of SR-IOV NICs.
type Delegate struct {
	log *slog.Logger
}

// New makes the delegate of type sriov.
func New(log *slog.Logger) *Delegate { return &Delegate{log} }

// state is what the journal keeps. How the function was found is in its claim,
// which goes with the node's restart as all settings do.
type state struct {
	PCI string `json:"pci"`
}

// Prepare chooses a function and claims it, so that nobody else chooses it. The
// claim is all that is changed; Release gives it back.
func (d *Delegate) Prepare(ctx context.Context, a conf.Attachment) (json.RawMessage, error) {
	w, warnings, err := parse(a)
	if err != nil {
		return nil, err
	}
	for _, warning := range warnings {
		d.log.Warn(warning)
	}
	h, err := d.open()
	if err != nil {
		return nil, err
	}
	defer h.close()
	c, err := h.choose(ctx, a, w)
	if err != nil {
		return nil, err
	}
	return json.Marshal(state{c.PCI})
}

func (d *Delegate) open() (*host, error) { return openHost(d.log) }

// Release gives back what Prepare has claimed.
func (d *Delegate) Release(ctx context.Context, a conf.Attachment, raw json.RawMessage) error {
	return d.Del(ctx, a, raw)
}

// Add makes the function the pod's.
func (d *Delegate) Add(ctx context.Context, a conf.Attachment, raw json.RawMessage) (*types100.Result, error) {
	w, _, err := parse(a)
	if err != nil {
		return nil, err
	}
	s, err := decodeState(raw)
	if err != nil {
		return nil, err
	}
	h, err := d.open()
	if err != nil {
		return nil, err
	}
	defer h.close()
	release, err := lockFunction(ctx, s.PCI)
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := readClaim(s.PCI)
	if err != nil {
		return nil, err
	}
	if !c.of(a) {
		return nil, fmt.Errorf("%s was claimed by another pod meanwhile", s.PCI)
	}
	return h.attach(ctx, stepOf(a.IfName), a, w, c)
}

func stepOf(ifName string) stepper {
	return func(ctx context.Context, format string, args ...any) error {
		return conf.Step(ctx, "%s", ifName+": "+fmt.Sprintf(format, args...))
	}
}

// Del brings the function home if it is still the attachment's.
func (d *Delegate) Del(ctx context.Context, a conf.Attachment, raw json.RawMessage) error {
	if raw == nil {
		keep := func(sandbox, ifName string) bool { return sandbox != a.Sandbox || ifName != a.IfName }
		return errors.Join(d.Sweep(ctx, a.Owner, nil, a.Bounds, keep)...)
	}
	s, err := decodeState(raw)
	if err != nil {
		return err
	}
	h, err := d.open()
	if err != nil {
		return err
	}
	defer h.close()
	return h.del(ctx, s.PCI, a.Netns, func(c *claim) bool { return c.of(a) })
}

// del brings a function home if its claim is the one that is meant.
func (h *host) del(ctx context.Context, pci, netns string, meant func(*claim) bool) error {
	release, err := lockFunction(ctx, pci)
	if err != nil {
		return err
	}
	defer release()
	c, err := readClaim(pci)
	if err != nil || c == nil || !meant(c) {
		return err
	}
	if err := h.restore(ctx, stepOf(c.IfName), c, netns); err != nil {
		return fmt.Errorf("bring %s home: %w", pci, err)
	}
	return c.remove()
}

// Sweep brings home what owner has claimed and is not to be kept. A claim knows
// its namespace.
func (d *Delegate) Sweep(ctx context.Context, owner string, _ []string, _ conf.Bounds, keep func(sandbox, ifName string) bool) []error {
	all, err := claims()
	errs := []error{err, removeHalves(ctx)}
	for _, c := range all {
		if c.Owner != owner || keep(c.Sandbox, c.IfName) {
			continue
		}
		netns := ""
		if c.alive() {
			netns = c.Netns
		}
		h, err := d.open()
		if err != nil {
			errs = append(errs, err)
			break
		}
		errs = append(errs, h.del(ctx, c.PCI, netns, func(now *claim) bool {
			return now.Owner == c.Owner && now.Sandbox == c.Sandbox && now.IfName == c.IfName
		}))
		h.close()
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// Validate checks a configuration without looking at the world.
func (d *Delegate) Validate(network string, config json.RawMessage) ([]string, error) {
	_, warnings, err := parse(conf.Attachment{Network: network, Conf: withDevice(config)})
	return warnings, err
}

// withDevice lets a configuration pass whose device a device plugin will choose.
func withDevice(config json.RawMessage) json.RawMessage {
	var keys map[string]json.RawMessage
	var c Config
	if json.Unmarshal(config, &keys) != nil || keys == nil || json.Unmarshal(config, &c) != nil ||
		cmp.Or(c.DeviceID, c.PCIBusID, c.RuntimeConfig.DeviceID, c.Master, c.IF0) != "" || len(c.PF) > 0 {
		return config
	}
	maps.DeleteFunc(keys, func(key string, _ json.RawMessage) bool { return strings.EqualFold(key, "deviceID") })
	keys["deviceID"] = json.RawMessage(`"0000:00:00.0"`)
	data, err := json.Marshal(keys)
	if err != nil {
		return config
	}
	return data
}

// Ready says whether ADD would work: the device, or a PF with VFs, is there.
func (d *Delegate) Ready(_ context.Context, config json.RawMessage) error {
	w, _, err := parse(conf.Attachment{Conf: withDevice(config)})
	if err != nil {
		return err
	}
	h, err := d.open()
	if err != nil {
		return err
	}
	defer h.close()
	if w.device != "" && w.device != "0000:00:00.0" {
		_, err := h.sys.function(w.device)
		return err
	}
	var errs []error
	for _, name := range w.pfs {
		pf, err := h.sys.pf(name)
		if err == nil {
			var vfs map[int]string
			if vfs, err = h.sys.vfs(pf); err == nil && (len(vfs) > 0 || w.pfOnly) {
				return nil
			}
		}
		if err == nil {
			err = fmt.Errorf("PF %s has no VFs: write their number to %s", name, h.sys.device(pf, "sriov_numvfs"))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Describe gives the device-info of the attachment.
func (d *Delegate) Describe(_ conf.Attachment, raw json.RawMessage) (conf.Description, error) {
	s, err := decodeState(raw)
	if err != nil {
		return conf.Description{}, err
	}
	h, err := d.open()
	if err != nil {
		return conf.Description{}, err
	}
	defer h.close()
	f, err := h.sys.function(s.PCI)
	if err != nil {
		return conf.Description{}, err
	}
	info := &conf.PCIDevice{Address: s.PCI, PFAddress: f.PF}
	if rdma, err := h.sys.rdmaDevice(s.PCI); err == nil {
		info.RDMADevice = rdma
	}
	if slices.Contains(userDrivers, f.Driver) {
		if info.IOMMUGroup, info.DeviceNode, err = h.sys.iommuGroup(s.PCI, f.Driver); err != nil {
			return conf.Description{}, err
		}
	}
	return conf.Description{DeviceInfo: &conf.DeviceInfo{Type: conf.DevicePCI, Version: conf.DeviceInfoVersion, PCI: info}}, nil
}

func decodeState(raw json.RawMessage) (*state, error) {
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil || !pciForm.MatchString(s.PCI) {
		return nil, fmt.Errorf("recorded state is not one of this attachment: %.200s", raw)
	}
	return s, nil
}

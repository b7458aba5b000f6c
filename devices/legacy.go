package devices

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// The form of sriov-network-device-plugin (its README, "Configurations").
type legacy struct {
	ResourcePrefix  string          `json:"resourcePrefix"`
	ResourceName    string          `json:"resourceName"`
	DeviceType      string          `json:"deviceType"`
	ExcludeTopology bool            `json:"excludeTopology"`
	Selectors       json.RawMessage `json:"selectors"`
	AdditionalInfo  json.RawMessage `json:"additionalInfo"`
}

type legacySelector struct {
	Vendors      []string `json:"vendors"`
	Devices      []string `json:"devices"`
	Drivers      []string `json:"drivers"`
	PCIAddresses []string `json:"pciAddresses"`
	ACPIIndexes  []string `json:"acpiIndexes"`
	PFNames      []string `json:"pfNames"`
	RootDevices  []string `json:"rootDevices"`
	LinkTypes    []string `json:"linkTypes"`
	IsRdma       bool     `json:"isRdma"`
	NeedVhostNet bool     `json:"needVhostNet"`
	VdpaType     string   `json:"vdpaType"`
	DDPProfiles  []string `json:"ddpProfiles"`
	PKeys        []string `json:"pKeys"`
	AuxTypes     []string `json:"auxTypes"`
}

// legacyPrefix is the domain of a resource without resourcePrefix.
const legacyPrefix = "intel.com"

func parseLegacy(object string, raw json.RawMessage) (*Resource, error) {
	var l legacy
	if _, err := conf.Decode(object, raw, &l, conf.RefuseUnknown); err != nil {
		return nil, err
	}
	r := &Resource{Name: cmp.Or(l.ResourcePrefix, legacyPrefix) + "/" + l.ResourceName, ExcludeTopology: l.ExcludeTopology, legacy: true}
	if err := checkName(r.Name); err != nil {
		return nil, fmt.Errorf("%s: keys %q, %q: %w", object, "resourcePrefix", "resourceName", err)
	}
	object = fmt.Sprintf("%s (%s)", object, r.Name)
	switch {
	case l.DeviceType != "" && l.DeviceType != "netDevice":
		return nil, fmt.Errorf("%s: key %q: %.40q, plexus offers netDevice alone: keep the device plugin for the others", object, "deviceType", l.DeviceType)
	case len(l.AdditionalInfo) > 0:
		return nil, fmt.Errorf("%s: key %q: plexus writes no additional information: leave it out", object, "additionalInfo")
	}
	raws := []json.RawMessage{l.Selectors}
	if strings.HasPrefix(strings.TrimSpace(string(l.Selectors)), "[") {
		if err := json.Unmarshal(l.Selectors, &raws); err != nil {
			return nil, fmt.Errorf("%s: key %q: %w", object, "selectors", err)
		}
	}
	if len(l.Selectors) == 0 {
		raws = []json.RawMessage{[]byte("{}")} // every network device
	}
	for _, raw := range raws {
		s, vhost, err := parseSelector(object, raw)
		if err != nil {
			return nil, err
		}
		r.PCI, r.VhostNet = append(r.PCI, *s), r.VhostNet || vhost
	}
	return r, nil
}

func parseSelector(object string, raw json.RawMessage) (s *Selector, vhostNet bool, err error) {
	var l legacySelector
	if _, err := conf.Decode(object+": selectors", raw, &l, conf.RefuseUnknown); err != nil {
		return nil, false, err
	}
	for key, given := range map[string]bool{"vdpaType": l.VdpaType != "", "ddpProfiles": len(l.DDPProfiles) > 0, "pKeys": len(l.PKeys) > 0, "auxTypes": len(l.AuxTypes) > 0} {
		if given { // it restricts what is selected
			return nil, false, fmt.Errorf("%s: key %q: plexus cannot select by it: keep the device plugin for this resource", object, key)
		}
	}
	s = &Selector{Vendors: l.Vendors, Devices: l.Devices, Drivers: l.Drivers, Addresses: l.PCIAddresses, ACPIIndexes: l.ACPIIndexes, LinkTypes: l.LinkTypes, RDMA: l.IsRdma}
	for key, part := range map[string]struct {
		from []string
		to   *[]functions
	}{"pfNames": {l.PFNames, &s.PFs}, "rootDevices": {l.RootDevices, &s.Roots}} {
		for _, text := range part.from {
			of, ranges, some := strings.Cut(text, "#")
			numbers, err := parseRanges(ranges)
			if err == nil && (of == "" || some && ranges == "") {
				err = fmt.Errorf("%.60q, want NAME or NAME#0-3,7", text)
			}
			if err != nil {
				return nil, false, fmt.Errorf("%s: key %q: %w", object, key, err)
			}
			*part.to = append(*part.to, functions{of, numbers})
		}
	}
	return s, l.NeedVhostNet, nil
}

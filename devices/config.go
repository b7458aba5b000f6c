// Package devices offers what a node has to pods as resources: virtual functions, ports of a
// vswitch, memifs of a VPP. A pod that requests one gets it mounted into its container, with
// neither a volume nor a path in its YAML; its networks find it by the resource's name, as they
// find the devices of any device plugin.
package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// Resource is a named pool of devices: of PCI functions, or of sockets of one vswitch.
type Resource struct {
	Name            string // as a container requests it: example.com/fast
	PCI             []Selector
	VhostNet        bool // a container gets /dev/vhost-net and /dev/net/tun as well
	ExcludeTopology bool // the kubelet is not told the NUMA nodes
	Socket          *Socket

	legacy bool // of a resourceList
}

// Socket describes the devices of a vswitch: each is a folder for the sockets of one pod.
type Socket struct {
	Kind   string          // the delegate: ovsdpdk or vppmemif
	Where  string          // bridge or API socket, for people
	Config json.RawMessage // a network configuration by which the delegate knows the vswitch
	Count  int
}

// Bounds of the number of devices of a resource.
const (
	defaultPorts = 64
	maxPorts     = 1024 // vhost-user devices of one DPDK process
)

// settings is the key "devices".
type settings struct {
	Resources    []json.RawMessage `json:"resources"`
	ResourceList []json.RawMessage `json:"resourceList"` // sriov-network-device-plugin's
}

// Parse reads the key "devices" of the settings. The resources that are right are returned
// beside the error about the others.
func Parse(raw json.RawMessage) ([]Resource, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var s settings
	if _, err := conf.Decode(`key "devices"`, raw, &s, conf.RefuseUnknown); err != nil {
		return nil, err
	}
	var all []Resource
	var errs []error
	add := func(object string, parse func(string, json.RawMessage) (*Resource, error), raw json.RawMessage) {
		r, err := parse(object, raw)
		if err == nil && slices.ContainsFunc(all, func(other Resource) bool { return other.Name == r.Name && !(r.legacy && other.legacy) }) {
			err = fmt.Errorf("%s: resource %s is there twice", object, r.Name)
		}
		if err != nil {
			errs = append(errs, err)
			return
		}
		all = append(all, *r)
	}
	for i, raw := range s.Resources {
		add(fmt.Sprintf("devices.resources[%d]", i), parseResource, raw)
	}
	for i, raw := range s.ResourceList {
		add(fmt.Sprintf("devices.resourceList[%d]", i), parseLegacy, raw)
	}
	return all, errors.Join(errs...)
}

// own is a resource in plexus' own form.
type own struct {
	Name            string   `json:"name"`
	PF              []string `json:"pf"`     // names or PCI addresses
	VF              string   `json:"vf"`     // numbers: 0-3,7
	Driver          string   `json:"driver"` // that has the functions
	Bridge          string   `json:"bridge"`
	OVSDB           string   `json:"ovsdb"`
	VPP             string   `json:"vpp"` // API socket
	Ports           *int     `json:"ports"`
	ExcludeTopology bool     `json:"excludeTopology"`
}

func parseResource(object string, raw json.RawMessage) (*Resource, error) {
	var o own
	if _, err := conf.Decode(object, raw, &o, conf.RefuseUnknown); err != nil {
		return nil, err
	}
	bad := func(key, format string, args ...any) (*Resource, error) {
		return nil, fmt.Errorf("%s: key %q: %w", object, key, fmt.Errorf(format, args...))
	}
	if err := checkName(o.Name); err != nil {
		return bad("name", "%w", err)
	}
	object = fmt.Sprintf("%s (%s)", object, o.Name)
	r := &Resource{Name: o.Name, ExcludeTopology: o.ExcludeTopology}
	kinds := 0
	for _, given := range []bool{len(o.PF) > 0, o.Bridge != "", o.VPP != ""} {
		if given {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return nil, fmt.Errorf("%s: want one of the keys %q (virtual functions), %q (ports of OVS-DPDK), %q (memifs)", object, "pf", "bridge", "vpp")
	case len(o.PF) == 0 && (o.VF != "" || o.Driver != ""):
		return nil, fmt.Errorf("%s: the keys %q and %q belong to %q", object, "vf", "driver", "pf")
	case o.OVSDB != "" && o.Bridge == "":
		return bad("ovsdb", "it belongs to %q", "bridge")
	case len(o.PF) > 0:
		if o.Ports != nil {
			return bad("ports", "it belongs to %q or %q", "bridge", "vpp")
		}
		s := Selector{onlyVFs: true}
		if o.Driver != "" {
			s.Drivers = []string{o.Driver}
		}
		numbers, err := parseRanges(o.VF)
		if err != nil {
			return bad("vf", "%w", err)
		}
		for _, pf := range o.PF {
			if pf == "" || strings.ContainsAny(pf, "#/") {
				return bad("pf", "%.60q, want the name of an interface or a PCI address", pf)
			}
			if pciForm.MatchString(pf) {
				s.Roots = append(s.Roots, functions{of: pf, numbers: numbers})
			} else {
				s.PFs = append(s.PFs, functions{of: pf, numbers: numbers})
			}
		}
		r.PCI = []Selector{s}
		return r, nil
	}
	count := defaultPorts
	if o.Ports != nil {
		count = *o.Ports
	}
	if count < 1 || count > maxPorts {
		return bad("ports", "%d, want 1 to %d", count, maxPorts)
	}
	network := map[string]string{"type": "ovsdpdk", "bridge": o.Bridge}
	where := "bridge " + o.Bridge
	if o.OVSDB != "" {
		network["ovsdb"] = o.OVSDB
	}
	if o.VPP != "" {
		if !path.IsAbs(o.VPP) {
			return bad("vpp", "%.100q, want the absolute path of an API socket", o.VPP)
		}
		network, where = map[string]string{"type": "vppmemif", "apiSocket": o.VPP}, "VPP "+o.VPP
	}
	config, err := json.Marshal(network)
	if err != nil {
		return nil, err
	}
	r.Socket = &Socket{Kind: network["type"], Where: where, Config: config, Count: count}
	return r, nil
}

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	dnsForm  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	pciForm  = regexp.MustCompile(`^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$`)
)

// checkName holds the name of a resource to Kubernetes' rules for extended resources
// (k8s.io/kubernetes/pkg/apis/core/v1/helper, IsExtendedResourceName).
func checkName(name string) error {
	domain, rest, ok := strings.Cut(name, "/")
	switch {
	case !ok || !dnsForm.MatchString(domain) || len(domain) > 190 || !nameForm.MatchString(rest):
		return fmt.Errorf("%.100q, want a name such as example.com/fast", name)
	case domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io"):
		return fmt.Errorf("%.100q, the domain is Kubernetes' own", name)
	}
	return nil
}

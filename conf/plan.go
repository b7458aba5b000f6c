package conf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// Plan has the networks of one request in order, the cluster network first.
type Plan struct {
	Networks []Network
	Warnings []string
}

// Network is one planned attachment of the pod to a network.
type Network struct {
	Name           string         `json:"name"` // as network-status calls it
	IfName         string         `json:"ifName"`
	Default        bool           `json:"default,omitempty"` // the cluster network
	List           List           `json:"list"`
	Args           Args           `json:"args,omitempty"`           // CNI_ARGS
	CapabilityArgs map[string]any `json:"capabilityArgs,omitempty"` // by capability
	DefaultRoute   []netip.Addr   `json:"defaultRoute,omitempty"`   // gateways that the pod asked for
	Resource       string         `json:"resource,omitempty"`       // of the device, if a device plugin has given one
	DeviceID       string         `json:"deviceID,omitempty"`       // of this resource
	// MAC and IPs are what the pod asks of ADD; see AddArgs. No other verb needs them.
	MAC string   `json:"-"`
	IPs []string `json:"-"`
	// OfNode: the node's own files define the network, not a NAD.
	OfNode bool `json:"ofNode,omitempty"`
	// SelectionHash is the hash of the pod's selection of this network, "" when the
	// configuration names it.
	SelectionHash string `json:"asked,omitempty"`
}

// Reference is a network that the configuration or the pod names and that has to
// be looked up before the plan can be made.
type Reference struct {
	// Namespace and Name of a NAD. Name may be a path or the name of a file's
	// network when AnyForm is set.
	Namespace, Name string
	// AnyForm: a NAD, or a network of that name in confDir, or a folder, or a
	// file (Multus docs/configuration.md, clusterNetwork).
	AnyForm bool
	// ChainDir: the network is made of the files in this folder's subfolder
	// Name, which may be missing (Multus docs/configuration.md,
	// auxiliaryCNIChainName).
	ChainDir string

	selection Selection
	cluster   bool
}

// References lists the networks to look up for a pod, the cluster network first
// when it is not inline. pod is nil when the request names none.
func References(c *Conf, pod *Pod) (references []Reference, warnings []string, err error) {
	references, warnings, err = clusterReferences(c, pod)
	if err != nil {
		return nil, nil, err
	}
	warnings = append(slices.Clone(c.Warnings), warnings...)
	if pod == nil || !slices.Contains(c.SystemNamespaces, pod.Namespace) {
		for _, name := range c.DefaultNetworks {
			references = append(references, Reference{Namespace: c.MultusNamespace, Name: name, AnyForm: true})
		}
	}
	if pod != nil {
		object := fmt.Sprintf("pod %s: annotation %s", pod, NetworksAnnotation)
		selections, more, err := ParseSelections(object, pod.Annotations[NetworksAnnotation], pod.Namespace)
		if err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, more...)
		for i, s := range selections {
			if err := c.mayUse(pod, s.Namespace); err != nil {
				return nil, nil, fmt.Errorf("%s: network %d: %w", object, i+1, err)
			}
			references = append(references, Reference{Namespace: s.Namespace, Name: s.Name, selection: s})
		}
	}
	if c.AuxiliaryCNIChainName != "" { // its files are below the folder of the cluster network's file
		dir := c.ConfDir
		if filepath.IsAbs(c.ClusterNetwork) {
			dir = filepath.Dir(c.ClusterNetwork)
		}
		references = append(references, Reference{Name: c.AuxiliaryCNIChainName, ChainDir: dir})
	}
	return references, warnings, nil
}

func clusterReferences(c *Conf, pod *Pod) (references []Reference, warnings []string, err error) {
	if pod != nil && pod.Annotations[DefaultNetworkAnnotation] != "" {
		object := fmt.Sprintf("pod %s: annotation %s", pod, DefaultNetworkAnnotation)
		s, warnings, err := ParseSelections(object, pod.Annotations[DefaultNetworkAnnotation], c.MultusNamespace)
		if err != nil {
			return nil, nil, err
		}
		if len(s) != 1 {
			return nil, nil, fmt.Errorf("%s: %d networks, want one", object, len(s))
		}
		if c.NamespaceIsolation && s[0].Namespace != c.MultusNamespace {
			return nil, nil, fmt.Errorf("%s: namespace %q, with namespaceIsolation a default network must be in %q (key multusNamespace)", object, s[0].Namespace, c.MultusNamespace)
		}
		return []Reference{{Namespace: s[0].Namespace, Name: s[0].Name, selection: s[0], cluster: true}}, warnings, nil
	}
	if c.ClusterNetwork != "" {
		return []Reference{{Namespace: c.MultusNamespace, Name: c.ClusterNetwork, AnyForm: true, cluster: true}}, nil, nil
	}
	if len(c.Delegates) == 0 {
		return nil, nil, fmt.Errorf("plexus configuration %q: it names no cluster network: set %q or %q", c.Name, "clusterNetwork", "delegates")
	}
	return nil, nil, nil
}

// mayUse implements the key namespaceIsolation.
func (c *Conf) mayUse(pod *Pod, namespace string) error {
	if !c.NamespaceIsolation || namespace == pod.Namespace {
		return nil
	}
	global := []string{"default"}
	if c.GlobalNamespaces != "" {
		global = strings.FieldsFunc(c.GlobalNamespaces, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if slices.Contains(global, namespace) {
		return nil
	}
	return fmt.Errorf("namespace %q is not open to pods of namespace %q: namespaceIsolation is on; open ones: %s", namespace, pod.Namespace, strings.Join(global, ", "))
}

// Resolve makes the plan. definitions belong to references, one each, in order.
func Resolve(c *Conf, references []Reference, definitions []*Definition, ifName string, args Args) (*Plan, error) {
	if len(references) != len(definitions) {
		return nil, fmt.Errorf("%d networks named, %d found", len(references), len(definitions))
	}
	if err := CheckIfName(ifName); err != nil {
		return nil, fmt.Errorf("CNI_IFNAME: %w", err)
	}
	inline, err := c.inline()
	if err != nil {
		return nil, err
	}
	replaced := len(references) > 0 && references[0].cluster
	switch {
	case replaced && c.ClusterNetwork != "":
		inline = nil // Multus: delegates are ignored beside clusterNetwork
	case replaced && len(inline) > 0:
		inline = inline[1:] // the pod's default network replaces the first one
	}
	p := &Plan{}
	var errs []error
	add := func(d *Definition, s Selection, cluster bool) {
		n, err := c.network(d, s, cluster, args)
		if err != nil {
			errs = append(errs, err)
			return
		}
		p.Networks = append(p.Networks, *n)
	}
	if replaced {
		add(definitions[0], references[0].selection, true)
		references, definitions = references[1:], definitions[1:]
	}
	for i, d := range inline {
		add(d, Selection{}, !replaced && i == 0)
	}
	for i, w := range references {
		add(definitions[i], w.selection, false)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, p.assignNames(ifName)
}

// inline are the definitions of delegates, the cluster network first.
func (c *Conf) inline() ([]*Definition, error) {
	var all []*Definition
	master := -1
	for i, raw := range c.Delegates {
		var p plugin
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, fmt.Errorf("plexus configuration: delegates[%d]: %w", i, ExplainJSON(err, raw))
		}
		if p.MasterPlugin {
			if master >= 0 {
				return nil, fmt.Errorf("plexus configuration: delegates[%d] and delegates[%d] both have %q: keep one", master, i, "masterplugin")
			}
			master = i
		}
		all = append(all, &Definition{
			Origin:   fmt.Sprintf("plexus configuration: delegates[%d]", i),
			Fallback: fmt.Sprintf("%s-%d", c.Name, i),
			Config:   raw,
			OfNode:   true,
		})
	}
	if master > 0 {
		d := all[master]
		all = slices.Insert(slices.Delete(all, master, master+1), 0, d)
	}
	return all, nil
}

func (c *Conf) network(d *Definition, s Selection, cluster bool, args Args) (*Network, error) {
	version := c.CNIVersion
	if d.Name != "" { // a NAD: its plugins may know less than the node asks for
		version = DefaultCNIVersion
	}
	list, err := d.ParseList(version)
	if err != nil {
		return nil, err
	}
	if err := d.mayChoose(list, s.DeviceID); err != nil {
		return nil, fmt.Errorf("%s: %w", d.Origin, err)
	}
	device := cmp.Or(s.DeviceID, d.DeviceID)
	if err := list.inject(s.CNIArgs, device); err != nil {
		return nil, fmt.Errorf("%s: %w", d.Origin, err)
	}
	n := &Network{Name: cmp.Or(d.Name, list.Name), IfName: s.Interface, Default: cluster, OfNode: d.OfNode, List: *list, Args: args.PodIdentity(), CapabilityArgs: s.capabilityArgs(), MAC: s.MAC, IPs: s.IPs}
	if !cluster {
		n.SelectionHash = s.hash()
	}
	if err := list.checkCapabilities(n.CapabilityArgs); err != nil {
		return nil, fmt.Errorf("%s: %w", d.Origin, err)
	}
	if device != "" {
		n.CapabilityArgs["deviceID"] = device
		if d.ResourceName != "" {
			n.Resource, n.DeviceID = d.ResourceName, device
		}
	}
	if n.IfName == "" && !cluster {
		if n.IfName, err = list.ifName(); err != nil {
			return nil, err
		}
	}
	for _, gw := range s.DefaultRoute {
		addr, err := netip.ParseAddr(gw)
		if err != nil {
			return nil, fmt.Errorf("%s: key %q: %w", d.Origin, "default-route", err)
		}
		n.DefaultRoute = append(n.DefaultRoute, addr)
	}
	if cluster {
		n.Args = args
	}
	declared := list.declared()
	for key, value := range c.RuntimeConfig {
		if _, asked := n.CapabilityArgs[key]; !asked && (cluster || declared[key] && !slices.Contains(ofInterface, key)) {
			n.CapabilityArgs[key] = value
		}
	}
	return n, nil
}

// ofInterface are the keys of runtimeConfig that are about one interface, which is the cluster
// network's. The others are about the pod: every network that declares them gets them, as with
// Multus.
var ofInterface = []string{"ips", "mac", "ipRanges", "infinibandGUID", "deviceID", "CNIDeviceInfoFile"}

// AddArgs are the CNI_ARGS of ADD: IP and MAC are what the pod asks for, whatever the plugins
// declare, as with Multus; some read nothing else. Several addresses of a network that declares
// ips are in its runtimeConfig alone: host-local refuses a list in CNI_ARGS.
func (n *Network) AddArgs() Args {
	args := n.Args
	if len(n.IPs) == 1 || len(n.IPs) > 1 && !n.List.declared()["ips"] {
		args = args.with("IP", strings.Join(n.IPs, ","))
	}
	if n.MAC != "" {
		args = args.with("MAC", n.MAC)
	}
	return args
}

// assignNames gives the cluster network the name of the request, and the
// others net1, net2, ... by their position, unless the pod asked for a name.
func (p *Plan) assignNames(ifName string) error {
	used := allocation{}
	for i := range p.Networks {
		n := &p.Networks[i]
		switch {
		case n.Default && n.IfName != "" && n.IfName != ifName:
			return fmt.Errorf("network %s: interface %q asked for, but the cluster network's is %q", n.Name, n.IfName, ifName)
		case n.Default:
			n.IfName = ifName
		case n.IfName == "":
			n.IfName = fmt.Sprintf("net%d", i)
		}
		if err := used.take("network "+n.Name, n.IfName, len(n.DefaultRoute) > 0); err != nil {
			return err
		}
	}
	return nil
}

// allocation has the owners, for people, of the interface names of a pod, and of its default
// route under routeKey.
type allocation map[string]string

const routeKey = "default route" // no interface has such a name

// take gives a network an interface name, "" for none yet, and the default route if it is routed.
// network is what people call it.
func (a allocation) take(network, ifName string, routed bool) error {
	if owner, taken := a[ifName]; taken {
		return fmt.Errorf("%s: key %q: the interface name %q is that of %s: give one another, with \"interface\" or name@interface", network, "interface", ifName, owner)
	}
	if ifName != "" {
		a[ifName] = network
	}
	if !routed {
		return nil
	}
	if owner, taken := a[routeKey]; taken {
		return fmt.Errorf("%s and %s both ask for the default route, one may: key %q", owner, network, "default-route")
	}
	a[routeKey] = network
	return nil
}

// Standalone makes the plan of a built-in delegate that is executed under its
// own name, as any CNI plugin is.
func Standalone(stdin []byte, ifName string, args Args) (*Plan, error) {
	if err := CheckIfName(ifName); err != nil {
		return nil, fmt.Errorf("CNI_IFNAME: %w", err)
	}
	d := Definition{Origin: "network configuration", Config: stdin}
	list, err := d.ParseList("")
	if err != nil {
		return nil, err
	}
	if len(list.Plugins) != 1 {
		return nil, fmt.Errorf("network configuration: %d plugins, want one", len(list.Plugins))
	}
	own, err := list.ifName()
	if err != nil {
		return nil, err
	}
	return &Plan{Networks: []Network{{Name: list.Name, IfName: cmp.Or(own, ifName), Default: true, List: *list, Args: args}}}, nil
}

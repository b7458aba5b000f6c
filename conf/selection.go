package conf

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// Annotations that plexus reads and writes (NPWG specification 1.3, sections
// 4.1 and 5.1; Multus docs/configuration.md).
const (
	NetworksAnnotation       = "k8s.v1.cni.cncf.io/networks"
	NetworkStatusAnnotation  = "k8s.v1.cni.cncf.io/network-status"
	ResourceNameAnnotation   = "k8s.v1.cni.cncf.io/resourceName"
	DefaultNetworkAnnotation = "v1.multus-cni.io/default-network"
)

// Bounds of a networks annotation.
const (
	maxAnnotation = 256 << 10 // bytes; Kubernetes' own limit on all annotations
	maxSelections = 64
	maxName       = 200 // bytes of a network name; it becomes part of a file name
)

// Selection is one element of the networks annotation (NPWG specification
// 1.3, section 4.1.2).
type Selection struct {
	Name               string                     `json:"name"`
	Namespace          string                     `json:"namespace"`
	IPs                []string                   `json:"ips"`
	MAC                string                     `json:"mac"`
	InfinibandGUID     string                     `json:"infiniband-guid"`
	Interface          string                     `json:"interface"`
	InterfaceRequest   string                     `json:"interfaceRequest"` // Multus' former name of interface
	PortMappings       []PortMapping              `json:"portMappings"`
	Bandwidth          *Bandwidth                 `json:"bandwidth"`
	DeviceID           string                     `json:"deviceID"`
	CNIArgs            map[string]json.RawMessage `json:"cni-args"`
	DefaultRoute       []string                   `json:"default-route"`
	IPAMClaimReference string                     `json:"ipam-claim-reference"`
}

// PortMapping forwards a port of the host (CNI CONVENTIONS, portMappings).
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Bandwidth limits an attachment; rates are in bits per second, bursts in bits
// (CNI CONVENTIONS, bandwidth).
type Bandwidth struct {
	IngressRate  int64 `json:"ingressRate,omitempty"`
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	EgressRate   int64 `json:"egressRate,omitempty"`
	EgressBurst  int64 `json:"egressBurst,omitempty"`
}

// ParseSelections reads a networks annotation in its short form
// "[ns/]name[@if],..." or its JSON form. Names without a namespace are in
// namespace. object names the annotation in errors.
func ParseSelections(object, text, namespace string) (selections []Selection, warnings []string, err error) {
	if len(text) > maxAnnotation {
		return nil, nil, fmt.Errorf("%s: %d bytes, at most %d are allowed", object, len(text), maxAnnotation)
	}
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return nil, nil, nil
	case strings.ContainsAny(text[:1], `[{"`):
		selections, warnings, err = parseJSONForm(object, text)
	default:
		selections, err = parseShortForm(object, text)
	}
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	used := allocation{}
	for i := range selections {
		s := &selections[i]
		s.Namespace = cmp.Or(s.Namespace, namespace)
		s.Interface = cmp.Or(s.Interface, s.InterfaceRequest)
		for i, p := range s.PortMappings {
			s.PortMappings[i].Protocol = cmp.Or(strings.ToLower(p.Protocol), "tcp") // section 4.1.2.1.7
		}
		network := fmt.Sprintf("network %d", i+1)
		if err := s.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", object, network, err))
			continue
		}
		if err := used.take(fmt.Sprintf("%s (%s/%s)", network, s.Namespace, s.Name), s.Interface, len(s.DefaultRoute) > 0); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", object, err))
		}
	}
	if err := joinSome(errs); err != nil {
		return nil, nil, err
	}
	return selections, warnings, nil
}

func parseJSONForm(object, text string) ([]Selection, []string, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(text), &elements); err != nil {
		return nil, nil, fmt.Errorf("%s: want a JSON list of objects or the short form [namespace/]name[@interface]: %w", object, ExplainJSON(err, []byte(text)))
	}
	if len(elements) > maxSelections {
		return nil, nil, fmt.Errorf("%s: %d networks, at most %d are allowed", object, len(elements), maxSelections)
	}
	selections := make([]Selection, len(elements))
	var warnings []string
	for i, e := range elements {
		w, err := Decode(fmt.Sprintf("%s: network %d", object, i+1), e, &selections[i], RefuseSlips)
		if err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, w...)
	}
	if more := len(warnings) - maxReported; more > 0 {
		warnings = append(warnings[:maxReported], fmt.Sprintf("%s: %d more warnings", object, more))
	}
	return selections, warnings, nil
}

func parseShortForm(object, text string) ([]Selection, error) {
	items := strings.Split(text, ",")
	if len(items) > maxSelections {
		return nil, fmt.Errorf("%s: %d networks, at most %d are allowed", object, len(items), maxSelections)
	}
	selections := make([]Selection, len(items))
	for i, item := range items {
		item = strings.TrimSpace(item)
		rest, ifName, named := cutSpace(item, "@")
		if named && ifName == "" {
			return nil, fmt.Errorf("%s: %.80q: no interface name after '@'", object, item)
		}
		namespace, name, ok := cutSpace(rest, "/")
		if !ok {
			namespace, name = "", rest
		} else if namespace == "" {
			return nil, fmt.Errorf("%s: %.80q: no namespace before '/'", object, item)
		}
		selections[i] = Selection{Namespace: namespace, Name: name, Interface: ifName}
	}
	return selections, nil
}

// cutSpace is strings.Cut without the white space around the parts.
func cutSpace(s, sep string) (before, after string, found bool) {
	before, after, found = strings.Cut(s, sep)
	return strings.TrimSpace(before), strings.TrimSpace(after), found
}

// hash is equal for equal selections, "" for the empty one.
func (s *Selection) hash() string {
	if s.Name == "" {
		return ""
	}
	text, _ := json.Marshal(s) // a Selection can always be marshalled: it was parsed
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// capabilityArgs are the capability arguments that the selection asks for
// (NPWG specification 1.3, section 4.1.2.1; CNI CONVENTIONS).
func (s *Selection) capabilityArgs() map[string]any {
	args := map[string]any{}
	if len(s.IPs) > 0 {
		args["ips"] = s.IPs
	}
	if s.MAC != "" {
		args["mac"] = s.MAC
	}
	if s.InfinibandGUID != "" {
		args["infinibandGUID"] = s.InfinibandGUID
	}
	if len(s.PortMappings) > 0 {
		args["portMappings"] = s.PortMappings
	}
	if s.Bandwidth != nil {
		args["bandwidth"] = s.Bandwidth
	}
	return args
}

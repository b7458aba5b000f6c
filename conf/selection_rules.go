package conf

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// check returns an error for each invalid key of a selection.
func (s *Selection) check() error {
	var errs keyErrors
	if err := CheckObjectName(s.Namespace, s.Name); err != nil {
		errs = append(errs, err)
	}
	if err := CheckIfName(s.Interface); s.Interface != "" && err != nil {
		errs.bad("interface", "%v", err)
	}
	s.checkAddresses(&errs)
	s.checkPortMappings(&errs)
	s.checkDevice(&errs)
	s.checkBandwidth(&errs)
	return joinSome(errs)
}

// keyErrors collects errors about keys.
type keyErrors []error

func (e *keyErrors) bad(key, format string, args ...any) {
	*e = append(*e, fmt.Errorf("key %q: %s", key, fmt.Sprintf(format, args...)))
}

func (s *Selection) checkAddresses(errs *keyErrors) {
	for _, ip := range s.IPs {
		if _, err := netip.ParsePrefix(ip); err != nil && !isAddress(ip) {
			errs.bad("ips", "%.60q is neither an address nor a prefix like 10.0.0.7/24", ip)
		}
	}
	if hw, err := net.ParseMAC(s.MAC); s.MAC != "" && (err != nil || len(hw) != 6) {
		errs.bad("mac", "%.60q, want 6 bytes like 02:00:00:00:00:01", s.MAC)
	}
	if hw, err := net.ParseMAC(s.InfinibandGUID); s.InfinibandGUID != "" && (err != nil || len(hw) != 8) {
		errs.bad("infiniband-guid", "%.60q, want 8 bytes like 02:00:00:00:00:00:00:01", s.InfinibandGUID)
	}
	for _, gateway := range s.DefaultRoute {
		if !isAddress(gateway) {
			errs.bad("default-route", "%.60q is no address", gateway)
		}
	}
}

// isAddress reports whether text is an address without a zone. A zone could be any text.
func isAddress(text string) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && a.Zone() == ""
}

func (s *Selection) checkPortMappings(errs *keyErrors) {
	for _, p := range s.PortMappings {
		if p.HostPort < 1 || p.HostPort > 65535 {
			errs.bad("portMappings.hostPort", "%d, want 1 to 65535", p.HostPort)
		}
		if p.ContainerPort < 1 || p.ContainerPort > 65535 {
			errs.bad("portMappings.containerPort", "%d, want 1 to 65535", p.ContainerPort)
		}
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			errs.bad("portMappings.protocol", "%.20q, allowed are tcp, udp, sctp", p.Protocol)
		}
		if p.HostIP != "" && !isAddress(p.HostIP) {
			errs.bad("portMappings.hostIP", "%.60q is no address", p.HostIP)
		}
	}
}

// deviceID matches the IDs of devices: a PCI address, an auxiliary device, a UUID. Plugins use
// it as a file name.
var deviceID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.:\-]*$`)

const maxAskedDeviceID = 128

func (s *Selection) checkDevice(errs *keyErrors) {
	if s.DeviceID != "" && (len(s.DeviceID) > maxAskedDeviceID || !deviceID.MatchString(s.DeviceID)) {
		errs.bad("deviceID", "%.60q, want a device's name like 0000:03:02.1", s.DeviceID)
	}
	for _, key := range slices.Sorted(maps.Keys(s.CNIArgs)) {
		if namesDevice(key) {
			errs.bad("cni-args", "%.20q names a device: use the key %q beside %q", key, "deviceID", "cni-args")
		}
	}
}

func (s *Selection) checkBandwidth(errs *keyErrors) {
	switch b := s.Bandwidth; {
	case b == nil:
	case b.IngressRate < 0 || b.IngressBurst < 0 || b.EgressRate < 0 || b.EgressBurst < 0:
		errs.bad("bandwidth", "rates and bursts must be 0 or more")
	case b.IngressBurst > 0 && b.IngressRate == 0 || b.EgressBurst > 0 && b.EgressRate == 0:
		errs.bad("bandwidth", "a burst needs its rate: set ingressRate beside ingressBurst, egressRate beside egressBurst")
	case b.IngressRate == 0 && b.EgressRate == 0:
		errs.bad("bandwidth", "it limits nothing: set ingressRate or egressRate")
	}
}

// CheckIfName refuses what the kernel refuses as an interface name
// (dev_valid_name, IFNAMSIZ 16 with the terminating zero) and what shells and
// sysctl paths stumble over.
func CheckIfName(name string) error {
	switch {
	case name == "":
		return errors.New("an interface name is missing")
	case len(name) > 15:
		return fmt.Errorf("interface name %.80q has %d bytes, at most 15 are allowed", name, len(name))
	case name == "." || name == ".." || name == "lo" || name == "all" || name == "default":
		return fmt.Errorf("interface name %q is reserved", name)
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || strings.ContainsRune("/:@%;,'\"\\", r) {
			return fmt.Errorf("interface name %q: character %q is not allowed", name, r)
		}
	}
	return nil
}

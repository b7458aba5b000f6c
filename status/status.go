// Package status describes a pod's attachments: in one merged CNI result, in the annotation
// network-status, and in device-info files.
package status

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/podnet"
)

// Publish adds network-status to the pod's annotations: one element for each attachment in
// order, then the elements of others. The transaction records the names of the elements.
func Publish(annotations map[string]string, tx *journal.Transaction, results []*types100.Result, infos []*conf.DeviceInfo, others []json.RawMessage) error {
	Note(tx, results)
	status := make([]any, len(results))
	for i, entry := range tx.Attachments {
		one := networkStatus(entry, results[i])
		if one.DeviceInfo = infos[i]; infos[i] != nil {
			one.HostSocket = infos[i].Host
		}
		status[i] = one
	}
	for _, other := range others {
		status = append(status, other)
	}
	text, err := json.Marshal(status)
	if err != nil {
		return fmt.Errorf("network-status: %w", err)
	}
	annotations[conf.NetworkStatusAnnotation] = string(text)
	return nil
}

// Note records the names of the elements that will be published in the transaction.
func Note(tx *journal.Transaction, results []*types100.Result) {
	for i, entry := range tx.Attachments {
		one := networkStatus(entry, results[i])
		if name := published(&one); !slices.Contains(tx.Published, name) {
			tx.Published = append(tx.Published, name)
		}
	}
}

// published names an element of network-status.
func published(s *conf.NetworkStatus) string { return s.Name + "@" + s.Interface }

// Others are the elements of the pod's network-status that plexus has not written.
func Others(tx *journal.Transaction, pod *conf.Pod) []json.RawMessage {
	var others []json.RawMessage
	for _, raw := range elements(pod) {
		var s conf.NetworkStatus
		if json.Unmarshal(raw, &s) != nil || !slices.Contains(tx.Published, published(&s)) {
			others = append(others, raw)
		}
	}
	return others
}

// elements are the elements of the pod's network-status that are JSON objects.
func elements(pod *conf.Pod) (all []json.RawMessage) {
	if json.Unmarshal([]byte(pod.Annotations[conf.NetworkStatusAnnotation]), &all) != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(raw json.RawMessage) bool { return len(raw) == 0 || raw[0] != '{' })
}

// Unpublished reports whether the pod's network-status lacks an attachment. Multus has
// published its own attachments in another form.
func Unpublished(tx *journal.Transaction, pod *conf.Pod) bool {
	changing := slices.ContainsFunc(tx.Attachments, func(entry *journal.Entry) bool { return entry.Phase != "" })
	if tx.Conf == nil || tx.Phase != journal.PhaseAttached || changing || tx.StatusPlace != "" || len(tx.Published) == 0 {
		return false
	}
	results, err := tx.Results()
	if err != nil {
		return false // Reconcile reports it
	}
	var have []string
	for _, raw := range elements(pod) {
		var s conf.NetworkStatus
		if json.Unmarshal(raw, &s) == nil {
			have = append(have, withoutDevice(s))
		}
	}
	for i, entry := range tx.Attachments {
		if !slices.Contains(have, withoutDevice(networkStatus(entry, results[i]))) {
			return true
		}
	}
	return false
}

// withoutDevice is an element as text, without its device-info, which the result does not have.
func withoutDevice(s conf.NetworkStatus) string {
	s.DeviceInfo, s.HostSocket = nil, ""
	text, _ := json.Marshal(s) // a NetworkStatus can always be marshalled
	return string(text)
}

// Join joins two JSON lists; anything else is replaced.
func Join(old, value string) string {
	var a, b []json.RawMessage
	if json.Unmarshal([]byte(old), &a) != nil || json.Unmarshal([]byte(value), &b) != nil {
		return value
	}
	joined, _ := json.Marshal(append(a, b...)) // each element was parsed
	return string(joined)
}

// networkStatus is the element of one attachment, made of its result (NPWG specification 1.3,
// section 5.3).
func networkStatus(entry *journal.Entry, r *types100.Result) conf.NetworkStatus {
	s := conf.NetworkStatus{
		Name: entry.Name, Interface: entry.IfName, Default: entry.Default,
		DNS: conf.DNS{Nameservers: r.DNS.Nameservers, Domain: r.DNS.Domain, Search: r.DNS.Search, Options: r.DNS.Options},
	}
	first := slices.IndexFunc(r.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" })
	if first >= 0 {
		i := r.Interfaces[first]
		s.Interface, s.MAC, s.MTU = i.Name, i.Mac, i.Mtu
	}
	for _, ip := range r.IPs {
		if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface == first {
			s.IPs = append(s.IPs, ip.Address.IP.String())
		}
	}
	if entry.Default || len(entry.DefaultRoute) > 0 {
		for _, route := range r.Routes {
			if podnet.IsDefault(&route.Dst) {
				s.Gateway = appendGateway(s.Gateway, route.GW)
			}
		}
	}
	for _, ip := range r.IPs {
		if entry.Default && hasDefault(r.Routes, ip.Address.IP) {
			s.Gateway = appendGateway(s.Gateway, ip.Gateway)
		}
	}
	if len(entry.DefaultRoute) > 0 {
		s.DefaultRoute = s.Gateway
	}
	return s
}

// hasDefault reports whether there is a default route of an address' family.
func hasDefault(routes []*types.Route, ip net.IP) bool {
	return slices.ContainsFunc(routes, func(route *types.Route) bool {
		return podnet.IsDefault(&route.Dst) && (route.Dst.IP.To4() != nil) == (ip.To4() != nil)
	})
}

func appendGateway(list []string, gw net.IP) []string {
	if gw == nil || slices.Contains(list, gw.String()) {
		return list
	}
	return append(list, gw.String())
}

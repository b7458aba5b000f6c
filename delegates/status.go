package delegates

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// describe asks the built-ins what they say of their attachments, and writes
// the files of the device-information specification.
func (e *Engine) describe(ctx context.Context, r *Request, tx *Transaction, results []*types100.Result) (infos []*conf.DeviceInfo, annotations map[string]string, err error) {
	infos, annotations = make([]*conf.DeviceInfo, len(results)), map[string]string{}
	for i, entry := range tx.Attachments {
		if infos[i], err = readDeviceInfo(r.Sandbox, entry); err != nil {
			e.Log.Warn(err.Error())
		}
	}
	err = e.eachBuiltin(r, tx, func(at int, name string, a conf.Attachment, state json.RawMessage) error {
		describer, ok := e.Delegates[name].(Describer)
		if !ok {
			return nil
		}
		a.IPAM = results[at]
		said, err := describer.Describe(a, state)
		if err != nil {
			return err
		}
		for key, value := range said.Annotations {
			annotations[key] = appendAnnotation(annotations[key], value)
		}
		if said.DeviceInfo == nil {
			return nil
		}
		infos[at] = said.DeviceInfo
		return e.writeDeviceInfo(ctx, r, tx.Attachments[at], said.DeviceInfo)
	})
	return infos, annotations, err
}

// addStatus adds network-status, with one element for each attachment in order,
// and those of others behind them, to the annotations that the pod gets.
func addStatus(annotations map[string]string, tx *Transaction, results []*types100.Result, infos []*conf.DeviceInfo, others []json.RawMessage) error {
	tx.willPublish(results)
	status := make([]any, len(results))
	for i, entry := range tx.Attachments {
		one := networkStatus(entry, results[i])
		one.DeviceInfo = infos[i]
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

// willPublish notes the names of what will be written.
func (tx *Transaction) willPublish(results []*types100.Result) {
	for i, entry := range tx.Attachments {
		one := networkStatus(entry, results[i])
		if name := published(&one); !slices.Contains(tx.Published, name) {
			tx.Published = append(tx.Published, name)
		}
	}
}

// published names an element of network-status.
func published(s *conf.NetworkStatus) string { return s.Name + "@" + s.Interface }

// others are the elements of the pod's network-status that are not plexus'.
func (tx *Transaction) others(pod *conf.Pod) []json.RawMessage {
	var others []json.RawMessage
	for _, raw := range told(pod) {
		var s conf.NetworkStatus
		if json.Unmarshal(raw, &s) != nil || !slices.Contains(tx.Published, published(&s)) {
			others = append(others, raw)
		}
	}
	return others
}

// told are the elements of the pod's network-status: the objects among what is there.
func told(pod *conf.Pod) (all []json.RawMessage) {
	if json.Unmarshal([]byte(pod.Annotations[conf.NetworkStatusAnnotation]), &all) != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(raw json.RawMessage) bool { return len(raw) == 0 || raw[0] != '{' })
}

// Unpublished reports whether the pod's network-status lacks what was attached. What
// Multus has attached it has published in its own way.
func (tx *Transaction) Unpublished(pod *conf.Pod) bool {
	changing := slices.ContainsFunc(tx.Attachments, func(entry *Entry) bool { return entry.Phase != "" })
	if tx.Conf == nil || tx.Phase != PhaseAttached || changing || tx.StatusPlace != "" || len(tx.Published) == 0 {
		return false
	}
	results, err := tx.results()
	if err != nil {
		return false // Reconcile says it
	}
	var have []string
	for _, raw := range told(pod) {
		var s conf.NetworkStatus
		if json.Unmarshal(raw, &s) == nil {
			have = append(have, withoutDevice(s))
		}
	}
	for i, entry := range tx.Attachments {
		want := networkStatus(entry, results[i])
		if !slices.Contains(have, withoutDevice(want)) {
			return true
		}
	}
	return false
}

// withoutDevice is an element as text, without the device that the result does not
// know.
func withoutDevice(s conf.NetworkStatus) string {
	s.DeviceInfo = nil
	text, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(text)
}

// Republish publishes what a running pod has got, if that is not on the pod; what
// others have written there stays. It reports whether it did.
func (e *Engine) Republish(ctx context.Context, sandbox string, pod *conf.Pod) (bool, error) {
	annotations, err := e.unpublished(ctx, sandbox, pod)
	if err != nil || annotations == nil {
		return false, err
	}
	return true, e.setAnnotations(ctx, sandbox, pod, annotations)
}

// unpublished are the annotations that a pod lacks, nil when it lacks none.
func (e *Engine) unpublished(ctx context.Context, sandbox string, pod *conf.Pod) (map[string]string, error) {
	ctx, unlock, err := e.lock(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock() // before the API server is asked: DEL does not wait for it
	rec, err := e.Journal.Read(sandbox)
	if err != nil {
		return nil, err
	}
	tx := rec.Told()
	if tx == nil || rec.Damage != "" || !tx.Unpublished(pod) {
		return nil, nil
	}
	r, err := tx.request(sandbox)
	if err != nil {
		return nil, err
	}
	results, err := tx.results()
	if err != nil {
		return nil, err
	}
	return e.status(ctx, r, tx, results, tx.others(pod))
}

// Told is the transaction that the pod's network-status is about: the last one. nil
// when there is none.
func (r *Record) Told() (last *Transaction) {
	if r == nil {
		return nil
	}
	for _, tx := range r.Transactions {
		if tx.Conf != nil && tx.Pod != nil && (last == nil || tx.Started.After(last.Started)) {
			last = tx
		}
	}
	return last
}

// appendAnnotation joins two JSON lists; anything else is replaced.
func appendAnnotation(old, value string) string {
	var a, b []json.RawMessage
	if json.Unmarshal([]byte(old), &a) != nil || json.Unmarshal([]byte(value), &b) != nil {
		return value
	}
	joined, err := json.Marshal(append(a, b...))
	if err != nil {
		return value
	}
	return string(joined)
}

// networkStatus says of one attachment what its result says (NPWG
// specification 1.3, section 5.3).
func networkStatus(entry *Entry, r *types100.Result) conf.NetworkStatus {
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
			if isDefault(&route.Dst) {
				s.Gateway = appendGateway(s.Gateway, route.GW)
			}
		}
		for _, ip := range r.IPs {
			if entry.Default && hasDefault(r.Routes, ip.Address.IP) {
				s.Gateway = appendGateway(s.Gateway, ip.Gateway)
			}
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
		return isDefault(&route.Dst) && (route.Dst.IP.To4() != nil) == (ip.To4() != nil)
	})
}

func appendGateway(list []string, gw net.IP) []string {
	if gw == nil {
		return list
	}
	for _, have := range list {
		if have == gw.String() {
			return list
		}
	}
	return append(list, gw.String())
}

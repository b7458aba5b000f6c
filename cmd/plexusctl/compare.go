package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// line compares one property of an interface; "" is what a side does not say.
type line struct {
	key, plan, journal, datapath string
	differs                      bool
}

// comparable are the facts that mean what the configuration's key of the same
// name means, so that another value is a difference. The MTU of a vhost-user port
// is not one: it is 0 until the pod connects.
func comparable(key string) bool { return key == "bridge" || key == "vlan" }

// counts reports whether a fact is a counter.
func counts(key string) bool {
	return strings.HasPrefix(key, "rx") || strings.HasPrefix(key, "tx")
}

// lines compares what a block has. The delegates' configurations are compared
// key by key; wide shows keys that agree, and counters.
func (b *block) lines(wide bool) []line {
	facts := map[string]map[string]string{}
	if b.datapath != nil {
		for delegate, some := range b.datapath.Facts {
			facts[delegate] = maps.Clone(some)
		}
	}
	all := b.general(facts)
	for _, l := range b.configured(facts) {
		if l.differs || l.datapath != "" || wide {
			all = append(all, l)
		}
	}
	for _, delegate := range slices.Sorted(maps.Keys(facts)) { // facts of the datapath alone
		for _, key := range slices.Sorted(maps.Keys(facts[delegate])) {
			if !counts(key) || wide {
				all = append(all, line{key: delegate + " " + key, datapath: facts[delegate][key]})
			}
		}
	}
	return all
}

// general are the lines that every attachment has. Facts that are told here are
// taken away.
func (b *block) general(facts map[string]map[string]string) []line {
	network, delegate, device := line{key: "network"}, line{key: "delegate"}, line{key: "device"}
	mac, ips, route := line{key: "mac"}, line{key: "addresses"}, line{key: "default route"}
	state := line{key: "state", journal: string(b.phase)}
	if p := b.plan; p != nil {
		network.plan, delegate.plan, device.plan = p.Name, strings.Join(p.List.Types(), "+"), p.DeviceID
		mac.plan, ips.plan = plain(p.CapabilityArgs["mac"]), listed(p.CapabilityArgs["ips"])
		route.plan = joined(p.DefaultRoute)
	}
	if e := b.entry; e != nil {
		r := resultOf(e)
		network.journal, delegate.journal, device.journal = e.Name, strings.Join(e.List.Types(), "+"), e.DeviceID
		mac.journal, ips.journal = macOf(r, e.IfName), strings.Join(addresses(r), " ")
		route.journal = joined(e.DefaultRoute)
	}
	mac.datapath = take(facts, "mac")
	ips.datapath = take(facts, "addresses")
	state.datapath = cmp.Or(take(facts, "link_state"), take(facts, "state"))
	delete(facts["link"], "name")
	both := b.plan != nil && b.entry != nil
	all := []line{}
	for _, l := range []line{network, delegate, device, mac, ips, route, state} {
		switch l.key {
		case "network", "delegate", "device", "default route":
			l.differs = both && l.plan != l.journal
		case "mac":
			l.differs = contradict(l.plan, l.journal) || contradict(l.journal, l.datapath)
		}
		if l.plan+l.journal+l.datapath != "" {
			all = append(all, l)
		}
	}
	return all
}

// take takes the first fact of a name: the kernel link's, or else a delegate's.
func take(facts map[string]map[string]string, key string) string {
	for _, delegate := range append([]string{"link"}, slices.Sorted(maps.Keys(facts))...) {
		if value, ok := facts[delegate][key]; ok {
			delete(facts[delegate], key)
			return value
		}
	}
	return ""
}

// contradict: both sides say something, and not the same.
func contradict(a, b string) bool { return a != "" && b != "" && !strings.EqualFold(a, b) }

// configured compares the plugins' configurations, each key that one of them has.
func (b *block) configured(facts map[string]map[string]string) []line {
	var planned, recorded []map[string]json.RawMessage
	var types []string
	if b.plan != nil {
		planned, types = pluginsOf(b.plan.List.Plugins), b.plan.List.Types()
	}
	if b.entry != nil {
		recorded, types = pluginsOf(b.entry.List.Plugins), b.entry.List.Types()
	}
	if b.plan != nil && b.entry != nil && !slices.Equal(b.plan.List.Types(), types) {
		planned = nil // other plugins: no key is comparable
	}
	var all []line
	for i, delegate := range types {
		p, r := at(planned, i), at(recorded, i)
		keys := maps.Clone(p)
		maps.Copy(keys, r)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			switch key {
			case "type", "name", "cniVersion":
				continue
			}
			l := line{key: key, plan: value(p[key]), journal: value(r[key])}
			if len(types) > 1 {
				l.key = delegate + " " + key
			}
			l.differs = len(planned) > 0 && len(recorded) > 0 && l.plan != l.journal
			if fact, ok := facts[delegate][key]; ok {
				l.datapath = fact
				delete(facts[delegate], key)
				l.differs = l.differs || comparable(key) && contradict(l.journal, fact)
			}
			all = append(all, l)
		}
	}
	return all
}

func pluginsOf(plugins []json.RawMessage) []map[string]json.RawMessage {
	all := make([]map[string]json.RawMessage, len(plugins))
	for i, raw := range plugins {
		_ = json.Unmarshal(raw, &all[i]) // none is none to compare
	}
	return all
}

// at is a plugin's configuration, an empty one beyond the end.
func at(plugins []map[string]json.RawMessage, i int) map[string]json.RawMessage {
	if i < len(plugins) && plugins[i] != nil {
		return plugins[i]
	}
	return map[string]json.RawMessage{}
}

// value is a JSON value for people: strings without quotes, keys in order.
func value(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	var v any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&v) != nil {
		return string(raw)
	}
	return plain(v)
}

func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

// listed are the elements of a list that came as JSON.
func listed(v any) string {
	list, ok := v.([]any)
	if !ok {
		return plain(v)
	}
	var texts []string
	for _, one := range list {
		texts = append(texts, plain(one))
	}
	return strings.Join(texts, " ")
}

func joined[T fmt.Stringer](list []T) string {
	var texts []string
	for _, one := range list {
		texts = append(texts, one.String())
	}
	return strings.Join(texts, " ")
}

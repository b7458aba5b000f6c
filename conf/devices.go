package conf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// NeedsDevices reports whether a network uses a device that a device plugin has assigned to
// the pod.
func NeedsDevices(definitions []*Definition) bool {
	return slices.ContainsFunc(definitions, func(d *Definition) bool { return d.ResourceName != "" })
}

// AssignDevices gives each network that names a resource the next of the pod's
// devices of it, in the order of the networks, the cluster network first. A
// network that names a deviceID gets that device, if the pod has it. No device is assigned
// twice. given are the pod's devices by resource.
func AssignDevices(references []Reference, definitions []*Definition, given map[string][]string) ([]*Definition, error) {
	assigned := map[string]string{}
	var errs []error
	assign := func(d *Definition, device string) {
		if other, twice := assigned[device]; twice {
			errs = append(errs, fmt.Errorf("%s: device %s is given to %s already: each network needs its own", d.Origin, device, other))
		}
		assigned[device] = d.Origin
	}
	for i, d := range definitions {
		deviceID := references[i].selection.DeviceID
		if deviceID == "" {
			continue
		}
		if d.ResourceName != "" && !slices.Contains(given[d.ResourceName], deviceID) {
			errs = append(errs, fmt.Errorf("%s: key %q: %.60q is none of the pod's devices of resource %s: it has %s", d.Origin, "deviceID", deviceID, d.ResourceName, listDevices(given[d.ResourceName])))
			continue
		}
		assign(d, deviceID)
	}
	all := slices.Clone(definitions)
	for i, d := range definitions {
		if d.ResourceName == "" || references[i].selection.DeviceID != "" {
			continue
		}
		pool := given[d.ResourceName]
		if len(pool) == 0 {
			errs = append(errs, fmt.Errorf("%s: the pod has no device of resource %s: request it in the resources of a container, one for each network", d.Origin, d.ResourceName))
			continue
		}
		free := slices.IndexFunc(pool, func(device string) bool { _, ok := assigned[device]; return !ok })
		if free < 0 {
			errs = append(errs, fmt.Errorf("%s: the pod has %d devices of resource %s, and other networks have them all: request one for each network", d.Origin, len(pool), d.ResourceName))
			continue
		}
		if why := badDevice(pool[free]); why != "" {
			errs = append(errs, fmt.Errorf("%s: the pod was given a device of resource %s whose ID %.60q %s: look at the device plugin or the driver of that resource", d.Origin, d.ResourceName, pool[free], why))
			continue
		}
		copied := *d
		copied.DeviceID = pool[free]
		assign(&copied, copied.DeviceID)
		all[i] = &copied
	}
	return all, errors.Join(errs...)
}

// maxDeviceID bounds a device's ID, in bytes.
const maxDeviceID = 256

// badDevice tells what is wrong with the ID of a device that a device plugin or a claim has
// given, "" for nothing. Plugins use it in paths.
func badDevice(id string) string {
	switch {
	case id == "":
		return "is empty"
	case len(id) > maxDeviceID:
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(id), maxDeviceID)
	case !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl):
		return "has characters that are no text"
	case slices.Contains(strings.Split(id, "/"), ".."):
		return "leads out of a folder"
	}
	return ""
}

// listDevices lists IDs for people, the first ones of many.
func listDevices(ids []string) string {
	const most = 16
	var list []string
	for _, id := range ids[:min(len(ids), most)] {
		if badDevice(id) != "" {
			id = fmt.Sprintf("%.60q", id)
		}
		list = append(list, id)
	}
	if more := len(ids) - most; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}

// namesDevice reports whether a key of a plugin configuration names the device,
// as JSON readers in Go find it: in any case.
func namesDevice(key string) bool {
	return strings.EqualFold(key, "deviceID") || strings.EqualFold(key, "pciBusID")
}

// mayChoose reports whether a pod may choose the device of a network: one of the
// devices that the pod has of the NAD's resource (AssignDevices looks), or a VF
// of the PFs that a plugin of type sriov names (that plugin looks). A device
// that the NAD names itself stays.
func (d *Definition) mayChoose(l *List, device string) error {
	if device == "" || d.ResourceName != "" {
		return nil
	}
	sriov := false
	for _, raw := range l.Plugins {
		if own := ownDevice(raw); own != "" {
			return fmt.Errorf("key %q: %.60q: the network has its own %q, a pod cannot choose another device: leave out %q", "deviceID", device, own, "deviceID")
		}
		sriov = sriov || namesPFs(raw)
	}
	if !sriov {
		return fmt.Errorf("key %q: %.60q: a pod cannot choose the device of this network: give its NAD the annotation %s, or the plugin of type sriov a %q whose VFs pods may choose", "deviceID", device, ResourceNameAnnotation, "pf")
	}
	return nil
}

// ownDevice is the key by which a plugin configuration names a device, empty
// when it names none.
func ownDevice(raw json.RawMessage) string {
	var keys, runtime map[string]json.RawMessage
	_ = json.Unmarshal(raw, &keys) // ParseList has parsed it before
	for key, value := range keys {
		if strings.EqualFold(key, "runtimeConfig") && json.Unmarshal(value, &runtime) == nil {
			if inner := deviceKey(runtime); inner != "" {
				return key + "." + inner
			}
		}
	}
	return deviceKey(keys)
}

func deviceKey(keys map[string]json.RawMessage) string {
	for key, value := range keys {
		if namesDevice(key) && string(value) != "null" && string(value) != `""` {
			return key
		}
	}
	return ""
}

// namesPFs reports whether a plugin configuration is one of type sriov that
// names the PFs whose VFs it gives.
func namesPFs(raw json.RawMessage) bool {
	var c struct {
		Type, Master, IF0 string
		PF                any
	}
	if json.Unmarshal(raw, &c) != nil || c.Type != "sriov" {
		return false
	}
	named := []any{c.Master, c.IF0, c.PF}
	if list, ok := c.PF.([]any); ok {
		named = append(named[:2], list...)
	}
	return slices.ContainsFunc(named, func(name any) bool {
		text, ok := name.(string)
		return ok && strings.Trim(text, ", ") != ""
	})
}

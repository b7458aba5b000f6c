package conf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// NeedsDevices reports whether a network's device is one that the pod has been
// given by a device plugin.
func NeedsDevices(definitions []*Definition) bool {
	return slices.ContainsFunc(definitions, func(d *Definition) bool { return d.ResourceName != "" })
}

// AssignDevices gives each network that names a resource the next of the pod's
// devices of it, in the order of the networks, the cluster network first. What a
// network asks for by deviceID it gets, if the pod has it. No device is given
// twice. given are the pod's devices by resource.
func AssignDevices(wanted []Wanted, definitions []*Definition, given map[string][]string) ([]*Definition, error) {
	taken := map[string]string{}
	var errs []error
	take := func(d *Definition, device string) {
		if other, twice := taken[device]; twice {
			errs = append(errs, fmt.Errorf("%s: device %s is given to %s already: each network needs its own", d.Origin, device, other))
		}
		taken[device] = d.Origin
	}
	for i, d := range definitions {
		asked := wanted[i].selection.DeviceID
		if asked == "" {
			continue
		}
		if d.ResourceName != "" && !slices.Contains(given[d.ResourceName], asked) {
			errs = append(errs, fmt.Errorf("%s: key %q: %.60q is none of the pod's devices of resource %s: it has %s", d.Origin, "deviceID", asked, d.ResourceName, listed(given[d.ResourceName])))
			continue
		}
		take(d, asked)
	}
	all := slices.Clone(definitions)
	for i, d := range definitions {
		if d.ResourceName == "" || wanted[i].selection.DeviceID != "" {
			continue
		}
		pool := given[d.ResourceName]
		if len(pool) == 0 {
			errs = append(errs, fmt.Errorf("%s: the pod has no device of resource %s: request it in the resources of a container, one for each network", d.Origin, d.ResourceName))
			continue
		}
		free := slices.IndexFunc(pool, func(device string) bool { _, ok := taken[device]; return !ok })
		if free < 0 {
			errs = append(errs, fmt.Errorf("%s: the pod has %d devices of resource %s, and other networks have them all: request one for each network", d.Origin, len(pool), d.ResourceName))
			continue
		}
		copied := *d
		copied.DeviceID = pool[free]
		take(&copied, copied.DeviceID)
		all[i] = &copied
	}
	return all, errors.Join(errs...)
}

func listed(devices []string) string {
	if len(devices) == 0 {
		return "none"
	}
	return strings.Join(devices, ", ")
}

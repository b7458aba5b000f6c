package conf

import (
	"errors"
	"fmt"
	"slices"
)

// Changes compares the networks annotation of a running pod with the networks that it has.
// removed are the indexes in have of networks that the annotation no longer names, added are
// the networks to look up and attach. The cluster network, and others that the configuration
// names, stay as they are.
func Changes(c *Conf, pod *Pod, have []Network) (removed []int, added []Reference, warnings []string, err error) {
	references, warnings, err := References(c, pod)
	if err != nil {
		return nil, nil, nil, err
	}
	kept := make([]bool, len(have))
	for _, w := range references {
		hash := w.selection.hash()
		if hash == "" || w.cluster {
			continue
		}
		at := -1
		for i, n := range have {
			if !kept[i] && n.SelectionHash == hash {
				at = i
				break
			}
		}
		if at < 0 {
			added = append(added, w)
			continue
		}
		kept[at] = true
	}
	for i, n := range have {
		if n.SelectionHash != "" && !kept[i] {
			removed = append(removed, i)
		}
	}
	return removed, added, warnings, nil
}

// ResolveMore plans added networks for a running pod. have are the networks that it keeps;
// usedNames are names of interfaces in it that plexus has not made.
func ResolveMore(c *Conf, added []Reference, definitions []*Definition, have []Network, usedNames []string, args Args) ([]Network, error) {
	if len(added) != len(definitions) {
		return nil, fmt.Errorf("%d networks named, %d found", len(added), len(definitions))
	}
	names := map[string]string{}
	for _, name := range usedNames {
		names[name] = "somebody else"
	}
	routed := ""
	for _, n := range have {
		names[n.IfName] = "network " + n.Name
		if len(n.DefaultRoute) > 0 {
			routed = n.Name
		}
	}
	more := make([]Network, 0, len(added))
	var errs []error
	for i, w := range added {
		n, err := c.network(definitions[i], w.selection, false, args)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other, twice := names[n.IfName]; n.IfName != "" && twice {
			errs = append(errs, fmt.Errorf("network %s: interface %s of the pod is %s's", n.Name, n.IfName, other))
		}
		if len(n.DefaultRoute) > 0 && routed != "" {
			errs = append(errs, fmt.Errorf("networks %s and %s both ask for the default route, one may", routed, n.Name))
		}
		if len(n.DefaultRoute) > 0 {
			routed = n.Name
		}
		if n.IfName != "" {
			names[n.IfName] = "network " + n.Name
		}
		more = append(more, *n)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i := range more {
		for number := 1; more[i].IfName == ""; number++ {
			name := fmt.Sprintf("net%d", number)
			if _, twice := names[name]; !twice {
				more[i].IfName, names[name] = name, "network "+more[i].Name
			}
		}
	}
	return more, nil
}

// WithoutDevices are a pod's devices without those that its networks use.
func WithoutDevices(given map[string][]string, have []Network) map[string][]string {
	free := map[string][]string{}
	for resource, devices := range given {
		free[resource] = slices.DeleteFunc(slices.Clone(devices), func(device string) bool {
			return slices.ContainsFunc(have, func(n Network) bool { return n.DeviceID == device })
		})
	}
	return free
}

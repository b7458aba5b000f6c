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
		at := 0
		for at < len(have) && (kept[at] || have[at].SelectionHash != hash) {
			at++
		}
		if at == len(have) {
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
	used := allocation{}
	for _, name := range usedNames {
		used[name] = "somebody else"
	}
	for _, n := range have {
		_ = used.take("network "+n.Name, n.IfName, len(n.DefaultRoute) > 0) // the pod has both
	}
	more := make([]Network, 0, len(added))
	var errs []error
	for i, w := range added {
		n, err := c.network(definitions[i], w.selection, false, args)
		if err == nil {
			err = used.take("network "+n.Name, n.IfName, len(n.DefaultRoute) > 0)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		more = append(more, *n)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i := range more {
		for number := 1; more[i].IfName == ""; number++ {
			name := fmt.Sprintf("net%d", number)
			if _, taken := used[name]; !taken {
				more[i].IfName, used[name] = name, "network "+more[i].Name
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

package conf

import (
	"errors"
	"fmt"
	"slices"
)

// Changes compares what a running pod asks for now with what it has: gone are the
// places in have of attachments that it asks for no more, come are the networks
// to look up and attach. The cluster network, and others that the
// configuration names, stay as they are.
func Changes(c *Conf, pod *Pod, have []Network) (gone []int, come []Reference, warnings []string, err error) {
	references, warnings, err := References(c, pod)
	if err != nil {
		return nil, nil, nil, err
	}
	kept := make([]bool, len(have))
	for _, w := range references {
		asked := w.selection.mark()
		if asked == "" || w.cluster {
			continue
		}
		at := -1
		for i, n := range have {
			if !kept[i] && n.Asked == asked {
				at = i
				break
			}
		}
		if at < 0 {
			come = append(come, w)
			continue
		}
		kept[at] = true
	}
	for i, n := range have {
		if n.Asked != "" && !kept[i] {
			gone = append(gone, i)
		}
	}
	return gone, come, warnings, nil
}

// ResolveMore plans networks for a pod that runs. have is what it keeps; taken
// are names of interfaces that others have made in it.
func ResolveMore(c *Conf, come []Reference, definitions []*Definition, have []Network, taken []string, args Args) ([]Network, error) {
	if len(come) != len(definitions) {
		return nil, fmt.Errorf("%d networks named, %d found", len(come), len(definitions))
	}
	names := map[string]string{}
	for _, name := range taken {
		names[name] = "somebody else"
	}
	routed := ""
	for _, n := range have {
		names[n.IfName] = "network " + n.Name
		if len(n.DefaultRoute) > 0 {
			routed = n.Name
		}
	}
	more := make([]Network, 0, len(come))
	var errs []error
	for i, w := range come {
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

// WithoutDevices are a pod's devices less those that its networks have.
func WithoutDevices(given map[string][]string, have []Network) map[string][]string {
	left := map[string][]string{}
	for resource, devices := range given {
		left[resource] = slices.DeleteFunc(slices.Clone(devices), func(device string) bool {
			return slices.ContainsFunc(have, func(n Network) bool { return n.DeviceID == device })
		})
	}
	return left
}

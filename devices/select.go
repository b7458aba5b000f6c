package devices

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Selector selects PCI functions; an empty list selects all.
type Selector struct {
	Vendors, Devices, Drivers, Addresses, ACPIIndexes, LinkTypes []string

	PFs, Roots []functions // by the name, and by the PCI address, of the PF
	RDMA       bool
	onlyVFs    bool
}

// functions are functions of a PF by their numbers.
type functions struct {
	of      string
	numbers []numbers // none: all
}

// numbers is a range, both ends in it.
type numbers struct{ first, last int }

// maxVF is above every number of a VF (PCI Express, SR-IOV Extended Capability: 16 bits).
const maxVF = 1<<16 - 1

// parseRanges reads numbers of functions: 0-3,7. "" is none.
func parseRanges(text string) (all []numbers, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < 0 || last < first || last > maxVF {
			return nil, fmt.Errorf("%.60q, want numbers such as 0-3,7", text)
		}
		all = append(all, numbers{first, last})
	}
	return all, nil
}

// selects reports whether a list of PFs has one of the name, and the function's number.
func selects(list []functions, name string, number int) bool {
	at := slices.IndexFunc(list, func(f functions) bool { return name != "" && strings.EqualFold(f.of, name) })
	if at < 0 {
		return false
	}
	ranges := list[at].numbers
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(n numbers) bool { return number >= n.first && number <= n.last })
}

// matches reports whether the selector selects a function.
func (s *Selector) matches(f *Function) bool {
	for _, by := range []struct {
		list  []string
		value string
	}{
		{s.Vendors, f.Vendor}, {s.Devices, f.Device}, {s.Drivers, f.Driver}, {s.Addresses, f.PCI}, {s.ACPIIndexes, f.ACPIIndex}, {s.LinkTypes, f.LinkType},
	} {
		if len(by.list) > 0 && !slices.Contains(by.list, by.value) {
			return false
		}
	}
	if s.RDMA && f.RDMA == "" || s.onlyVFs && f.PF == "" {
		return false
	}
	if len(s.PFs) > 0 && len(s.Roots) > 0 && s.onlyVFs { // one list, by name and by address
		return selects(s.PFs, f.PFName, f.VF) || selects(s.Roots, f.PF, f.VF)
	}
	return (len(s.PFs) == 0 || selects(s.PFs, f.PFName, f.VF)) && (len(s.Roots) == 0 || selects(s.Roots, f.PF, f.VF))
}

// Assign gives each resource its functions, in the order of their addresses. A function is of
// one resource: within a resourceList the first one has it, as with
// sriov-network-device-plugin; elsewhere it is an error, and the resource that comes later is
// left out. A PF that is not there is an error as well.
func Assign(resources []Resource, all []Function) (map[string][]Function, []error) {
	given, owner := map[string][]Function{}, map[string]*Resource{}
	var errs []error
	for i := range resources {
		r := &resources[i]
		if len(r.PCI) == 0 {
			continue
		}
		mine, err := r.choose(all, owner)
		if err != nil {
			errs = append(errs, fmt.Errorf("resource %s: %w", r.Name, err))
			continue
		}
		for _, f := range mine {
			owner[f.PCI] = r
		}
		given[r.Name] = append(given[r.Name], mine...)
	}
	return given, errs
}

func (r *Resource) choose(all []Function, owner map[string]*Resource) (mine []Function, err error) {
	if !r.legacy {
		if err := r.havePFs(all); err != nil {
			return nil, err
		}
	}
	for _, s := range r.PCI {
		for i := range all {
			f := &all[i]
			switch other := owner[f.PCI]; {
			case r.legacy && f.Driver == "", !s.matches(f), slices.ContainsFunc(mine, func(m Function) bool { return m.PCI == f.PCI }):
			case other == nil:
				mine = append(mine, *f)
			case !r.legacy || !other.legacy:
				return nil, fmt.Errorf("%s is of resource %s as well: let one of them select other functions (keys %q, %q)", f.PCI, other.Name, "pf", "vf")
			}
		}
	}
	return mine, nil
}

// havePFs refuses PFs that the node does not have.
func (r *Resource) havePFs(all []Function) error {
	for _, s := range r.PCI {
		for _, want := range slices.Concat(s.PFs, s.Roots) {
			is := func(f Function) bool {
				return strings.EqualFold(f.PF, want.of) || f.PF != "" && strings.EqualFold(f.PFName, want.of)
			}
			if !slices.ContainsFunc(all, is) {
				return fmt.Errorf("key %q: %s is no PF of this node that has VFs; PFs that have are: %s", "pf", want.of, strings.Join(pfsOf(all), ", "))
			}
		}
	}
	return nil
}

func pfsOf(all []Function) (names []string) {
	for _, f := range all {
		if f.PF != "" && !slices.Contains(names, f.PFName+" ("+f.PF+")") {
			names = append(names, f.PFName+" ("+f.PF+")")
		}
	}
	if len(names) == 0 {
		return []string{"none"}
	}
	return names
}

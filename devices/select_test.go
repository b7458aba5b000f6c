package devices

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a configuration of sriov-network-device-plugin selects on a node. The form and the words
// are those of its README; the selection is what its code makes of them.
func TestResourceList(t *testing.T) {
	vfs1 := []string{"0000:01:02.0", "0000:01:02.1", "0000:01:02.2"} // the fourth has no driver
	vfs2 := []string{"0000:81:00.2", "0000:81:00.3"}
	for name, c := range map[string]struct {
		list string
		want map[string][]string
	}{
		"vendor, device, driver": {`[{"resourceName": "intel", "selectors": {"vendors": ["8086"], "devices": ["154c", "10ed"], "drivers": ["i40evf", "iavf", "ixgbevf"]}}]`,
			map[string][]string{"intel.com/intel": vfs1[:2]}},
		"an array of selectors": {`[{"resourceName": "any", "resourcePrefix": "x.com", "selectors": [{"drivers": ["vfio-pci"]}, {"vendors": ["15b3"], "devices": ["1018"]}]}]`,
			map[string][]string{"x.com/any": {vfs1[2], vfs2[0], vfs2[1]}}},
		"DPDK":                              {`[{"resourceName": "dpdk", "resourcePrefix": "intel.com", "selectors": {"vendors": ["8086"], "devices": ["154c"], "drivers": ["vfio-pci"], "pfNames": ["ens1f0"]}}]`, map[string][]string{"intel.com/dpdk": vfs1[2:3]}},
		"a PF":                              {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0"]}]}]`, map[string][]string{"intel.com/a": vfs1}},
		"a range of a PF":                   {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#1-2"]}]}]`, map[string][]string{"intel.com/a": vfs1[1:3]}},
		"ranges and numbers":                {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#0,2-3", "ens2f0#1"]}]}]`, map[string][]string{"intel.com/a": {vfs1[0], vfs1[2], vfs2[1]}}},
		"the same PF in two pools":          {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#0-1"]}]}, {"resourceName": "b", "selectors": [{"pfNames": ["ens1f0#2-3"]}]}]`, map[string][]string{"intel.com/a": vfs1[:2], "intel.com/b": vfs1[2:]}},
		"what two pools select":             {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0"]}]}, {"resourceName": "b", "selectors": [{"vendors": ["8086", "15b3"], "devices": ["154c", "1018"]}]}]`, map[string][]string{"intel.com/a": vfs1, "intel.com/b": vfs2}},
		"root devices":                      {`[{"resourceName": "a", "selectors": [{"rootDevices": ["0000:81:00.0#0"]}]}]`, map[string][]string{"intel.com/a": vfs2[:1]}},
		"a PF is no root of its own":        {`[{"resourceName": "a", "selectors": [{"rootDevices": ["0000:82:00.0"]}]}]`, map[string][]string{"intel.com/a": nil}},
		"addresses":                         {`[{"resourceName": "a", "selectors": [{"pciAddresses": ["0000:01:02.3", "0000:01:02.1", "0000:99:00.0"]}]}]`, map[string][]string{"intel.com/a": vfs1[1:2]}},
		"an ACPI index":                     {`[{"resourceName": "a", "selectors": [{"acpiIndexes": ["101", "102"]}]}]`, map[string][]string{"intel.com/a": vfs2[:1]}},
		"InfiniBand":                        {`[{"resourceName": "ib", "selectors": [{"linkTypes": ["infiniband"]}]}]`, map[string][]string{"intel.com/ib": {"0000:82:00.0"}}},
		"Ethernet":                          {`[{"resourceName": "eth", "selectors": [{"vendors": ["8086"], "linkTypes": ["ether"]}]}]`, map[string][]string{"intel.com/eth": vfs1}},
		"RDMA":                              {`[{"resourceName": "rdma", "selectors": [{"vendors": ["15b3"], "isRdma": true}]}]`, map[string][]string{"intel.com/rdma": vfs2[:1]}},
		"a PF of another name":              {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens9"]}]}]`, map[string][]string{"intel.com/a": nil}},
		"no selectors":                      {`[{"resourceName": "all"}]`, map[string][]string{"intel.com/all": {vfs1[0], vfs1[1], vfs1[2], vfs2[0], vfs2[1], "0000:82:00.0"}}},
		"one name twice, as MTU pools have": {`[{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#0"]}]}, {"resourceName": "a", "selectors": [{"pfNames": ["ens2f0#0"]}]}]`, map[string][]string{"intel.com/a": {vfs1[0], vfs2[0]}}},
	} {
		t.Run(name, func(t *testing.T) {
			resources, err := Parse(json.RawMessage(fmt.Sprintf(`{"resourceList": %s}`, c.list)))
			if err != nil {
				t.Fatal(err)
			}
			given, errs := Assign(resources, functionsOf(t, node))
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			got := map[string][]string{}
			for resource, all := range given {
				got[resource] = addresses(all)
				slices.Sort(got[resource])
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// plexus' own form, and its errors: the object, the key, and what would be right. The other
// resources are offered.
func TestResources(t *testing.T) {
	for name, c := range map[string]struct {
		list string
		want map[string][]string
		says []string
	}{
		"VFs of a PF":           {`[{"name": "x.com/a", "pf": ["ens1f0"], "vf": "0-1"}]`, map[string][]string{"x.com/a": {"0000:01:02.0", "0000:01:02.1"}}, nil},
		"of a driver":           {`[{"name": "x.com/a", "pf": ["ens1f0"], "driver": "vfio-pci"}]`, map[string][]string{"x.com/a": {"0000:01:02.2"}}, nil},
		"of PFs by address":     {`[{"name": "x.com/a", "pf": ["0000:81:00.0", "ens1f0"], "vf": "0"}]`, map[string][]string{"x.com/a": {"0000:01:02.0", "0000:81:00.2"}}, nil},
		"a PF that is not":      {`[{"name": "x.com/a", "pf": ["ens9"]}, {"name": "x.com/b", "pf": ["ens2f0"]}]`, map[string][]string{"x.com/b": {"0000:81:00.2", "0000:81:00.3"}}, []string{"resource x.com/a", `"pf"`, "ens9", "ens1f0 (0000:01:00.0)"}},
		"a VF in two resources": {`[{"name": "x.com/a", "pf": ["ens1f0"]}, {"name": "x.com/b", "pf": ["ens1f0"], "vf": "3"}]`, map[string][]string{"x.com/a": {"0000:01:02.0", "0000:01:02.1", "0000:01:02.2", "0000:01:02.3"}}, []string{"resource x.com/b", "0000:01:02.3", "x.com/a"}},
		"a slip":                {`[{"name": "x.com/a", "pf": ["ens1f0"], "driverr": "x"}]`, nil, []string{"devices.resources[0]", `"driverr"`, `"driver"`}},
		"a name without domain": {`[{"name": "a", "pf": ["ens1f0"]}]`, nil, []string{"devices.resources[0]", `"name"`, "example.com/fast"}},
		"Kubernetes' domain":    {`[{"name": "node.kubernetes.io/a", "pf": ["ens1f0"]}]`, nil, []string{`"name"`, "Kubernetes' own"}},
		"a name twice":          {`[{"name": "x.com/a", "pf": ["ens1f0"]}, {"name": "x.com/a", "bridge": "br0"}]`, map[string][]string{"x.com/a": {"0000:01:02.0", "0000:01:02.1", "0000:01:02.2", "0000:01:02.3"}}, []string{"devices.resources[1]", "x.com/a", "twice"}},
		"two kinds":             {`[{"name": "x.com/a", "pf": ["ens1f0"], "bridge": "br0"}]`, nil, []string{"x.com/a", `"pf"`, `"bridge"`, `"vpp"`}},
		"no kind":               {`[{"name": "x.com/a"}]`, nil, []string{"x.com/a", `"pf"`, `"bridge"`, `"vpp"`}},
		"numbers":               {`[{"name": "x.com/a", "pf": ["ens1f0"], "vf": "3-1"}]`, nil, []string{`"vf"`, "3-1", "0-3,7"}},
		"ports out of range":    {`[{"name": "x.com/a", "bridge": "br0", "ports": 5000}]`, nil, []string{`"ports"`, "5000", "1024"}},
		"ports of VFs":          {`[{"name": "x.com/a", "pf": ["ens1f0"], "ports": 5}]`, nil, []string{`"ports"`, `"bridge"`}},
		"driver of a bridge":    {`[{"name": "x.com/a", "bridge": "br0", "driver": "x"}]`, nil, []string{`"driver"`, `"pf"`}},
		"a relative API socket": {`[{"name": "x.com/a", "vpp": "api.sock"}]`, nil, []string{`"vpp"`, "absolute"}},
		"a path as PF":          {`[{"name": "x.com/a", "pf": ["../x"]}]`, nil, []string{`"pf"`, "../x"}},
	} {
		t.Run(name, func(t *testing.T) {
			resources, err := Parse(json.RawMessage(fmt.Sprintf(`{"resources": %s}`, c.list)))
			given, errs := Assign(resources, functionsOf(t, node))
			if len(errs) == 1 {
				err = errs[0]
			}
			if c.says != nil {
				wantError(t, err, c.says...)
			} else if err != nil {
				t.Fatal(err)
			}
			got := map[string][]string{}
			for resource, all := range given {
				got[resource] = addresses(all)
			}
			if diff := cmp.Diff(c.want, got); diff != "" && len(c.want)+len(got) > 0 {
				t.Error(diff)
			}
		})
	}
}

// A selector of sriov-network-device-plugin by which plexus cannot select is refused: it would
// give other devices to pods. So are other types of devices.
func TestResourceListRefused(t *testing.T) {
	for text, says := range map[string][]string{
		`{"resourceName": "a", "selectors": {"ddpProfiles": ["GTPv1-C/U"]}}`:       {"intel.com/a", `"ddpProfiles"`, "device plugin"},
		`{"resourceName": "a", "selectors": [{"pKeys": ["0x1"]}]}`:                 {`"pKeys"`},
		`{"resourceName": "a", "selectors": [{"vdpaType": "virtio"}]}`:             {`"vdpaType"`},
		`{"resourceName": "a", "deviceType": "accelerator", "selectors": {}}`:      {`"deviceType"`, "accelerator", "netDevice"},
		`{"resourceName": "a", "selectors": [{"pfName": ["ens1f0"]}]}`:             {`"pfName"`, `"pfNames"`},
		`{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#"]}]}`:           {`"pfNames"`, "ens1f0#"},
		`{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#x-2"]}]}`:        {`"pfNames"`, "x-2"},
		`{"resourceName": "a", "selectors": [{"pfNames": ["ens1f0#0-1#2"]}]}`:      {`"pfNames"`},
		`{"resourceName": "a b", "selectors": {}}`:                                 {`"resourceName"`},
		`{"resourceName": "a", "resourcePrefix": "X_Y", "selectors": {}}`:          {`"resourcePrefix"`},
		`{"resourceName": "a", "additionalInfo": {"*": {"t": "x"}}}`:               {`"additionalInfo"`},
		`{"resourceName": "a", "selectors": [{"vendors": "8086"}]}`:                {"vendors"},
		`{"resourceName": "a", "resourcePrefix": "kubernetes.io", "selectors":{}}`: {"Kubernetes' own"},
	} {
		_, err := Parse(json.RawMessage(fmt.Sprintf(`{"resourceList": [%s]}`, text)))
		wantError(t, err, append(says, "devices.resourceList[0]")...)
	}
	if all, err := Parse(nil); err != nil || all != nil {
		t.Errorf("no settings: %v %v", all, err)
	}
	_, err := Parse(json.RawMessage(`{"resource": []}`))
	wantError(t, err, `"resource"`, `"resources"`)
}

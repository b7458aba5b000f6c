package conf_test

import (
	"fmt"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// A pod chooses a device only where the NAD has left the choice to it: one of
// the pod's devices of a resource, or a VF of the PFs that the NAD names.
func TestWhoseChoiceADeviceIs(t *testing.T) {
	const asked = "0000:00:03.0"
	for name, test := range map[string]struct {
		config, resource string
		says             []string
	}{
		"a VF of the NAD's pf":     {`{"type": "sriov", "pf": "eth1"}`, "", nil},
		"of several":               {`{"type": "sriov", "pf": ["eth1", "eth2"], "vf": 3}`, "", nil},
		"of master":                {`{"type": "sriov", "master": "eth1"}`, "", nil},
		"of if0":                   {`{"type": "sriov", "if0": "eth1"}`, "", nil},
		"keys in other letters":    {`{"TYPE": "sriov", "PF": "eth1"}`, "", nil},
		"among other plugins":      {`{"plugins": [{"type": "sriov", "pf": "eth1"}, {"type": "rdma"}]}`, "", nil},
		"of the NAD's resource":    {`{"type": "sriov"}`, "x.com/vf", nil},
		"resource and another":     {`{"type": "host-device"}`, "x.com/nic", nil},
		"empty keys name none":     {`{"type": "sriov", "pf": "eth1", "deviceID": "", "pciBusID": null, "runtimeConfig": {}}`, "", nil},
		"sriov without a PF":       {`{"type": "sriov"}`, "", []string{`"pf"`}},
		"sriov with an empty PF":   {`{"type": "sriov", "pf": "", "master": ""}`, "", []string{`"pf"`}},
		"sriov with a list of ''":  {`{"type": "sriov", "pf": ["", " "]}`, "", []string{`"pf"`}},
		"sriov with null as PF":    {`{"type": "sriov", "pf": null}`, "", []string{`"pf"`}},
		"an executable":            {`{"type": "host-device", "capabilities": {"deviceID": true}}`, "", []string{`"pf"`}},
		"an executable with a pf":  {`{"type": "host-device", "pf": "eth1"}`, "", []string{`"pf"`}},
		"one that needs no device": {`{"type": "macvlan"}`, "", []string{`"pf"`}},
		"over deviceID":            {`{"type": "sriov", "pf": "eth1", "deviceID": "0000:01:10.0"}`, "", []string{`its own "deviceID"`}},
		"over DEVICEID":            {`{"type": "sriov", "pf": "eth1", "DEVICEID": "0000:01:10.0"}`, "", []string{`its own "DEVICEID"`}},
		"over pciBusID":            {`{"type": "sriov", "pf": "eth1", "pciBusID": "0000:01:10.0"}`, "", []string{`its own "pciBusID"`}},
		"over runtimeConfig":       {`{"type": "sriov", "pf": "eth1", "runtimeConfig": {"deviceID": "0000:01:10.0"}}`, "", []string{`its own "runtimeConfig.deviceID"`}},
		"over another plugin's":    {`{"plugins": [{"type": "sriov", "pf": "eth1"}, {"type": "rdma", "deviceID": "0000:01:10.0"}]}`, "", []string{`its own "deviceID"`}},
		"over a kind of its own":   {`{"type": "sriov", "pf": "eth1", "deviceID": ["x"]}`, "", []string{`its own "deviceID"`}},
	} {
		t.Run(name, func(t *testing.T) {
			for key, pod := range map[string]*conf.Pod{
				conf.NetworksAnnotation:       podWith(`[{"name": "a", "deviceID": "` + asked + `"}]`),
				conf.DefaultNetworkAnnotation: podOf(conf.DefaultNetworkAnnotation, `[{"name": "a", "deviceID": "`+asked+`"}]`),
			} {
				r := request{conf: settings(""), pod: pod, resource: test.resource, networks: map[string]string{"shop/a": test.config, "kube-system/a": test.config}}
				p, _, err := r.plan()
				if test.says != nil {
					checkError(t, err, append(test.says, "NetworkAttachmentDefinition", "/a", `"deviceID"`, asked)...)
					continue
				}
				checkError(t, err)
				n := p.Networks[0]
				if key == conf.NetworksAnnotation {
					n = p.Networks[1]
				}
				checkEqual(t, n.CapabilityArgs["deviceID"], any(asked))
			}
		})
	}
}

// What a running pod asks for goes the same way.
func TestAHotPluggedDeviceIsNoOtherChoice(t *testing.T) {
	c := changesConf(t)
	for config, says := range map[string][]string{
		`{"type": "sriov", "pf": "eth1"}`:                          nil,
		`{"type": "sriov", "deviceID": "0000:01:10.0", "pf": "x"}`: {"shop/a", `"deviceID"`, "0000:00:03.0", "its own"},
		`{"type": "host-device"}`:                                  {"shop/a", `"deviceID"`, "0000:00:03.0"},
	} {
		_, come, _, err := conf.Changes(c, podWith(`[{"name": "a", "deviceID": "0000:00:03.0"}]`), nil)
		checkError(t, err)
		d := &conf.Definition{Origin: "NetworkAttachmentDefinition shop/a", Name: "shop/a", Fallback: "a", Config: []byte(config)}
		_, err = conf.ResolveMore(c, come, []*conf.Definition{d}, nil, nil, nil)
		checkError(t, err, says...)
	}
}

// A device of cni-args would be one that nobody has looked at.
func TestCNIArgsNameNoDevice(t *testing.T) {
	for _, key := range []string{"deviceID", "DeviceId", "pciBusID", "pcibusid"} {
		_, _, err := selections(fmt.Sprintf(`[{"name": "a", "cni-args": {%q: "0000:00:03.0"}}]`, key))
		checkError(t, err, `"cni-args"`, key, `"deviceID"`)
	}
	_, _, err := selections(`[{"name": "a", "cni-args": {"device": "x", "vlan": 7}}]`)
	checkError(t, err)
}

// What CNI_ARGS and the runtime's configuration say of a device is for the
// cluster network, which is the node's.
func TestTheRuntimesDeviceIsTheClusterNetworks(t *testing.T) {
	p := request{conf: settings(`"runtimeConfig": {"deviceID": "0000:00:03.0"}`), pod: podWith("a"), networks: nads("shop/a"),
		args: "IgnoreUnknown=1;K8S_POD_NAME=web;VF=3;vf=3;VLAN=7;MAC=02:00:00:00:00:01;deviceID=0000:00:03.0"}.mustPlan(t)
	checkEqual(t, p.Networks[1].Args.String(), "IgnoreUnknown=1;K8S_POD_NAME=web")
	checkEqual(t, p.Networks[1].CapabilityArgs, map[string]any{})
	checkJSON(t, p.Networks[1].List.Plugins[0], anyNAD)
}

// The device that the pod was given takes the place of every spelling of the
// NAD's own: JSON readers in Go take the last one.
func TestAnAssignedDeviceIsTheOnlyOne(t *testing.T) {
	d := &conf.Definition{Origin: "NetworkAttachmentDefinition shop/a", Name: "shop/a", ResourceName: "x.com/vf", DeviceID: "0000:01:10.0",
		Config: []byte(`{"name": "a", "type": "sriov", "deviceId": "0000:00:03.0", "PCIBUSID": "0000:00:03.0"}`)}
	c := parse(t, settings(""))
	wanted, _, err := conf.References(c, podWith("a"))
	checkError(t, err)
	p, err := conf.Resolve(c, wanted, []*conf.Definition{d}, "eth0", nil)
	checkError(t, err)
	checkJSON(t, p.Networks[1].List.Plugins[0], `{"name": "a", "type": "sriov", "deviceID": "0000:01:10.0", "pciBusID": "0000:01:10.0"}`)
}

package checkpoint

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Written by the checkpoint package of Kubernetes 1.36.3, with its checksum.
const (
	full    = `{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ContainerName":"b","ResourceName":"x.com/vf","DeviceIDs":{"-1":["b-"],"0":["b0"],"1":["b1"],"10":["b10"],"2":["b2"]},"AllocResp":"CgVoZWxsbw=="},{"PodUID":"u2","ContainerName":"a","ResourceName":"x.com/vf","DeviceIDs":{"0":["d9"]},"AllocResp":null},{"PodUID":"u1","ContainerName":"a","ResourceName":"x.com/vf","DeviceIDs":{"0":["a1","b0","a0"]},"AllocResp":""},{"PodUID":"u1","ContainerName":"b","ResourceName":"x.com/gpu","DeviceIDs":{"-1":["g"]},"AllocResp":null}],"RegisteredDevices":{"x.com/gpu":["g"],"x.com/none":null,"x.com/vf":["a0","a1","b0"]}},"Checksum":337074366}`
	empty   = `{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":3467439661}`
	nothing = `{"Data":{"PodDeviceEntries":null,"RegisteredDevices":null},"Checksum":1944006890}`
)

var fullEntries = []Entry{
	{"u1", "b", "x.com/vf", []string{"b-", "b0", "b1", "b2", "b10"}},
	{"u2", "a", "x.com/vf", []string{"d9"}},
	{"u1", "a", "x.com/vf", []string{"a1", "b0", "a0"}},
	{"u1", "b", "x.com/gpu", []string{"g"}},
}

// What the kubelet writes is read, NUMA nodes in the order of their numbers; what is damaged
// or of another format is an error of its own, and no pod without devices.
func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []Entry
		err  error
	}{
		"the kubelet's":              {full, fullEntries, nil},
		"with a boot ID":             {strings.Replace(full, `"Checksum"`, `"BootID":"x","Checksum"`, 1), fullEntries, nil},
		"no entries":                 {empty, nil, nil},
		"no entries, no resources":   {nothing, nil, nil},
		"before 1.20":                {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ResourceName":"r","DeviceIDs":["d2","d1"]}]},"Checksum":1}`, []Entry{{"u1", "", "r", []string{"d2", "d1"}}}, nil},
		"a field of a later kubelet": {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ResourceName":"r","DeviceIDs":{"0":["d"]},"New":1}]},"Checksum":1}`, []Entry{{"u1", "", "r", []string{"d"}}}, nil},
		"another device":             {strings.Replace(full, `"d9"`, `"d8"`, 1), nil, ErrChecksum},
		"another checksum":           {strings.Replace(full, "337074366", "337074367", 1), nil, ErrChecksum},
		"another response":           {strings.Replace(full, "CgVoZWxsbw==", "CgVoZWxsbg==", 1), nil, ErrChecksum},
		"null":                       {"null", nil, ErrFormat},
		"a list":                     {"[]", nil, ErrFormat},
		"no text":                    {"", nil, ErrFormat},
		"cut":                        {full[:200], nil, ErrFormat},
		"more behind it":             {full + "{}", nil, ErrFormat},
		"data is null":               {`{"Data":null,"Checksum":1}`, nil, ErrFormat},
		"data is empty":              {`{"Data":{},"Checksum":1}`, nil, ErrFormat},
		"another manager's":          {`{"policyName":"static","defaultCpuSet":"0-3","checksum":1}`, nil, ErrFormat},
		"entries of another type":    {`{"Data":{"PodDeviceEntries":{"u1":[]}}}`, nil, ErrFormat},
		"devices of another type":    {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","DeviceIDs":3}]}}`, nil, ErrFormat},
		"NUMA node without a number": {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","DeviceIDs":{"a":["d"]}}]}}`, nil, ErrFormat},
	} {
		got, err := Parse([]byte(c.text))
		if diff := cmp.Diff(c.want, got); !errors.Is(err, c.err) || (err != nil) != (c.err != nil) || diff != "" {
			t.Errorf("%s: error %v, want %v: %s", name, err, c.err, diff)
		}
	}
}

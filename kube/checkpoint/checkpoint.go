// Package checkpoint reads the checkpoint of the kubelet's device manager, which has the
// devices that device plugins have given to pods
// (k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/checkpoint).
//
// The kubelet's checksum is a hash of the data as Go prints it, with the names of types and
// of their package (k8s.io/kubernetes/pkg/kubelet/checkpointmanager/checksum). So this package
// and three of its types have the kubelet's names.
package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"

	"k8s.io/utils/dump"
)

// Entry has the devices of a resource that a container has.
type Entry struct {
	PodUID, Container, Resource string
	DeviceIDs                   []string // in the order of the NUMA nodes' numbers
}

// Errors of Parse.
var (
	ErrFormat   = errors.New("it is no checkpoint of the kubelet's device manager in a form that is known")
	ErrChecksum = errors.New("its checksum is not that of its data")
)

// DevicesPerNUMA are device IDs by NUMA node; -1 is none.
type DevicesPerNUMA map[int64][]string

// PodDevicesEntry has all fields of the kubelet's type.
type PodDevicesEntry struct {
	PodUID        string
	ContainerName string
	ResourceName  string
	DeviceIDs     DevicesPerNUMA
	AllocResp     []byte
}

// checkpointData has all fields of the kubelet's type.
type checkpointData struct {
	PodDeviceEntries  []PodDevicesEntry
	RegisteredDevices map[string][]string
}

// Parse reads the entries of a checkpoint. It compares the checksum, unless the data has the
// form of a kubelet before 1.20, or a field that plexus does not know: then the hash cannot be
// computed. Errors are ErrFormat and ErrChecksum.
func Parse(text []byte) ([]Entry, error) {
	var head struct {
		Data     map[string]json.RawMessage
		Checksum *uint64
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	entries, ok := head.Data["PodDeviceEntries"]
	if !ok {
		return nil, ErrFormat
	}
	if data, known := parseKnown(text); known && head.Checksum != nil && *head.Checksum != checksum(data) {
		return nil, ErrChecksum
	}
	return parseEntries(entries)
}

// parseKnown parses the data of a checkpoint whose fields are all known.
func parseKnown(text []byte) (checkpointData, bool) {
	var whole struct {
		Data     checkpointData
		Checksum uint64
		BootID   string // of Kubernetes 1.37
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&whole)
	return whole.Data, err == nil
}

// checksum is the kubelet's.
func checksum(data checkpointData) uint64 {
	h := fnv.New32a()
	_, _ = io.WriteString(h, dump.ForHash(data)) // a hash returns no error
	return uint64(h.Sum32())
}

func parseEntries(text []byte) ([]Entry, error) {
	var entries []struct {
		PodUID, ContainerName, ResourceName string
		DeviceIDs                           deviceIDs
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var all []Entry
	for _, e := range entries {
		all = append(all, Entry{e.PodUID, e.ContainerName, e.ResourceName, e.DeviceIDs})
	}
	return all, nil
}

// deviceIDs are lists by NUMA node, or one list, as kubelets before 1.20 wrote it.
type deviceIDs []string

// UnmarshalJSON reads both forms.
func (d *deviceIDs) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*[]string)(d)) == nil {
		return nil
	}
	var byNode DevicesPerNUMA
	if err := json.Unmarshal(data, &byNode); err != nil {
		return err
	}
	*d = nil
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		*d = append(*d, byNode[node]...)
	}
	return nil
}

package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// Folders of device-info files (device-information specification 1.1.0, section "CNI device
// information"), and the capability argument that names a plugin's file.
const (
	deviceInfoDir        = "/var/run/k8s.cni.cncf.io/devinfo/cni"
	devicePluginDir      = "/var/run/k8s.cni.cncf.io/devinfo/dp"
	deviceInfoCapability = "CNIDeviceInfoFile"
	maxDeviceInfo        = 64 << 10 // bytes
)

// deviceInfoFile is the file of an attachment. No container ID has a comma.
func deviceInfoFile(sandbox, ifName string) string {
	return filepath.Join(deviceInfoDir, sandbox+","+ifName+".json")
}

// OfferDeviceInfo passes the file to plugins that declare the capability.
func OfferDeviceInfo(entry *journal.Entry, sandbox string) {
	for _, raw := range entry.List.Plugins {
		var p struct {
			Capabilities map[string]bool `json:"capabilities"`
		}
		if json.Unmarshal(raw, &p) == nil && p.Capabilities[deviceInfoCapability] {
			if entry.CapabilityArgs == nil {
				entry.CapabilityArgs = map[string]any{}
			}
			entry.CapabilityArgs[deviceInfoCapability] = deviceInfoFile(sandbox, entry.IfName)
		}
	}
}

// WriteDeviceInfo writes the device-info of an attachment to the file (CallersDeviceInfo);
// "" stands for the attachment's own file.
func WriteDeviceInfo(ctx context.Context, sandbox, ifName, file string, info *conf.DeviceInfo) error {
	data, err := json.Marshal(info)
	if err == nil {
		err = delegates.Step(ctx, "%s: write device information", ifName)
	}
	if err != nil {
		return err
	}
	return putDeviceInfo(cmp.Or(file, deviceInfoFile(sandbox, ifName)), data)
}

// CallersDeviceInfo is the file that the caller of a built-in under its own name has given,
// "" for none. The configuration may be a tenant's, who could write the key too: the file has
// to be in the folder of device-info files, and the configuration has to declare the
// capability.
func CallersDeviceInfo(config []byte) (string, error) {
	const key = "runtimeConfig." + deviceInfoCapability
	var keys struct {
		Capabilities  map[string]bool `json:"capabilities"`
		RuntimeConfig struct {
			File string `json:"CNIDeviceInfoFile"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(config, &keys); err != nil {
		return "", fmt.Errorf("key %q: %w", key, err)
	}
	file := keys.RuntimeConfig.File
	dir, name := filepath.Split(file)
	switch {
	case file == "":
		return "", nil
	case !keys.Capabilities[deviceInfoCapability]:
		return "", fmt.Errorf("key %q: it is set, but the network does not declare the capability: add \"capabilities\": {%q: true}", key, deviceInfoCapability)
	case dir != deviceInfoDir+"/" && dir != strings.TrimPrefix(deviceInfoDir, "/var")+"/", !strings.HasSuffix(name, ".json"), strings.HasPrefix(name, "."),
		strings.Contains(name, ","): // the form of plexus' own files, see deviceInfoFile
		return "", fmt.Errorf("key %q: %.200q, want a file *.json in %s, without a comma", key, file, deviceInfoDir)
	}
	return filepath.Join(deviceInfoDir, name), nil
}

// CopyDeviceInfo copies the device-info of the device plugin to the attachment's file, before
// its plugins run; they may add to it.
func CopyDeviceInfo(ctx context.Context, sandbox string, entry *journal.Entry) error {
	data, err := readDevice(entry)
	if err == nil && data == nil {
		return nil
	}
	if err == nil {
		err = delegates.Step(ctx, "%s: copy device information", entry.IfName)
	}
	if err != nil {
		return err
	}
	return putDeviceInfo(deviceInfoFile(sandbox, entry.IfName), data)
}

// readDevice reads what the device plugin has written; nil when there is nothing.
func readDevice(entry *journal.Entry) ([]byte, error) {
	if entry.Resource == "" {
		return nil, nil
	}
	name := strings.ReplaceAll(entry.Resource+"-"+entry.DeviceID, "/", "-") + "-device.json"
	data, err := readBounded(filepath.Join(devicePluginDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Device is the device-info of the device that a device plugin has given for an attachment;
// nil when there is none.
func Device(entry *journal.Entry) (*conf.DeviceInfo, error) {
	data, err := readDevice(entry)
	if err != nil || data == nil {
		return nil, err
	}
	info := &conf.DeviceInfo{}
	if err := json.Unmarshal(data, info); err != nil {
		return nil, fmt.Errorf("device information of device %s of resource %s: it is no object of the device-information specification", entry.DeviceID, entry.Resource)
	}
	return info, nil
}

// putDeviceInfo writes a file. It replaces a link instead of following it.
func putDeviceInfo(file string, data []byte) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC | unix.O_NOFOLLOW
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(file, flags, 0o644)
	}
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("write device information: %w", err)
	}
	return nil
}

// ReadDeviceInfo reads the file that a plugin, or the device plugin, has written; nil when there
// is none.
func ReadDeviceInfo(sandbox string, entry *journal.Entry) (*conf.DeviceInfo, error) {
	file := deviceInfoFile(sandbox, entry.IfName)
	data, err := readBounded(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	info := &conf.DeviceInfo{}
	if err := json.Unmarshal(data, info); err != nil {
		return nil, fmt.Errorf("device information of network %s: %s is no object of the device-information specification", entry.Name, file)
	}
	return info, nil
}

func readBounded(file string) (data []byte, err error) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(io.LimitReader(f, maxDeviceInfo+1))
	}
	if len(data) > maxDeviceInfo {
		err = fmt.Errorf("%s has more than %d bytes", file, maxDeviceInfo)
	}
	if err != nil {
		return nil, fmt.Errorf("device information: %w", err)
	}
	return data, nil
}

// RemoveDeviceInfo removes the file of an attachment.
func RemoveDeviceInfo(sandbox, ifName string) error {
	if err := os.Remove(deviceInfoFile(sandbox, ifName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("device information: %w", err)
	}
	return nil
}

// RemoveDeviceInfos removes the files of a sandbox whose attachments are not recorded.
func RemoveDeviceInfos(sandbox string) error {
	files, err := filepath.Glob(deviceInfoFile(sandbox, "*"))
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

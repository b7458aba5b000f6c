package status

import (
	"fmt"
	"strings"
	"testing"
)

// The configuration of a delegate that is executed alone is a tenant's: it names a
// file of device information only in the folder for them, and only with the
// capability.
func TestAskedDeviceInfo(t *testing.T) {
	const key, good = "runtimeConfig.CNIDeviceInfoFile", deviceInfoDir + "/default-fast-uid-net1-device.json"
	for file, want := range map[string]string{
		"":   "",
		good: good,
		"/run/k8s.cni.cncf.io/devinfo/cni/x-device.json": deviceInfoDir + "/x-device.json",
		"/etc/cron.d/x": "refused",
		"/etc/x.json":   "refused",
		"x-device.json": "refused",
		deviceInfoDir + "/../../../../etc/x.json": "refused",
		deviceInfoDir + "/../dp/x.json":           "refused",
		deviceInfoDir + "/0123456789ab,net1.json": "refused", // another sandbox's
		deviceInfoDir + "/sub/x.json":             "refused",
		deviceInfoDir + "/x":                      "refused",
		deviceInfoDir + "/.json":                  "refused",
		deviceInfoDir + "/":                       "refused",
		deviceInfoDir:                             "refused",
	} {
		config := fmt.Sprintf(`{"type": "ovsdpdk", "capabilities": {"CNIDeviceInfoFile": true}, "runtimeConfig": {"CNIDeviceInfoFile": %q}}`, file)
		got, err := CallersDeviceInfo([]byte(config))
		switch {
		case want == "refused" && (err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), deviceInfoDir)):
			t.Errorf("%q: %q, %v, want an error that names the key and the folder", file, got, err)
		case want != "refused" && (err != nil || got != want):
			t.Errorf("%q: %q, %v", file, got, err)
		}
	}
	for _, config := range []string{
		`{"runtimeConfig": {"CNIDeviceInfoFile": "` + good + `"}}`,
		`{"capabilities": {"CNIDeviceInfoFile": false}, "runtimeConfig": {"CNIDeviceInfoFile": "` + good + `"}}`,
	} {
		if got, err := CallersDeviceInfo([]byte(config)); err == nil || !strings.Contains(err.Error(), "capabilit") {
			t.Errorf("%s: %q, %v, want an error that names the capability", config, got, err)
		}
	}
}

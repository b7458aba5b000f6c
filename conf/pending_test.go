package conf_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

func TestADefaultNetworkWithoutAnyClusterNetworkIsNoPanic(t *testing.T) {
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panic: %v", r)
		}
	}()
	r := request{conf: `{"name": "node", "type": "plexus"}`, pod: podOf(conf.DefaultNetworkAnnotation, "a"), networks: nads("kube-system/a")}
	p, _, err := r.plan()
	if err != nil {
		checkError(t, err, "clusterNetwork", "delegates")
		return
	}
	checkEqual(t, attachments(p), "eth0=kube-system/a*")
}

func TestSystemNamespacesAreKubeSystemUnlessGiven(t *testing.T) { // as in Multus' pkg/types/conf.go
	checkEqual(t, parse(t, settings("")).SystemNamespaces, []string{"kube-system"})
	checkEqual(t, parse(t, settings(`"systemNamespaces": ["admin"]`)).SystemNamespaces, []string{"admin"})
}

func TestLogLevelInOtherCaseIsTheSameLevel(t *testing.T) { // as in Multus' pkg/logging
	checkEqual(t, parse(t, settings(`"logLevel": "DEBUG"`)).LogLevel, conf.LogDebug)
}

func TestATypeCannotHideBehindTheSameKeyInOtherCase(t *testing.T) {
	for _, hidden := range []string{"plexus", "../../bin/sh"} {
		for _, config := range []string{
			fmt.Sprintf(`{"type": %q, "Type": "macvlan"}`, hidden),
			fmt.Sprintf(`{"plugins": [{"type": %q, "TYPE": "macvlan"}]}`, hidden),
		} {
			t.Run(config, func(t *testing.T) {
				p, _, err := request{conf: settings(""), pod: podWith("a"), networks: map[string]string{"shop/a": config}}.plan()
				if err == nil && p.Networks[1].List.Types()[0] != "macvlan" {
					t.Errorf("type %q was checked, type %q is executed", "macvlan", p.Networks[1].List.Types()[0])
				}
			})
		}
	}
}

func TestAWarningOfTheDefaultNetworkAnnotationIsNotLost(t *testing.T) {
	_, warnings, err := request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, `[{"name": "a", "vendorHint": 1}]`), networks: nads("kube-system/a")}.plan()
	checkError(t, err)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "vendorHint") {
		t.Errorf("warnings %q, want one about vendorHint", warnings)
	}
}

// What a pod's annotation says goes to the log and back to the runtime.
func TestABadAnnotationDoesNotFloodTheLog(t *testing.T) {
	const bound = 64 << 10
	list := func(element string) string {
		return strings.TrimSuffix(strings.Repeat(element+",", 200<<10/(len(element)+1)), ",")
	}
	keys := func(format string) string {
		var all []string
		for i := range 10000 {
			all = append(all, fmt.Sprintf(format, i))
		}
		return strings.Join(all, ",")
	}
	for _, test := range []struct{ name, text string }{
		{"many bad addresses", `[{"name": "a", "ips": [` + list(`"x"`) + `]}]`},
		{"many bad gateways", `[{"name": "a", "default-route": [` + list(`""`) + `]}]`},
		{"many bad port mappings", `[{"name": "a", "portMappings": [` + list(`{}`) + `]}]`},
		{"many unknown keys", `[{"name": "a", ` + keys(`"unknown%d": 1`) + `}]`},
		{"many slips", `[{"name": "a", "portMappings": [` + list(`{"hostPor":1}`) + `]}]`},
		{"a key of 200 KiB", `[{"name": "a", "` + strings.Repeat("k", 200<<10) + `": 1}]`},
		{"a number of 200 KiB", `[{"name": "a", "mac": ` + strings.Repeat("1", 200<<10) + `}]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, warnings, err := selections(test.text)
			n := len(strings.Join(warnings, "\n"))
			if err != nil {
				n += len(err.Error())
			}
			if n > bound {
				t.Errorf("%d bytes of errors and warnings from %d bytes of annotation, want at most %d", n, len(test.text), bound)
			}
		})
	}
}

func TestAnAddressWithAZoneIsRefused(t *testing.T) { // a zone may be any text
	for key, value := range map[string]string{
		"ips":           `["fe80::1%;reboot"]`,
		"default-route": `["fe80::1%../../x"]`,
		"portMappings":  `[{"containerPort": 80, "hostIP": "fe80::1%a b"}]`,
	} {
		t.Run(key, func(t *testing.T) {
			_, _, err := selections(fmt.Sprintf(`[{"name": "a", %q: %s}]`, key, value))
			checkError(t, err, key)
		})
	}
}

func TestADeviceIDIsNoPath(t *testing.T) { // plugins look it up below /sys
	for _, id := range []string{"../../../tmp/x", "/dev/vda", "..", "a b", "a\x00", "a\n", strings.Repeat("d", 1000)} {
		t.Run(fmt.Sprintf("refuses %.20q", id), func(t *testing.T) {
			_, _, err := selections(fmt.Sprintf(`[{"name": "a", "deviceID": %s}]`, asJSON(t, id)))
			checkError(t, err, `"deviceID"`)
		})
	}
	for _, id := range []string{"0000:03:02.1", "mlx5_core.sf.4", "2f5d3a1e-0c1b-4a52-9f7e-1d2c3b4a5f60", "vdpa0"} {
		t.Run("accepts "+id, func(t *testing.T) {
			_, _, err := selections(fmt.Sprintf(`[{"name": "a", "deviceID": %q}]`, id))
			checkError(t, err)
		})
	}
}

func TestWhiteSpaceAroundThePartsOfTheShortFormIsNothing(t *testing.T) { // as in Multus' parsePodNetworkObjectName
	got, _, err := selections("lab / fast @ data0")
	checkError(t, err)
	checkEqual(t, got, []conf.Selection{{Namespace: "lab", Name: "fast", Interface: "data0"}})
}

func TestAnUnknownVersionOfANetworkListsTheKnownOnes(t *testing.T) {
	_, err := nad(`{"cniVersion": "7.0.0", "type": "a"}`).ParseList("")
	checkError(t, err, `"cniVersion"`, "7.0.0", "1.1.0")
}

func TestTheFlagsOfAListMayBeTexts(t *testing.T) { // as in libcni's NetworkConfFromBytes
	l, err := nad(`{"disableCheck": "true", "plugins": [{"type": "a"}]}`).ParseList("")
	checkError(t, err)
	checkEqual(t, l.DisableCheck, true)
}

func TestANetworkOfTheConfigurationHasAName(t *testing.T) {
	_, err := conf.Parse([]byte(settings(`"defaultNetworks": ["side", ""]`)))
	checkError(t, err, `"defaultNetworks[1]"`)
}

func TestTheSameFaultsGiveTheSameError(t *testing.T) {
	text := []byte(settings(`"confDir": "a", "binDir": "b", "dataDir": "c", "logFile": "d", "zzzzzz1": 1, "zzzzzz2": 1, "zzzzzz3": 1`))
	paths := []byte(settings(`"confDir": "a", "binDir": "b", "dataDir": "c", "logFile": "d", "manifests": "e"`))
	for _, text := range [][]byte{text, paths} {
		_, first := conf.Parse(text)
		for range 20 {
			_, err := conf.Parse(text)
			if err.Error() != first.Error() {
				t.Fatalf("one time\n%v\nanother time\n%v", first, err)
			}
		}
	}
}

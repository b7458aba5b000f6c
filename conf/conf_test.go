package conf_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/conf"
)

// settings is a small good configuration with more keys, `"key": value, ...`.
func settings(more string) string {
	text := `{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "delegates": [{"name": "cluster", "type": "bridge"}]`
	if more != "" {
		text += ", " + more
	}
	return text + "}"
}

func parse(t *testing.T, text string) *conf.Conf {
	t.Helper()
	c, err := conf.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseReadsEveryKeyOfAMultusConfiguration(t *testing.T) {
	no := false
	got := parse(t, `{
		"cniVersion": "0.3.1",
		"name": "multus-cni-network",
		"type": "multus",
		"delegates": [{"type": "flannel", "name": "cbr0"}],
		"clusterNetwork": "calico",
		"defaultNetworks": ["storage", "/etc/cni/extra.conf"],
		"kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
		"confDir": "/etc/cni/multus/other.d",
		"cniDir": "/var/lib/cni/multus",
		"binDir": "/opt/cni/bin",
		"logFile": "/var/log/multus.log",
		"logLevel": "verbose",
		"logToStderr": false,
		"logOptions": {"maxAge": 5, "maxSize": 100, "maxBackups": 6, "compress": true},
		"capabilities": {"portMappings": true},
		"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
		"readinessindicatorfile": "/run/flannel/subnet.env",
		"namespaceIsolation": true,
		"globalNamespaces": "default,shared",
		"systemNamespaces": ["kube-system", "admin"],
		"multusNamespace": "network",
		"auxiliaryCNIChainName": "vendor-chain",
		"retryDeleteOnError": true
	}`)
	checkEqual(t, got, &conf.Conf{
		CNIVersion:             "0.3.1",
		Name:                   "multus-cni-network",
		Type:                   "multus",
		Delegates:              []json.RawMessage{json.RawMessage(`{"type": "flannel", "name": "cbr0"}`)},
		ClusterNetwork:         "calico",
		DefaultNetworks:        []string{"storage", "/etc/cni/extra.conf"},
		Kubeconfig:             "/etc/cni/net.d/multus.d/multus.kubeconfig",
		ConfDir:                "/etc/cni/multus/other.d",
		CNIDir:                 "/var/lib/cni/multus",
		BinDir:                 "/opt/cni/bin",
		LogFile:                "/var/log/multus.log",
		LogLevel:               conf.LogVerbose,
		LogToStderr:            &no,
		LogOptions:             conf.LogOptions{MaxAge: 5, MaxSize: 100, MaxBackups: 6, Compress: true},
		Capabilities:           map[string]bool{"portMappings": true},
		RuntimeConfig:          map[string]json.RawMessage{"portMappings": json.RawMessage(`[{"hostPort": 8080, "containerPort": 80}]`)},
		ReadinessIndicatorFile: "/run/flannel/subnet.env",
		NamespaceIsolation:     true,
		GlobalNamespaces:       "default,shared",
		SystemNamespaces:       []string{"kube-system", "admin"},
		MultusNamespace:        "network",
		AuxiliaryCNIChainName:  "vendor-chain",
		RetryDeleteOnError:     true,
		DataDir:                "/var/lib/cni/multus",
		Result:                 conf.ResultAuto,
	})
}

func TestParseReadsTheKeysThatPlexusAdds(t *testing.T) {
	c := parse(t, settings(`"manifests": "/etc/plexus/manifests", "dataDir": "/data", "cniDir": "/other",
		"agent": {"socket": "/run/plexus/agent.sock"}, "parallel": true, "result": "default-network",
		"pluginTimeout": "100s"`))
	checkEqual(t, c.Manifests, "/etc/plexus/manifests")
	checkEqual(t, c.DataDir, "/data")
	checkEqual(t, c.Agent, conf.Agent{Socket: "/run/plexus/agent.sock"})
	checkEqual(t, c.Parallel, true)
	checkEqual(t, c.Result, conf.ResultDefaultNetwork)
	checkEqual(t, c.PluginTimeout.Value(), 100*time.Second)
}

func TestPluginTimeout(t *testing.T) {
	for _, good := range []string{"1s", "1h", "1m30s", "1500ms"} {
		if c := parse(t, settings(`"pluginTimeout": "`+good+`"`)); c.PluginTimeout.Value() == 0 {
			t.Errorf("%s: no time", good)
		}
	}
	for _, bad := range []string{`"0s"`, `"-1s"`, `"999ms"`, `"61m"`, `"9999999h"`, `"1"`, `"a while"`, `" 1s"`, `5`, `{}`} {
		_, err := conf.Parse([]byte(settings(`"pluginTimeout": ` + bad)))
		if err == nil || !strings.Contains(err.Error(), `"pluginTimeout"`) || !strings.Contains(err.Error(), "want a ") {
			t.Errorf("%s: %v, want the key and the allowed form", bad, err)
		}
	}
}

func TestParseFillsInDefaults(t *testing.T) {
	c := parse(t, `{"name": "node", "type": "plexus"}`)
	checkEqual(t, c.ConfDir, "/etc/cni/multus/net.d")
	checkEqual(t, c.DataDir, "/var/lib/plexus")
	checkEqual(t, c.MultusNamespace, "kube-system")
	checkEqual(t, c.Result, conf.ResultAuto)
	checkEqual(t, c.LogLevel, conf.LogError)
	checkEqual(t, c.HasClusterNetwork(), false)
	if c.LogToStderr != nil {
		t.Error("logToStderr was not given: want nil")
	}
}

func TestHasClusterNetwork(t *testing.T) {
	checkEqual(t, parse(t, settings("")).HasClusterNetwork(), true)
	checkEqual(t, parse(t, `{"name": "node", "type": "plexus", "clusterNetwork": "calico"}`).HasClusterNetwork(), true)
}

func TestParseAccepts(t *testing.T) {
	for _, test := range []struct{ name, text string }{
		{"type multus, so that a Multus configuration moves as it is", `{"name": "node", "type": "multus"}`},
		{"a known key in other case", settings(`"confdir": "/etc/cni/a", "NAMESPACEISOLATION": true`)},
		{"the CNI key cniVersions", settings(`"cniVersions": ["1.0.0", "1.1.0"]`)},
		{"the CNI key args", settings(`"args": {"cni": {"a": 1}, "anything": null}`)},
		{"the CNI key prevResult", settings(`"prevResult": {"cniVersion": "1.1.0"}`)},
		{"the CNI keys of GC", settings(`"cni.dev/valid-attachments": [], "cni.dev/attachments": []`)},
		{"the CNI key disableCheck", settings(`"disableCheck": true`)},
		{"any key below runtimeConfig", settings(`"runtimeConfig": {"ips": ["10.0.0.7/24"], "vendor": {"x": 1}}`)},
		{"any key below capabilities", settings(`"capabilities": {"vendor": true}`)},
		{"any key below a delegate, which is the delegate's matter", `{"name": "node", "type": "plexus", "delegates": [{"type": "x", "delegate": 1}]}`},
		{"the oldest CNI version", `{"name": "node", "type": "plexus", "cniVersion": "0.1.0"}`},
		{"no CNI version", `{"name": "node", "type": "plexus"}`},
		{"every log level", settings(`"logLevel": "panic"`)},
		{"a log level that Multus does not know", settings(`"logLevel": "info"`)},
		{"another one", settings(`"logLevel": "Warning"`)},
		{"the type of Multus thick", `{"name": "node", "type": "multus-shim"}`},
		{"a name with all that CNI allows", `{"name": "0aZ_.-", "type": "plexus"}`},
		{"a name of 200 bytes", fmt.Sprintf(`{"name": %q, "type": "plexus"}`, strings.Repeat("n", 200))},
		{"white space around", " \n\t" + settings("") + "\n\n"},
		{"null for what is not set", settings(`"agent": null, "logOptions": null, "logToStderr": null, "defaultNetworks": null, "runtimeConfig": null`)},
		{"a path that is empty", settings(`"logFile": "", "readinessindicatorfile": "", "binDir": ""`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := conf.Parse([]byte(test.text))
			checkError(t, err)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		name, text string
		says       []string
	}{
		// Keys.
		{"delegate, and names delegates", settings(`"delegate": []`), []string{`unknown key "delegate"`, `did you mean "delegates"`}},
		{"two neighbours swapped", settings(`"logFiel": "/x"`), []string{`"logFiel"`, `"logFile"`}},
		{"a key that is near in other case", settings(`"CLUSTERNETWORKS": "x"`), []string{`"CLUSTERNETWORKS"`, `"clusterNetwork"`}},
		{"a key of a section, with its path", settings(`"agent": {"sockets": "/x"}`), []string{`"agent.sockets"`, `"agent.socket"`}},
		{"a key of logOptions", settings(`"logOptions": {"maxage": 1, "maxSizes": 3}`), []string{`"logOptions.maxSizes"`, `"logOptions.maxSize"`}},
		{"a key that isolates", settings(`"namespaceIsolaton": true`), []string{`"namespaceIsolaton"`, `"namespaceIsolation"`}},
		{"several unknown keys, each named", settings(`"delegate": [], "confDirs": "/x"`), []string{`"delegate"`, `"confDirs"`}},

		// Types of values.
		{"a list for a string", settings(`"clusterNetwork": ["x"]`), []string{`"clusterNetwork"`, "want a string", "got array"}},
		{"a string for a list", settings(`"defaultNetworks": "x"`), []string{`"defaultNetworks"`, "want a list", "got string"}},
		{"a number in a list of strings", settings(`"systemNamespaces": [1]`), []string{`"systemNamespaces"`, "want a string", "got number"}},
		{"a string for a flag", settings(`"parallel": "yes"`), []string{`"parallel"`, "want true or false", "got string"}},
		{"a string for a section", settings(`"agent": "/run/x"`), []string{`"agent"`, "want an object", "got string"}},
		{"a string for a number, with its path", settings(`"logOptions": {"maxAge": "5"}`), []string{`"logOptions.maxAge"`, "want a number", "got string"}},
		{"a fraction for a number", settings(`"logOptions": {"maxAge": 1.5}`), []string{`"logOptions.maxAge"`, "want a number"}},
		{"a number out of range", settings(`"logOptions": {"maxAge": 99999999999999999999}`), []string{`"logOptions.maxAge"`}},
		{"a flag that is no flag in capabilities", settings(`"capabilities": {"ips": "true"}`), []string{"capabilities", "want true or false"}},
		{"a list for runtimeConfig", settings(`"runtimeConfig": []`), []string{`"runtimeConfig"`, "want an object"}},
		{"a delegate that is a string", `{"name": "node", "type": "plexus", "delegates": [{"type": "x"}, "bridge"]}`, []string{"delegates[1]", "want a network configuration"}},
		{"a delegate that is null", `{"name": "node", "type": "plexus", "delegates": [null]}`, []string{"delegates[0]"}},

		// Allowed values.
		{"an unknown log level", settings(`"logLevel": "loud"`), []string{`"logLevel"`, `"loud"`, "debug", "verbose", "info", "warning", "error", "panic"}},
		{"an unknown result mode", settings(`"result": "all"`), []string{`"result"`, `"all"`, "auto", "merged", "interfaces", "default-network"}},
		{"an unknown CNI version", `{"name": "node", "type": "plexus", "cniVersion": "9.9.9"}`, []string{`"cniVersion"`, "9.9.9", "1.1.0"}},
		{"another type", `{"name": "node", "type": "bridge"}`, []string{`"type"`, `"bridge"`, "plexus", "multus"}},
		{"no type", `{"name": "node"}`, []string{`"type"`, "plexus"}},
		{"a type in other case", `{"name": "node", "type": "Plexus"}`, []string{`"type"`, `"Plexus"`}},
		{"negative rotation", settings(`"logOptions": {"maxAge": -1}`), []string{`"logOptions.maxAge"`, "-1", "0 or more"}},

		// Names and paths.
		{"no name", `{"type": "plexus"}`, []string{`"name"`}},
		{"a name with a path", `{"name": "../etc", "type": "plexus"}`, []string{`"name"`, `"../etc"`}},
		{"a name that begins with a dot", `{"name": ".x", "type": "plexus"}`, []string{`"name"`}},
		{"a name with a blank", `{"name": "a b", "type": "plexus"}`, []string{`"name"`}},
		{"a name with a line break at its end", `{"name": "a\n", "type": "plexus"}`, []string{`"name"`}},
		{"a name with a zero byte", `{"name": "a\u0000", "type": "plexus"}`, []string{`"name"`}},
		{"a name of 201 bytes", fmt.Sprintf(`{"name": %q, "type": "plexus"}`, strings.Repeat("n", 201)), []string{`"name"`, "200"}},
		{"a relative folder", settings(`"confDir": "net.d"`), []string{`"confDir"`, `"net.d"`, "absolute"}},
		{"a relative socket", settings(`"agent": {"socket": "x.sock"}`), []string{`"agent.socket"`, "absolute"}},
		{"a relative file", settings(`"kubeconfig": "~/.kube/config"`), []string{`"kubeconfig"`, "absolute"}},
		{"a chain name with a path", settings(`"auxiliaryCNIChainName": "../x"`), []string{`"auxiliaryCNIChainName"`}},
		{"several faults, each named", settings(`"logLevel": "loud", "result": "all", "binDir": "bin"`), []string{`"logLevel"`, `"result"`, `"binDir"`}},

		// Documents.
		{"nothing", "", []string{"plexus configuration", "ends too early"}},
		{"half an object", `{"name": "node"`, []string{"ends too early"}},
		{"null", "null", []string{"want a JSON object"}},
		{"a list", "[]", []string{"want an object", "got array"}},
		{"a string", `"plexus"`, []string{"want an object", "got string"}},
		{"a syntax error, with its line", "{\n\"name\": \"node\",\n\"type\" \"plexus\"}", []string{"invalid JSON", "line 3"}},
		{"a second object", settings("") + settings(""), []string{"text after"}},
		{"text behind", settings("") + "x", []string{"text after"}},
		{"a giant", settings(`"clusterNetwork": "` + strings.Repeat("x", 1<<20) + `"`), []string{"at most"}},
		{"a deep nest", strings.Repeat(`{"a":`, 50000), []string{"plexus configuration"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := conf.Parse([]byte(test.text))
			checkError(t, err, append(test.says, "plexus configuration")...)
			if c != nil {
				t.Error("a configuration came with the error")
			}
		})
	}
}

// Multus ignores keys that it does not know. They are accepted, each with a warning.
func TestParseWarnsOfKeysWithoutEffect(t *testing.T) {
	for keys, warned := range map[string][]string{
		"": nil,
		`"cniConf": "/etc/cni/multus/net.d", "additionalBinDir": "/x"`: {"additionalBinDir", "cniConf"},
		`"chrootDir": "/hostroot", "socketDir": "/host/run/multus/", "daemonSocketDir": "/run/multus/socket", "cniConfigDir": "/host/etc/cni/net.d",
		 "multusConfigFile": "auto", "multusAutoconfigDir": "/host/etc/cni/net.d", "multusMasterCNI": "", "forceCNIVersion": false,
		 "overrideNetworkName": true, "metricsPort": 9091, "perNodeCertificate": {"enabled": true}`: {"chrootDir", "cniConfigDir", "daemonSocketDir", "forceCNIVersion",
			"metricsPort", "multusAutoconfigDir", "multusConfigFile", "multusMasterCNI", "overrideNetworkName", "perNodeCertificate", "socketDir"},
		`"always_use_default": true, "allowTryDeleteOnErr": true, "retryDeleteOnError": true`: {"allowTryDeleteOnErr", "always_use_default"},
		`"_comment": "by hand", "NOTE1": [1]`:                                                 {"NOTE1", "_comment"},
		`"": 1, "zzzzzzzzzzzz": {"a": 1}`:                                                     {"", "zzzzzzzzzzzz"},
		`"logOptions": {"maxage": 1, "maxFiles": 3}`:                                          {"logOptions.maxFiles"},
		`"agent": {"prevResult": {}}`:                                                         {"agent.prevResult"},
		`"cni.dev/valid-attachments": [], "prevResult": {}, "ipMasq": true`:                   nil,
	} {
		c := parse(t, settings(keys))
		for i, w := range c.Warnings {
			if len(c.Warnings) != len(warned) || !strings.Contains(w, fmt.Sprintf("%q", warned[i])) || !strings.Contains(w, "has no effect") {
				t.Errorf("%s: %q, want one about each of %q", keys, c.Warnings, warned)
				break
			}
		}
		if len(c.Warnings) < len(warned) {
			t.Errorf("%s: %q, want one about each of %q", keys, c.Warnings, warned)
		}
		_, warnings, err := conf.References(c, nil)
		if checkError(t, err); len(warnings) != len(warned) {
			t.Errorf("%s: a plan has the warnings %q", keys, warnings)
		}
	}
}

func TestParseAnswersEveryPathKeyInTheSameWay(t *testing.T) {
	for _, key := range []string{"confDir", "cniDir", "binDir", "dataDir", "manifests", "kubeletDir", "kubeconfig", "logFile", "readinessindicatorfile"} {
		t.Run(key, func(t *testing.T) {
			_, err := conf.Parse([]byte(settings(fmt.Sprintf(`%q: "a/b"`, key))))
			checkError(t, err, fmt.Sprintf("key %q", key), `"a/b"`, "absolute path")
		})
	}
}

func TestTheExampleConfigurationsParse(t *testing.T) {
	seen := 0
	for path, data := range examples(t) {
		if filepath.Ext(path) != ".conf" {
			continue
		}
		seen++
		t.Run(path, func(t *testing.T) {
			c, err := conf.Parse(data)
			checkError(t, err)
			checkEqual(t, c.HasClusterNetwork(), true)
		})
	}
	if seen == 0 {
		t.Error("no example configuration was found")
	}
}

func TestSystemNamespacesAreKubeSystemUnlessGiven(t *testing.T) { // as in Multus' pkg/types/conf.go
	checkEqual(t, parse(t, settings("")).SystemNamespaces, []string{"kube-system"})
	checkEqual(t, parse(t, settings(`"systemNamespaces": ["admin"]`)).SystemNamespaces, []string{"admin"})
}

func TestLogLevelInOtherCaseIsTheSameLevel(t *testing.T) { // as in Multus' pkg/logging
	checkEqual(t, parse(t, settings(`"logLevel": "DEBUG"`)).LogLevel, conf.LogDebug)
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

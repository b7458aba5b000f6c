package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// witness is a CNI plugin that keeps the environment and the standard input of
// each command in a file, "VERB-IFNAME", beside it.
const witness = `#!/bin/sh
config=$(cat)
{ env | grep '^CNI_' | grep -v '^CNI_COMMAND' | sort; echo "$config"; } > "$(dirname "$0")/$CNI_COMMAND-$CNI_IFNAME"
if [ "$CNI_COMMAND" = ADD ]; then echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.9.9/24"}]}'; fi
`

// installWitness puts the plugin into a folder of CNI_PATH, which it returns.
func (s *site) installWitness() string {
	s.t.Helper()
	dir := filepath.Join(s.dir, "witness")
	must(s.t, os.MkdirAll(dir, 0o755))
	must(s.t, os.WriteFile(filepath.Join(dir, "witness"), []byte(witness), 0o755))
	s.path += ":" + dir
	return dir
}

// seen is what the witness got with a command: its environment, and its
// configuration.
func seen(t testing.TB, dir, command string) (env []string, config map[string]any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(readFile(t, filepath.Join(dir, command))), "\n")
	decode(t, []byte(lines[len(lines)-1]), &config)
	return lines[:len(lines)-1], config
}

// CHECK and DEL repeat what ADD was given, to the byte: CNI_ARGS, capability
// arguments and the rest of the configuration, whatever has become of the
// annotation, the NAD, the runtime's configuration and its arguments.
func TestArgumentsRepeated(t *testing.T) {
	s := newSite(t, nil)
	dir := s.installWitness()
	capable := []string{"ips", "mac", "infinibandGUID", "portMappings", "bandwidth"}
	s = s.withConf(map[string]any{
		"capabilities":  map[string]bool{"portMappings": true, "dns": true},
		"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
		"delegates":     []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{plugin("witness", nil, "portMappings")}}},
	})
	s.chainNAD("asked", plugin("witness", map[string]any{"colour": "red", "args": map[string]any{"cni": map[string]any{"a": 1, "b": 2}}}, capable...))
	const everything = `[{"name": "asked", "ips": ["10.1.1.7/24", "fd00::7/64"], "mac": "02:00:00:00:00:07", "infiniband-guid": "02:00:00:00:00:00:00:07",
		"portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "udp", "hostIP": "127.0.0.1"}],
		"bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000},
		"cni-args": {"b": {"c": [1, null]}, "d": "x=y;z"}, "interface": "seen0"}]`
	s.pod("asking", everything)
	p := newPod(t, "asking")
	args := "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=asking;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=;IP=10.0.0.9;MAC=02:00:00:00:00:01"
	_, _, err := s.call(request{verb: "ADD", sandbox: sandboxID(760), netns: p.Path(), pod: "asking", env: []string{args}})
	must(t, err)
	// Everything else has changed before DEL.
	s.pod("asking", "")
	s.nad("asked", map[string]any{"cniVersion": "1.1.0", "name": "asked", "type": "nonesuch"})
	later := s.withConf(map[string]any{"capabilities": nil, "runtimeConfig": nil, "delegates": []any{map[string]any{"name": "x", "type": "nonesuch"}}})
	for _, verb := range []string{"CHECK", "DEL"} {
		_, _, err := later.call(request{verb: verb, sandbox: sandboxID(760), netns: p.Path(), pod: "asking", env: []string{"CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=asking;K8S_POD_UID=later"}})
		must(t, err)
	}
	for ifName, wantArgs := range map[string]string{
		"eth0":  args,
		"seen0": args[:strings.Index(args, ";IP=")], // IP and MAC are for the cluster network
	} {
		env, config := seen(t, dir, "ADD-"+ifName)
		if !slices.Contains(env, wantArgs) {
			t.Errorf("ADD %s: environment %q, want %s", ifName, env, wantArgs)
		}
		if _, early := config["prevResult"]; early {
			t.Errorf("ADD %s: there is a prevResult", ifName)
		}
		for _, verb := range []string{"CHECK", "DEL"} {
			again, repeated := seen(t, dir, verb+"-"+ifName)
			if !slices.Equal(env, again) {
				t.Errorf("%s %s: environment %q, that of ADD was %q", verb, ifName, again, env)
			}
			if repeated["prevResult"] == nil {
				t.Errorf("%s %s: no prevResult", verb, ifName)
			}
			delete(repeated, "prevResult")
			if got, want := string(jsonOf(t, repeated)), string(jsonOf(t, config)); got != want {
				t.Errorf("%s %s: configuration\n%s\nthat of ADD was\n%s", verb, ifName, got, want)
			}
		}
	}
	_, config := seen(t, dir, "ADD-seen0")
	if got, want := string(jsonOf(t, config["args"])), `{"cni":{"a":1,"b":{"c":[1,null]},"d":"x=y;z"}}`; got != want {
		t.Errorf("args %s, want %s", got, want)
	}
	runtime, _ := config["runtimeConfig"].(map[string]any)
	for _, name := range capable {
		if runtime[name] == nil {
			t.Errorf("runtimeConfig %v has no %s", runtime, name)
		}
	}
}

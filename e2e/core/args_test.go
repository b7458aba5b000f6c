package core

import (
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// CHECK and DEL repeat what ADD was given, to the byte: CNI_ARGS, capability
// arguments and the rest of the configuration, whatever has become of the
// annotation, the NAD, the runtime's configuration and its arguments. The MAC and the address
// that the pod asks for are in CNI_ARGS of ADD alone, as with Multus.
func TestArgumentsRepeated(t *testing.T) {
	s := site.New(t, nil)
	dir := s.InstallWitness()
	capable := []string{"ips", "mac", "infinibandGUID", "portMappings", "bandwidth"}
	s = s.With(map[string]any{
		"capabilities":  map[string]bool{"portMappings": true, "dns": true},
		"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
		"delegates":     []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{site.Plugin("witness", nil, "portMappings")}}},
	})
	s.ChainNAD("asked", site.Plugin("witness", map[string]any{"colour": "red", "args": map[string]any{"cni": map[string]any{"a": 1, "b": 2}}}, capable...))
	const everything = `[{"name": "asked", "ips": ["10.9.9.9/24"], "mac": "02:00:00:00:00:07", "infiniband-guid": "02:00:00:00:00:00:00:07",
		"portMappings": [{"hostPort": 9090, "containerPort": 90, "protocol": "udp", "hostIP": "127.0.0.1"}],
		"bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000},
		"cni-args": {"b": {"c": [1, null]}, "d": "x=y;z"}, "interface": "seen0"}]`
	s.Pod("asking", everything)
	p := site.NewPod(t, "asking")
	args := "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=asking;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=;IP=10.0.0.9;MAC=02:00:00:00:00:01"
	_, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: site.SandboxID(760), Netns: p.Path(), Pod: "asking", Env: []string{args}})
	must.Do(t, err)
	// Everything else has changed before DEL.
	s.Pod("asking", "")
	s.NAD("asked", map[string]any{"cniVersion": "1.1.0", "name": "asked", "type": "nonesuch"})
	later := s.With(map[string]any{"capabilities": nil, "runtimeConfig": nil, "delegates": []any{map[string]any{"name": "x", "type": "nonesuch"}}})
	for _, verb := range []string{"CHECK", "DEL"} {
		_, _, err := later.Call(site.Request{Verb: verb, Sandbox: site.SandboxID(760), Netns: p.Path(), Pod: "asking", Env: []string{"CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=asking;K8S_POD_UID=later"}})
		must.Do(t, err)
	}
	for ifName, wantArgs := range map[string]string{
		"eth0":  args,
		"seen0": args[:strings.Index(args, ";IP=")], // IP and MAC are for the cluster network
	} {
		env, config := site.Seen(t, dir, "ADD-"+ifName)
		args := slices.Index(env, wantArgs+map[string]string{"seen0": ";IP=10.9.9.9/24;MAC=02:00:00:00:00:07"}[ifName])
		if args < 0 {
			t.Fatalf("ADD %s: environment %q, want %s", ifName, env, wantArgs)
		}
		env[args] = wantArgs
		if _, early := config["prevResult"]; early {
			t.Errorf("ADD %s: there is a prevResult", ifName)
		}
		for _, verb := range []string{"CHECK", "DEL"} {
			again, repeated := site.Seen(t, dir, verb+"-"+ifName)
			if !slices.Equal(env, again) {
				t.Errorf("%s %s: environment %q, that of ADD was %q", verb, ifName, again, env)
			}
			if repeated["prevResult"] == nil {
				t.Errorf("%s %s: no prevResult", verb, ifName)
			}
			delete(repeated, "prevResult")
			if got, want := string(must.JSON(t, repeated)), string(must.JSON(t, config)); got != want {
				t.Errorf("%s %s: configuration\n%s\nthat of ADD was\n%s", verb, ifName, got, want)
			}
		}
	}
	_, config := site.Seen(t, dir, "ADD-seen0")
	if got, want := string(must.JSON(t, config["args"])), `{"cni":{"a":1,"b":{"c":[1,null]},"d":"x=y;z"}}`; got != want {
		t.Errorf("args %s, want %s", got, want)
	}
	runtime, _ := config["runtimeConfig"].(map[string]any)
	for _, name := range capable {
		if runtime[name] == nil {
			t.Errorf("runtimeConfig %v has no %s", runtime, name)
		}
	}
}

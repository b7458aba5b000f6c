package plugin

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/toy"
)

// A limit or a port mapping that no plugin of the list does is refused before anything is
// prepared, whether the annotation asks for it or a meta-plugin hands it on.
func TestWhatABuiltinWouldDrop(t *testing.T) {
	const declares = `"capabilities": {"bandwidth": true, "portMappings": true}`
	for name, c := range map[string]struct {
		args    map[string]any
		plugins []string
		says    string // "" for accepted
	}{
		"nothing asked":              {nil, []string{`{"type": "toy", ` + declares + `}`}, ""},
		"a limit":                    {map[string]any{"bandwidth": map[string]int{"ingressRate": 1000}}, []string{`{"type": "toy", ` + declares + `}`}, "runtimeConfig.bandwidth"},
		"the other limit":            {map[string]any{"bandwidth": map[string]int{"egressRate": 1000, "egressBurst": 5}}, []string{`{"type": "toy", ` + declares + `}`}, "runtimeConfig.bandwidth"},
		"no limit":                   {map[string]any{"bandwidth": map[string]int{"egressRate": 0}}, []string{`{"type": "toy", ` + declares + `}`}, ""},
		"a port":                     {map[string]any{"portMappings": []map[string]int{{"hostPort": 80}}}, []string{`{"type": "toy", ` + declares + `}`}, "runtimeConfig.portMappings"},
		"no port":                    {map[string]any{"portMappings": []any{}}, []string{`{"type": "toy", ` + declares + `}`}, ""},
		"an executable does it":      {map[string]any{"bandwidth": map[string]int{"ingressRate": 1000}}, []string{`{"type": "toy", ` + declares + `}`, `{"type": "bandwidth", ` + declares + `}`}, ""},
		"an executable alone has it": {map[string]any{"bandwidth": map[string]int{"ingressRate": 1000}}, []string{`{"type": "toy"}`, `{"type": "bandwidth", ` + declares + `}`}, ""},
		"handed on":                  {nil, []string{`{"type": "toy", "runtimeConfig": {"bandwidth": {"ingressRate": 8000}}}`}, "runtimeConfig.bandwidth"},
		"no number":                  {nil, []string{`{"type": "toy", "runtimeConfig": {"bandwidth": {"ingressRate": "x"}}}`}, "runtimeConfig"},
	} {
		list := conf.List{CNIVersion: "1.0.0", Name: "n"}
		for _, p := range c.plugins {
			list.Plugins = append(list.Plugins, json.RawMessage(p))
		}
		r := &Runner{DataDir: t.TempDir(), Stderr: io.Discard, Delegates: Table{"toy": toy.New(toy.NewWorld(t.TempDir()))}}
		chain, err := r.Chain(Request{Sandbox: "abc", Network: conf.Network{Name: "ns/n", IfName: "net1", List: list, CapabilityArgs: c.args}})
		if err != nil {
			t.Fatal(err)
		}
		err = chain.builtins[0].dropped
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), `network ns/n: toy: key "`+c.says+`"`)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

package delegates

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"
)

// parseResult reads the answer of a plugin of type typ that ended well. libcni knows
// what a result means that names no version.
func parseResult(ctx context.Context, typ string, config, output []byte) (types.Result, error) {
	if err := checkAnswer(output); err != nil {
		return nil, fmt.Errorf("plugin %q ended with exit status 0 and without a result: %w", typ, err)
	}
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	var result types.Result
	err := json.Unmarshal(output, &head)
	if err != nil || head.CNIVersion == "" {
		result, err = invoke.ExecPluginWithResult(ctx, "", config, &invoke.Args{}, &replay{output: output})
	} else {
		result, err = create.Create(head.CNIVersion, output)
	}
	if err != nil {
		return nil, fmt.Errorf("plugin %q wrote %.200q, which is no result: %w", typ, output, err)
	}
	return result, nil
}

// checkAnswer refuses what is no object, and an object that is an error (CNI
// specification 1.1.0, section 5): a code or a message, and nothing of a result of any
// version.
func checkAnswer(output []byte) error {
	if len(bytes.TrimSpace(output)) == 0 {
		return fmt.Errorf("it wrote nothing")
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(output, &keys); err != nil {
		return fmt.Errorf("it wrote %.200q: %w", output, err)
	}
	if keys == nil {
		return fmt.Errorf("it wrote %.200q, want an object", output)
	}
	has := func(names ...string) bool {
		for _, name := range names {
			switch string(bytes.Join(bytes.Fields(keys[name]), nil)) {
			case "", "null", "0", `""`, "[]", "{}":
			default:
				return true
			}
		}
		return false
	}
	if has("code", "msg") && !has("ips", "interfaces", "ip4", "ip6", "routes", "dns") {
		e := &types.Error{}
		if json.Unmarshal(output, e) == nil && e.Msg != "" {
			return failure(nil, output, nil) // with its code
		}
		return fmt.Errorf("it wrote the error %.200q", output)
	}
	return nil
}

// replay is an invoke.Exec that answers what a plugin has answered.
type replay struct {
	version.PluginDecoder
	output []byte
}

// FindInPath is invoke.Exec.
func (*replay) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }

// ExecPlugin is invoke.Exec.
func (r *replay) ExecPlugin(context.Context, string, []byte, []string) ([]byte, error) {
	return r.output, nil
}

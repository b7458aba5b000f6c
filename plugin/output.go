package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// checkOutput refuses output that is no JSON object, and an object that is an error (CNI
// specification 1.1.0, section 5): it has a code or a message, and no key of a result of any
// version.
func checkOutput(output []byte) error {
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

package delegates

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// plainResult is types100.Result as it encodes. That type encodes, decodes and encodes
// again, to leave an empty "dns" out.
type plainResult struct {
	CNIVersion string                `json:"cniVersion,omitempty"`
	DNS        *types.DNS            `json:"dns,omitempty"`
	Interfaces []*types100.Interface `json:"interfaces,omitempty"`
	IPs        []*types100.IPConfig  `json:"ips,omitempty"`
	Routes     []*types.Route        `json:"routes,omitempty"`
}

// Plain is what encodes as a result does, in less time.
func Plain(result types.Result) any {
	r, ok := result.(*types100.Result)
	if !ok || r == nil {
		return result
	}
	plain := &plainResult{CNIVersion: r.CNIVersion, Interfaces: r.Interfaces, IPs: r.IPs, Routes: r.Routes}
	if !r.DNS.IsEmpty() {
		plain.DNS = &r.DNS
	}
	return plain
}

func encodeResult(r types.Result) (json.RawMessage, error) { return json.Marshal(Plain(r)) }

// behind appends what a built-in has attached to the results before it, in the version
// of the list.
func behind(before types.Result, result *types100.Result, cniVersion string) (types.Result, error) {
	if before != nil {
		all, err := types100.NewResultFromResult(before)
		if err != nil {
			return nil, err
		}
		all = copyResult(all)
		appendResult(all, result)
		all.Routes = append(all.Routes, result.Routes...)
		result = all
	}
	return result.GetAsVersion(cniVersion)
}

package agent

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// podIPs is CRI-O's rule: every address of the answer is one of the pod's own, in order
// (cri-o/server/sandbox_network.go).
func podIPs(r *types100.Result) (all []string) {
	for _, ip := range r.IPs {
		all = append(all, ip.Address.IP.String())
	}
	return all
}

// hostPortIPs is CRI-O's rule for host ports: they go to the first address of each family.
func hostPortIPs(r *types100.Result) map[bool]string {
	first := map[bool]string{}
	for _, text := range podIPs(r) {
		v6 := netip.MustParseAddr(text).Is6()
		if first[v6] == "" {
			first[v6] = text
		}
	}
	return first
}

// The answer's addresses are the cluster network's alone when CRI-O asks, by way of the agent
// and without it; the rest of the answer is that of every runtime, and so is what is recorded.
func TestAnswerForRuntime(t *testing.T) {
	for name, served := range map[string]bool{"served by the agent": true, "without an agent": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			keys := map[string]any{"delegates": []any{site.ClusterBridge(dir)}}
			if served {
				keys["agent"] = map[string]any{"socket": filepath.Join(dir, "a.sock")}
			}
			s := site.New(t, keys)
			if served {
				s.Serve(filepath.Join(dir, "a.sock"))
			}
			s.NAD("six", map[string]any{"cniVersion": "1.0.0", "name": "six", "type": "bridge", "bridge": "br-six", "ipam": map[string]any{
				"type": "static", "addresses": []any{map[string]any{"address": "fd66::7/64"}, map[string]any{"address": "10.66.0.7/24"}},
			}})
			s.Pod("web", "six")
			p := site.NewPod(t, "web")
			for i, c := range []struct {
				runtime  string
				mode     conf.ResultMode
				own, six int // addresses
			}{
				{"crio", "", 1, 0}, {"containerd", "", 1, 2}, {"crio", conf.ResultAuto, 1, 0}, {"crio", conf.ResultMerged, 1, 2}, {"containerd", conf.ResultInterfaces, 1, 0}, {"crio-wrapper", "", 1, 2},
			} {
				s := s.With(map[string]any{})
				if c.mode != "" {
					s = s.With(map[string]any{"result": c.mode})
				}
				request := site.Request{Verb: "ADD", Sandbox: site.SandboxID(700 + i), Netns: p.Path(), Pod: "web", Runtime: c.runtime}
				out, _, err := s.Call(request)
				if err != nil {
					t.Fatal(err)
				}
				r := &types100.Result{}
				must.Do(t, json.Unmarshal(out, r))
				own := podIPs(r)
				if len(own) != c.own+c.six || !netip.MustParsePrefix("10.244.0.0/16").Contains(netip.MustParseAddr(own[0])) {
					t.Errorf("%s, result %q: pod IPs %v", c.runtime, c.mode, own)
				}
				if ports := hostPortIPs(r); c.six == 0 && (len(ports) != 1 || ports[false] != own[0]) {
					t.Errorf("%s, result %q: host ports go to %v", c.runtime, c.mode, ports)
				}
				if last := r.Interfaces[len(r.Interfaces)-1]; last.Name != "net1" || last.Sandbox == "" {
					t.Errorf("%s, result %q: the last interface is %+v", c.runtime, c.mode, last)
				}
				if status := statusOf(s, "web"); len(status) != 2 || len(status[1].IPs) != 2 {
					t.Errorf("%s, result %q: network-status %+v", c.runtime, c.mode, status)
				}
				rec, err := journal.Open(s.DataDir).Read(request.Sandbox)
				must.Do(t, err)
				if recorded, err := rec.Transactions[0].Attachments[1].ParseResult(); err != nil || len(recorded.IPs) != 2 {
					t.Errorf("%s, result %q: recorded %v, %v", c.runtime, c.mode, recorded, err)
				}
				for _, request.Verb = range []string{"CHECK", "DEL"} {
					if _, _, err := s.Call(request); err != nil {
						t.Errorf("%s, result %q: %v", c.runtime, c.mode, err)
					}
				}
			}
		})
	}
}

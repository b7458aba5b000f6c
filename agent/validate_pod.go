package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// requests holds what an annotation of a pod asks for against the networks of the files. A
// network is missing only where others of its namespace are there.
func (v *validator) requests(pod *conf.Pod, key string) {
	asked := &conf.Pod{Namespace: pod.Namespace, Name: pod.Name, Annotations: map[string]string{key: pod.Annotations[key]}}
	c, err := conf.Parse([]byte(`{"name": "validate", "type": "plexus", "delegates": [{"name": "cluster", "type": "bridge"}]}`))
	var references []conf.Reference
	if err == nil {
		references, _, err = conf.References(c, asked)
	}
	if err != nil {
		v.problem(err)
		return
	}
	object := fmt.Sprintf("Pod %s: annotation %s", pod, key)
	for _, r := range references {
		name := r.Namespace + "/" + r.Name
		at := slices.IndexFunc(v.networks, func(d *conf.Definition) bool { return d.Name == name })
		switch {
		case at >= 0 && len(v.networks[at].Config) > 0:
			d := *v.networks[at]
			plan, err := conf.Resolve(c, []conf.Reference{r}, []*conf.Definition{&d}, "eth0", nil)
			if err != nil {
				v.problem(fmt.Errorf("%s: %w", object, err))
				continue
			}
			for _, n := range plan.Networks {
				if n.Name == name {
					v.problem(givable(pod, object, &n, d.ResourceName != ""))
				}
			}
		case at < 0 && slices.ContainsFunc(v.networks, func(d *conf.Definition) bool { return strings.HasPrefix(d.Name, r.Namespace+"/") }):
			v.problem(fmt.Errorf("%s: NetworkAttachmentDefinition %s is in none of the files, which have others of its namespace: correct the name, or name its file as well", object, name))
		}
	}
}

// givable refuses a MAC, addresses and a socket that no plugin of the network can give the pod.
// device: the network is of a resource, whose device plugin may mount the socket's folder.
func givable(pod *conf.Pod, object string, n *conf.Network, device bool) error {
	var ipam, macs, sockets bool
	declared := map[string]bool{}
	for _, raw := range n.List.Plugins {
		var p struct {
			Type         string                  `json:"type"`
			IPAM         struct{ Type string }   `json:"ipam"`
			Socket       struct{ Abstract bool } `json:"socket"`
			Capabilities map[string]bool         `json:"capabilities"`
		}
		_ = json.Unmarshal(raw, &p) // the check of the network says what is wrong with it
		for name, on := range p.Capabilities {
			declared[name] = declared[name] || on
		}
		ipam = ipam || p.IPAM.Type != "" || !slices.Contains([]string{"bridge", "macvlan", "ipvlan", "host-device", "vlan", "tuning", "sbr", "vrf", "portmap", "bandwidth"}, p.Type)
		macs = macs || !slices.Contains([]string{"ipvlan", "ptp", "vlan", "portmap", "bandwidth", "sbr", "vrf"}, p.Type)
		sockets = sockets || p.Type == "ovsdpdk" || p.Type == "vppmemif" && !p.Socket.Abstract
	}
	reachable := len(pod.Containers) == 0 || slices.ContainsFunc(pod.Volumes, func(v conf.Volume) bool { return v.Name == conf.SharedDir || v.HostPath != "" })
	switch {
	case len(n.IPs) > 0 && !ipam && !declared["ips"]:
		return fmt.Errorf("%s: network %s: key %q: no plugin of the network gives addresses: add \"ipam\": {\"type\": \"static\"} to it", object, n.Name, "ips")
	case n.MAC != "" && !macs && !declared["mac"]:
		return fmt.Errorf("%s: network %s: key %q: no plugin of the network sets a MAC: add {\"type\": \"tuning\", \"capabilities\": {\"mac\": true}} to its plugins", object, n.Name, "mac")
	case sockets && !reachable && !device:
		return fmt.Errorf("%s: network %s: key %q: the pod has no volume %s, in which a container finds the socket: add \"volumes: [{name: shared-dir, emptyDir: {}}]\", and to a container \"volumeMounts: [{name: shared-dir, mountPath: /run/vhost}]\"", object, n.Name, "spec.volumes", conf.SharedDir)
	}
	return nil
}

package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/kube"
)

// machineNetworks are those of virtual machines: none declares a capability. The one of
// namespace ovn takes the place of the cluster network.
const machineNetworks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: vlan-10
  annotations: {k8s.v1.cni.cncf.io/resourceName: ""}
spec:
  config: |
    {"cniVersion": "0.3.1", "name": "vlan-10", "type": "bridge", "bridge": "br-vm", "macspoofchk": false, "ipam": {}}
---
apiVersion: v1
kind: Namespace
metadata: {name: ovn}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: default, namespace: ovn}
spec:
  config: |
    {"cniVersion": "1.0.0", "name": "ovn-primary", "type": "bridge", "bridge": "br-ovn", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.58.0.0/16"}}
`

// launcher is a pod as KubeVirt makes one for a virtual machine, with OVN-Kubernetes as the
// cluster's network.
const launcher = `
apiVersion: v1
kind: Pod
metadata:
  name: virt-launcher-a
  labels: {app: virt-launcher, kubevirt.io: virt-launcher}
  annotations:
    kubevirt.io/domain: vm-a
    v1.multus-cni.io/default-network: '[{"name":"default","namespace":"ovn","mac":"0a:58:0a:3a:00:07","ips":["10.58.0.7/16"],"ipam-claim-reference":"vm-a.primary"}]'
    k8s.v1.cni.cncf.io/networks: '[{"name":"vlan-10","namespace":"default","mac":"02:00:00:00:00:a2","interface":"pod8d3dc2b0f1c"},{"name":"vlan-10","namespace":"default","mac":"02:00:00:00:00:a3","interface":"pod27d3cd1fa5b"}]'
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: compute
    image: %s
    command: [sleep, infinity]
`

// A virtual machine's pod has the interfaces, the MACs and the address that its annotations
// ask for, though no plugin declares that it takes them.
func TestVirtualMachine(t *testing.T) {
	n := theNode
	n.apply(t, machineNetworks)
	n.apply(t, fmt.Sprintf(launcher, kube.BusyboxImage))
	n.must(t, "wait", "--for=condition=Ready", "pod/virt-launcher-a", "--timeout=90s")
	for name, want := range map[string][]string{
		"eth0":           {"ether 0a:58:0a:3a:00:07", "inet 10.58.0.7/16"},
		"pod8d3dc2b0f1c": {"ether 02:00:00:00:00:a2"},
		"pod27d3cd1fa5b": {"ether 02:00:00:00:00:a3"},
	} {
		out := n.must(t, "exec", "virt-launcher-a", "--", "ip", "address", "show", "dev", name)
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("%s has no %q: %s", name, text, out)
			}
		}
	}
	if ip := n.must(t, "get", "pod", "virt-launcher-a", "-o", "jsonpath={.status.podIPs[*].ip}"); ip != "10.58.0.7" {
		t.Errorf("pod IPs %q", ip)
	}
	n.must(t, "delete", "pod", "virt-launcher-a")
	n.nothingLeft(t)
}

package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const draDriver = "ports.plexus.test"

// draPlugin is the kubelet's side of a DRA driver (k8s.io/kubelet/pkg/apis/dra/v1):
// it has nothing to prepare. It tells of its registration, and of the claims.
type draPlugin struct {
	dra.UnimplementedDRAPluginServer
	registration.UnimplementedRegistrationServer
	registered chan *registration.RegistrationStatus
	prepared   chan string // claims, as namespace/name
	ended      chan string
}

func (p *draPlugin) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.DRAPlugin, Name: draDriver, Endpoint: draSocket, SupportedVersions: []string{dra.DRAPluginService}}, nil
}

func (p *draPlugin) NotifyRegistrationStatus(ctx context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	tell(ctx, p.registered, s)
	return &registration.RegistrationStatusResponse{}, nil
}

func (p *draPlugin) NodePrepareResources(ctx context.Context, r *dra.NodePrepareResourcesRequest) (*dra.NodePrepareResourcesResponse, error) {
	answer := &dra.NodePrepareResourcesResponse{Claims: map[string]*dra.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		answer.Claims[c.Uid] = &dra.NodePrepareResourceResponse{}
		tell(ctx, p.prepared, c.Namespace+"/"+c.Name)
	}
	return answer, nil
}

func (p *draPlugin) NodeUnprepareResources(ctx context.Context, r *dra.NodeUnprepareResourcesRequest) (*dra.NodeUnprepareResourcesResponse, error) {
	answer := &dra.NodeUnprepareResourcesResponse{Claims: map[string]*dra.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		answer.Claims[c.Uid] = &dra.NodeUnprepareResourceResponse{}
		tell(ctx, p.ended, c.Namespace+"/"+c.Name)
	}
	return answer, nil
}

func tell[T any](ctx context.Context, to chan T, what T) {
	select {
	case to <- what:
	case <-ctx.Done():
	}
}

func hear[T any](t testing.TB, what string, from chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case heard := <-from:
		return heard
	case <-ctx.Done():
		t.Fatalf("%s: not within %s", what, patience)
		panic("not reached")
	}
}

const draSocket = "/var/lib/kubelet/plugins/" + draDriver + "/dra.sock"

// startDRA registers a DRA driver with the kubelet.
func startDRA(t testing.TB) *draPlugin {
	t.Helper()
	p := &draPlugin{registered: make(chan *registration.RegistrationStatus, 8), prepared: make(chan string, 8), ended: make(chan string, 8)}
	serveAt(t, draSocket, func(s *grpc.Server) { dra.RegisterDRAPluginServer(s, p) })
	serveAt(t, "/var/lib/kubelet/plugins_registry/"+draDriver+"-reg.sock", func(s *grpc.Server) { registration.RegisterRegistrationServer(s, p) })
	if s := hear(t, "the kubelet registers the driver", p.registered); !s.PluginRegistered {
		t.Fatalf("the kubelet does not register the driver: %s", s.Error)
	}
	return p
}

// ports are the driver's devices: one of the node that is a network's, one that is
// none, one of a pool of all nodes; and what a pod asks for them with.
const ports = `
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: ports.plexus.test}
spec: {selectors: [{cel: {expression: 'device.driver == "ports.plexus.test"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: plexus-test-node}
spec:
  driver: ports.plexus.test
  nodeName: plexus-node
  pool: {name: plexus-node, generation: 1, resourceSliceCount: 1}
  devices:
  - name: p0
    attributes: {kind: {string: port}, k8s.cni.cncf.io/resourceName: {string: plexus.test/claimed}, k8s.cni.cncf.io/deviceID: {string: "0000:99:00.1"}}
  - name: plain
    attributes: {kind: {string: plain}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: plexus-test-all}
spec:
  driver: ports.plexus.test
  allNodes: true
  pool: {name: fabric, generation: 1, resourceSliceCount: 1}
  devices:
  - name: s0
    attributes: {kind: {string: shared}, k8s.cni.cncf.io/resourceName: {string: plexus.test/claimed}, k8s.cni.cncf.io/deviceID: {string: fabric-7}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: ports}
spec:
  spec:
    devices:
      requests:
      - {name: port, exactly: {deviceClassName: ports.plexus.test, selectors: [{cel: {expression: 'device.attributes["ports.plexus.test"].kind == "port"'}}]}}
      - {name: plain, exactly: {deviceClassName: ports.plexus.test, selectors: [{cel: {expression: 'device.attributes["ports.plexus.test"].kind == "plain"'}}]}}
      - {name: shared, exactly: {deviceClassName: ports.plexus.test, selectors: [{cel: {expression: 'device.attributes["ports.plexus.test"].kind == "shared"'}}]}}
`

// Devices of a pod's resource claim reach its networks, in the order of the claim's
// requests, also those that it asks for when it runs. The agent reads the claim once, when the
// pod comes to the node; ADD lists the driver's slices for the device that is of no single node.
func TestResourceClaim(t *testing.T) {
	n := theNode
	installRecorder(t)
	plugin := startDRA(t)
	n.apply(t, ports)
	n.apply(t, recordedNetwork("claimed", "plexus.test/claimed"))
	before := n.auditSize(t)
	n.apply(t, podOf("claimer", "claimed", "  resourceClaims: [{name: ports, resourceClaimTemplateName: ports}]", `{claims: [{name: ports}]}`))
	claim := hear(t, "the kubelet has the claim prepared", plugin.prepared)
	n.must(t, "wait", "--for=condition=Ready", "pod/claimer", "--timeout=90s")
	if got, want := givenTo(t, "claimer", "ADD", "net1"), []string{"0000:99:00.1"}; !slices.Equal(got, want) {
		t.Errorf("the network was given %v, want %v", got, want)
	}
	var made []string
	await(t, "what it got is told", func() error {
		made = n.requests(t, before)
		if !slices.Contains(made, "create events") || !slices.Contains(made, "patch pods/status") {
			return fmt.Errorf("requests %v", made)
		}
		return nil
	})
	made = slices.DeleteFunc(made, func(r string) bool { return strings.HasSuffix(r, "network-attachment-definitions") }) // one that has just been made is asked for
	slices.Sort(made[min(3, len(made)):])                                                                                 // they are sent together
	made = slices.Compact(made)                                                                                           // an event for each interface, and slices of this node and of all
	if got, want := strings.Join(made, ", "), "get resourceclaims, list resourceslices, create events, patch pods/status"; got != want {
		t.Errorf("ADD made the requests %s\nwant %s", got, want)
	}
	before = n.auditSize(t)
	n.annotate(t, "claimer", "claimed,claimed")
	await(t, "the second network is there", func() error {
		out := n.must(t, "get", "pod", "claimer", "-o", `jsonpath={.metadata.annotations['k8s\.v1\.cni\.cncf\.io/network-status']}`)
		if !strings.Contains(out, `"net2"`) {
			return fmt.Errorf("network-status %s\nagent: %s", out, n.agent.Tail())
		}
		return nil
	})
	if got, want := givenTo(t, "claimer", "ADD", "net2"), []string{"fabric-7"}; !slices.Equal(got, want) {
		t.Errorf("the second network was given %v, want %v", got, want)
	}
	if made := n.requests(t, before); slices.Contains(made, "get pods") {
		t.Errorf("the pod was asked for: %v", made)
	}
	n.must(t, "delete", "pod", "claimer")
	if ended := hear(t, "the kubelet has the claim's preparation ended", plugin.ended); ended != claim {
		t.Errorf("claim %s was prepared, %s ended", claim, ended)
	}
	n.nothingLeft(t)
	if got, want := givenTo(t, "claimer", "DEL", "net1", "net2"), []string{"0000:99:00.1", "fabric-7"}; !slices.Equal(got, want) {
		t.Errorf("DEL was given the devices %v, want %v", got, want)
	}
	n.must(t, "delete", "resourceclaimtemplate/ports", "resourceslice/plexus-test-node", "resourceslice/plexus-test-all", "deviceclass/ports.plexus.test")
}

// A network's device that the pod's claim does not have is missed by name; a slice
// that has gone is said with claim, request and device.
func TestResourceClaimMissed(t *testing.T) {
	n := theNode
	installRecorder(t)
	startDRA(t)
	n.apply(t, ports)
	n.apply(t, recordedNetwork("claimed", "plexus.test/claimed"))
	n.apply(t, recordedNetwork("port", "plexus.test/port"))
	n.apply(t, podOf("misser", "claimed,port", "  resourceClaims: [{name: ports, resourceClaimTemplateName: ports}]", `{claims: [{name: ports}]}`))
	failure := func(want string) {
		t.Helper()
		await(t, "an event tells", func() error {
			out := n.must(t, "get", "events", "--field-selector", "reason=NetworksFailed,involvedObject.name=misser", "-o", "jsonpath={.items[*].message}")
			if !strings.Contains(out, want) {
				return fmt.Errorf("events: %q", out)
			}
			return nil
		})
	}
	failure("default/port: the pod has no device of resource plexus.test/port")
	n.must(t, "delete", "resourceslice/plexus-test-all")
	failure("request shared: device ports.plexus.test/fabric/s0: no ResourceSlice has its pool")
	n.must(t, "delete", "pod", "misser")
	n.nothingLeft(t)
	n.must(t, "delete", "resourceclaimtemplate/ports", "resourceslice/plexus-test-node", "deviceclass/ports.plexus.test")
}

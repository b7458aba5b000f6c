package engine

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// A further backend is one folder (rig/toy) and one line in the table of newNode. Every verb,
// and all that the agent does, works with it.
func TestAFurtherBackend(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.request("static,bare")
	if err := n.Status(t.Context(), r); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	pod, plan, err := n.Plan(t.Context(), r)
	if err != nil || pod.Name != "pod" || len(plan.Networks) != 3 || len(n.left()) > 0 {
		t.Errorf("Plan: %v, %+v, %v, changed %q", pod, plan, err, n.left())
	}
	result, err := n.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Interfaces) != 3 || result.Interfaces[1].SocketPath == "" || len(result.IPs) != 2 {
		t.Errorf("ADD answers %s", result)
	}
	if err := n.Check(t.Context(), r); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	status := n.api.published()[placeOf(pod)]
	if !strings.Contains(status[conf.NetworkStatusAnnotation], `"10.8.0.7"`) || status["toy/ports"] != `["net1 10.8.0.7/24"]` {
		t.Errorf("published: %q", status)
	}
	rec, err := n.Journal.Read(r.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if got := Endpoints(n.Delegates, rec)["toy"]; !slices.Equal(got, []string{switchA}) {
		t.Errorf("endpoints %q", got)
	}
	for _, d := range n.Inspect(t.Context(), rec)[1:] {
		if d.Facts["toy"]["owner"] != n.dir || d.Differences != "" {
			t.Errorf("Inspect: %+v", d)
		}
	}
	n.world.Lose("net1")
	says(t, n.Check(t.Context(), r), "check net1 (network default/static)", "is not at "+switchA)
	says(t, n.CheckAll(t.Context(), rec, nil), "is not at "+switchA)
	if d := n.Inspect(t.Context(), rec)[1]; !strings.Contains(d.Differences, "is not at") || d.Facts["toy"] != nil {
		t.Errorf("Inspect of what is lost: %+v", d)
	}
	found, err := n.Reconcile(t.Context(), r.Sandbox, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindMissing || found[0].IfName != "net1" || found[0].Pod == nil {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	if err := n.Check(t.Context(), r); err != nil {
		t.Errorf("CHECK after Reconcile: %v", err)
	}
	n.api.ask("bare,other@net3")
	if change, err := n.Update(t.Context(), r.Sandbox, n.api.asked()); err != nil || change.String() != "detached net1 (default/static); attached net3 (default/other)" {
		t.Errorf("Update: %v, %v", change, err)
	}
	if err := n.GC(t.Context(), r, []types.GCAttachment{{ContainerID: r.Sandbox, IfName: "eth0"}}); err != nil {
		t.Errorf("GC: %v", err)
	}
	if err := n.Check(t.Context(), r); err != nil {
		t.Errorf("CHECK after GC: %v", err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Errorf("DEL: %v", err)
	}
	n.wantNothingLeft("after DEL")
	if err := n.Del(t.Context(), r); err != nil {
		t.Errorf("DEL again: %v", err)
	}
	n.Close()
	says(t, n.Check(t.Context(), r), "not attached")
}

// An endpoint that is away: ADD fails with "try again" and leaves nothing, STATUS says it of
// the node's own network, DEL fails and works when the endpoint is back. Watch tells when.
func TestAnEndpointThatIsAway(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.world.SetAway(switchA, true)
	_, err := n.Add(t.Context(), n.request("bare"))
	var coded *delegates.Error
	says(t, err, "toy at /run/toy/a is unreachable", "prepare net1 (network default/bare)")
	if errors.As(err, &coded) {
		t.Errorf("the engine gave code %d, the caller does", coded.Code)
	}
	if !delegates.IsTemporary(err) {
		t.Errorf("%v: it is not temporary", err)
	}
	n.wantNothingLeft("after ADD")
	n.world.SetAway(switchA, false)
	r := n.mustAdd("bare")
	n.world.SetAway(switchA, true)
	says(t, n.Del(t.Context(), r), "unreachable")
	rec, err := n.Journal.Read(r.Sandbox)
	if err != nil || len(rec.Transactions[0].Attachments) != 1 {
		t.Fatalf("recorded: %+v, %v", rec, err)
	}
	if d := n.Inspect(t.Context(), rec)[0]; strings.Count(d.Differences, "unreachable") != 1 {
		t.Errorf("Inspect: %+v", d)
	}
	back := make(chan error, 1)
	go func() { _ = n.toys.Watch(t.Context(), switchA, func(err error) { back <- err }) }()
	n.world.SetAway(switchA, false)
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")

	standalone := &Request{Network: "own", Stdin: []byte(`{"cniVersion": "1.1.0", "name": "own", "type": "toy", "endpoint": "/run/toy/a"}`)}
	if err := n.Status(t.Context(), standalone); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	n.world.SetAway(switchA, true)
	err = n.Status(t.Context(), standalone)
	says(t, err, "network own is not ready", "unreachable")
	if !errors.As(err, &coded) || coded.Code != delegates.CodeNotReady {
		t.Errorf("STATUS: %v, want code %d", err, delegates.CodeNotReady)
	}
}

// A backend that is executed under its own name, below another meta-plugin: one transaction
// for each interface.
func TestABackendUnderItsOwnName(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	of := func(ifName string) *Request {
		return &Request{
			Network: "own", Stdin: []byte(`{"cniVersion": "1.1.0", "name": "own", "type": "toy", "endpoint": "/run/toy/a"}`),
			Sandbox: "abc", Netns: "/proc/self/ns/net", IfName: ifName, Path: []string{n.dir + "/bin"},
		}
	}
	for _, ifName := range []string{"net1", "net2"} {
		if _, err := n.Add(t.Context(), of(ifName)); err != nil {
			t.Fatal(err)
		}
		if err := n.Check(t.Context(), of(ifName)); err != nil {
			t.Error(err)
		}
	}
	if err := n.Del(t.Context(), of("net1")); err != nil {
		t.Error(err)
	}
	if got := n.world.Ports(); !slices.Equal(got, []string{switchA + " abc-net2"}) {
		t.Errorf("ports %q", got)
	}
	if err := n.Del(t.Context(), of("net7")); err != nil {
		t.Errorf("DEL of what never was: %v", err)
	}
	if err := n.GC(t.Context(), of(""), []types.GCAttachment{{ContainerID: "abc", IfName: "net2"}}); err != nil || len(n.world.Ports()) != 1 {
		t.Errorf("GC: %v, %q", err, n.world.Ports())
	}
	if _, err := n.Reclaim(t.Context(), "abc"); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after Reclaim")
	foreign := of("net1")
	foreign.Stdin = []byte(`{"cniVersion": "1.1.0", "name": "own", "type": "toy", "endpoint": "/run/elsewhere"}`)
	_, err := n.Add(t.Context(), foreign)
	says(t, err, "no endpoint that this node allows")
}

// A configuration that was accepted and is refused by now: CHECK says why, Reconcile too, DEL
// works by the state, and the port is gone.
func TestAConfigurationThatIsRefusedByNow(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	r := n.mustAdd("old")
	n.start()
	n.toys.RefuseKey = "old"
	says(t, n.Check(t.Context(), r), `key "old"`)
	found, err := n.Reconcile(t.Context(), r.Sandbox, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindFailed || !strings.Contains(found[0].What, `key "old"`) {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	rec, err := n.Journal.Read(r.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if got := Endpoints(n.Delegates, rec); len(got) > 0 {
		t.Errorf("endpoints %v", got)
	}
	if d := n.Inspect(t.Context(), rec)[1]; !strings.Contains(d.Differences, `key "old"`) {
		t.Errorf("Inspect: %+v", d)
	}
	_, err = n.Add(t.Context(), &Request{Conf: r.Conf, Network: r.Network, Sandbox: "another", Netns: r.Netns, IfName: "eth0", Args: r.Args})
	says(t, err, `key "old"`, "prepare net1")
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

// The same request again gets the same answer and changes nothing; another one is refused.
func TestAddAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	r := n.request("static")
	r.ID = "1"
	first, err := n.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	before := n.log()
	again, err := n.Add(t.Context(), r)
	one, _ := json.Marshal(first)
	two, _ := json.Marshal(again)
	if err != nil || string(one) != string(two) {
		t.Errorf("again: %s, %v, first: %s", two, err, one)
	}
	other := *r
	other.ID = "2"
	_, err = n.Add(t.Context(), &other)
	says(t, err, "DEL it first")
	if got := n.log(); !slices.Equal(got, before) {
		t.Errorf("executed %q", got)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// What ADD answers by "result": "default-network".
func TestTheDefaultNetworksResult(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configure(`"result": "default-network", `)
	r := n.request("static")
	r.ID = "1"
	for range 2 { // it is recorded the second time
		result, err := n.Add(t.Context(), r)
		if err != nil || len(result.Interfaces) != 1 || result.Interfaces[0].Name != "eth0" {
			t.Errorf("ADD answers %v, %v", result, err)
		}
	}
}

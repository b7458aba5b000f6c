package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// What is refused before anything is changed.
func TestAddThatIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for networks, want := range map[string]string{
		"foreign":     "no endpoint that this node allows",
		"missing":     `plugin "nowhere" is neither built in nor in`,
		"ipamless":    `plugin "first": ipam nowhere: it is not in ` + n.dir + `/bin: install it there or correct "ipam.type"`,
		"second":      `plugin "last": ipam host-local: it is not in`,
		"lacking":     "toy: ipam nowhere: it is not in",
		"nothing":     "not found",
		"bare,bare@":  "annotation",
		"bare@eth0":   "eth0",
		"static@a/b":  "interface",
		"bare,absent": "absent: not found",
	} {
		_, err := n.Add(t.Context(), n.request(networks))
		says(t, err, want)
	}
	for _, c := range []struct {
		change func(*Request)
		want   string
	}{
		{func(r *Request) { r.Sandbox = "../x" }, "CNI_CONTAINERID"},
		{func(r *Request) { r.IfName = "a/b" }, "CNI_IFNAME"},
		{func(r *Request) { r.Netns = "/proc/self/exe" }, "CNI_NETNS"},
		{func(r *Request) { r.Args = append(r.Args[:2:2], [2]string{"K8S_POD_NAME", "../x"}) }, "CNI_ARGS"},
	} {
		r := n.request("bare")
		c.change(r)
		_, err := n.Add(t.Context(), r)
		says(t, err, c.want)
	}
	r := n.request("bare")
	r.Sandbox = "../x"
	if err := n.Del(t.Context(), r); err != nil {
		t.Errorf("DEL of what ADD refuses: %v", err)
	}
	says(t, n.Check(t.Context(), r), "CNI_CONTAINERID")
	_, err := n.Reclaim(t.Context(), r.Sandbox)
	says(t, err, "container")
	n.api.failures["Pod"] = errors.New("the API server is away")
	_, err = n.Add(t.Context(), n.request("bare"))
	says(t, err, "the API server is away")
	n.api.failures["Pod"] = nil
	n.api.failures["Publish"] = errors.New("the API server is full")
	_, err = n.Add(t.Context(), n.request("bare"))
	says(t, err, "publish what pod default/pod got: the API server is full")
	n.wantNothingLeft("in the end")
	if got := n.log(); !slices.Equal(got, []string{"ADD cluster eth0", "DEL cluster eth0"}) {
		t.Errorf("executed: %q", got)
	}
}

// A built-in that stands twice in a list is refused: its state would be written twice.
func TestABuiltinTwiceInAList(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.api.networks["twice"] = `{"cniVersion": "1.1.0", "name": "twice", "plugins": [{"type": "toy"}, {"type": "toy"}]}`
	_, err := n.Add(t.Context(), n.request("twice"))
	says(t, err, `plugin "toy" stands twice in its list`)
	n.wantNothingLeft("after ADD")
}

// A list of an old version: its built-in is checked though libcni knows no CHECK for it, and
// what only CNI 1.1 can say is in the answer.
func TestAListOfAnOldVersion(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.api.networks["ancient"] = `{"cniVersion": "0.3.1", "name": "ancient", "plugins": [{"type": "toy", "endpoint": "/run/toy/a", "ipam": {"type": "addresses"}}]}`
	r := n.request("ancient")
	result, err := n.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if at := slices.IndexFunc(result.Interfaces, func(i *types100.Interface) bool { return i.SocketPath != "" }); at < 0 {
		t.Errorf("no socket in %v", result)
	}
	if err := n.Check(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.world.Lose("net1")
	says(t, n.Check(t.Context(), r), "is not at")
	n.api.networks["unchecked"] = `{"cniVersion": "1.1.0", "name": "unchecked", "disableCheck": true, "plugins": [{"type": "toy"}]}`
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	r = n.mustAdd("unchecked")
	n.world.Lose("net1")
	if err := n.Check(t.Context(), r); err != nil {
		t.Errorf("CHECK of a list with disableCheck: %v", err)
	}
}

// Two interfaces of one name and MAC, in a list of a version that has neither their MTU nor
// their socket: each gets its own back.
func TestTwinsInAListOfAnOldVersion(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.Delegates["twins"] = twins{}
	n.api.networks["twins"] = `{"cniVersion": "0.3.1", "name": "twins", "plugins": [{"type": "twins"}, {"type": "last"}]}`
	result, err := n.Add(t.Context(), n.request("twins"))
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, i := range result.Interfaces {
		have = append(have, fmt.Sprint(i.Name, " ", i.Mtu, " ", i.SocketPath, i.PciID))
	}
	compareLines(t, "interfaces", have, []string{"twin 9000 /a", "twin 1500 /b", "other 0 0000:01:00.1"})
}

// twins is a delegate whose interfaces have equal names.
type twins struct{ passthru }

// Attach is delegates.Delegate.
func (twins) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		a.Result = &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{
			{Name: "twin", Sandbox: a.Netns, SocketPath: "/a", Mtu: 9000},
			{Name: "twin", Sandbox: a.Netns, SocketPath: "/b", Mtu: 1500},
			{Name: "other", Sandbox: a.Netns, PciID: "0000:01:00.1"},
		}}
	}
	return nil
}

// An error names step, attachment and cause once each, wherever the built-in stands in its list.
func TestErrorsNameOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.world.Fail("attach", "net1", errors.New("no room"))
	n.api.networks["vlan"] = `{"cniVersion": "1.1.0", "name": "vlan", "type": "sriov", "vlan": 99999}`
	n.Delegates["sriov"] = Builtin(n.Log)["sriov"]
	for networks, want := range map[string]string{
		"bare":    "add: net1 (network default/bare): no room",
		"probed":  `add: plugin type="toy" failed (add): net1 (network default/probed): no room`,
		"foreign": "prepare net1 (network default/foreign): toy: key",
		"vlan":    `prepare net1: network default/vlan: sriov: key "vlan": 99999, want 0 to 4094`,
	} {
		_, err := n.Add(t.Context(), n.request(networks))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			continue
		}
		for _, once := range []string{"net1", "network default/" + networks} {
			if strings.Count(err.Error(), once) != 1 {
				t.Errorf("%v: it has %q more than once", err, once)
			}
		}
	}
	n.wantNothingLeft("in the end")
}

// A backend that answers with a null in its result: the error is the engine's, and all is
// undone.
func TestAResultThatIsNone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.Delegates["null"] = nulls{}
	n.api.networks["null"] = `{"cniVersion": "1.1.0", "name": "null", "type": "null"}`
	_, err := n.Add(t.Context(), n.request("null"))
	says(t, err, "add net1 (network default/null)")
	n.wantNothingLeft("after ADD")
}

// nulls is a delegate whose results have nulls.
type nulls struct{ passthru }

// Attach is delegates.Delegate.
func (nulls) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		a.Result = &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: "x"}}, IPs: []*types100.IPConfig{{}}}
	}
	return nil
}

// Whatever Later is given is published when it says so, and what it never published Republish
// publishes.
func TestLater(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.api.noPlace = true
	var later func(context.Context) error
	n.Later = func(_ *conf.Pod, publish func(context.Context) error) { later = publish }
	r := n.mustAdd("static")
	if later == nil || len(n.api.published()) > 0 {
		t.Fatalf("published %v", n.api.published())
	}
	if did, err := n.Republish(t.Context(), r.Sandbox, n.api.asked()); err != nil || !did {
		t.Errorf("Republish: %v, %v", did, err)
	}
	if err := later(t.Context()); err != nil || len(n.api.published()) != 1 {
		t.Errorf("published %v, %v", n.api.published(), err)
	}
	if did, err := n.Republish(t.Context(), r.Sandbox, n.api.asked()); err != nil || did {
		t.Errorf("Republish of what is published: %v, %v", did, err)
	}
	if did, err := n.Republish(t.Context(), "unknown", n.api.asked()); err != nil || did {
		t.Errorf("Republish of what is not recorded: %v, %v", did, err)
	}
}

// azure-vnet's "ipam.type" is no executable. STATUS misses the IPAM plugin of a network of the
// node, before a pod does.
func TestWhichIPAMIsAnExecutable(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.mustAdd("own")
	if err := del(t.Context(), n); err != nil {
		t.Error(err)
	}
	for _, network := range []string{"ipamless", "lacking"} {
		n.configure(`"defaultNetworks": ["` + network + `"], `)
		says(t, n.Status(t.Context(), n.request("")), "ipam nowhere: it is not in")
	}
}

package core

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// network-status gives the cluster network's gateway of a family no more when
// default-route has taken that family's default route away from it.
func TestStatusAfterDefaultRoute(t *testing.T) {
	s := routeSite(t)
	for n, test := range []struct {
		gateways string
		want     []string
	}{
		{`"10.247.0.1"`, []string{"eth0 fd00:244::1", "net1 10.247.0.1"}},
		{`"fd00:247::1"`, []string{"eth0 10.244.0.1", "net1 fd00:247::1"}},
		{`"10.247.0.1", "10.247.0.2"`, []string{"eth0 fd00:244::1", "net1 10.247.0.1", "net1 10.247.0.2"}},
	} {
		id, p := site.SandboxID(700+n), site.NewPod(t, fmt.Sprintf("pending%d", n))
		s.Pod("told", `[{"name": "extra", "default-route": [`+test.gateways+`]}]`)
		s.MustAdd(id, p, "told")
		var status []struct {
			Interface string
			Gateway   []string
		}
		must.Decode(t, []byte(annotations(s, "told")["k8s.v1.cni.cncf.io/network-status"]), &status)
		var told []string
		for _, each := range status {
			for _, gw := range each.Gateway {
				told = append(told, each.Interface+" "+gw)
			}
		}
		slices.Sort(told)
		if !slices.Equal(told, test.want) {
			t.Errorf("default-route [%s]: gateways of network-status %q, want %q", test.gateways, told, test.want)
		}
		s.MustDel(id, p, "told")
	}
}

// CHECK succeeds on several gateways of a family, which are one route with
// several hops, and names the one that is gone.
func TestCheckOfSeveralGateways(t *testing.T) {
	s := routeSite(t)
	for n, test := range []struct{ gateways, spoil, gone string }{
		{`"10.247.0.1", "10.247.0.2"`, "ip route replace default via 10.247.0.1 dev net1", "10.247.0.2"},
		{`"fd00:247::1", "10.247.0.1", "fd00:247::2", "10.247.0.2"`, "ip -6 route replace default via fd00:247::1 dev net1", "fd00:247::2"},
	} {
		id, p := site.SandboxID(710+n), site.NewPod(t, fmt.Sprintf("several%d", n))
		s.Pod("several", `[{"name": "extra", "default-route": [`+test.gateways+`]}]`)
		s.MustAdd(id, p, "several")
		if err := s.Check(id, p, "several"); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		site.InPod(t, p, test.spoil)
		site.Says(t, s.Check(id, p, "several"), "net1", "default route via "+test.gone+" is gone")
		s.MustDel(id, p, "several")
	}
}

// CHECK sees that another network has a default route again, before which the
// one that was asked for counts for nothing.
func TestCheckOfAnotherDefaultRoute(t *testing.T) {
	s := routeSite(t)
	s.Pod("stolen", `[{"name": "extra", "default-route": ["fd00:247::1"]}]`)
	p := site.NewPod(t, "stolen")
	s.MustAdd(site.SandboxID(720), p, "stolen")
	s.MustCheck(site.SandboxID(720), p, "stolen")
	site.InPod(t, p, "ip -6 route add default via fd00:244::1 dev eth0 metric 1")
	site.Says(t, s.Check(site.SandboxID(720), p, "stolen"), "net1", "default route", "fd00:244::1")
	s.MustDel(site.SandboxID(720), p, "stolen")
}

// When the folder of manifests has become read-only, no status is published
// there, and so none is to be taken back: nothing keeps the journal.
func TestReadOnlyManifests(t *testing.T) {
	s, _, _ := undoSite(t)
	p := site.NewPod(t, "three")
	must.Do(t, unix.Mount(s.Manifests, s.Manifests, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must.Do(t, unix.Unmount(s.Manifests, unix.MNT_DETACH)) })
	must.Do(t, unix.Mount("", s.Manifests, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := s.Add(site.FaultySandbox, p, "three")
	site.Says(t, err, "publish", "read-only file system")
	if _, err := os.Stat(s.JournalFile(site.FaultySandbox)); err == nil {
		t.Error("the failed ADD has left a journal")
	}
	if err := s.Del(site.FaultySandbox, p, "three"); err != nil {
		t.Errorf("DEL: %v", err)
	}
}

// A network file that is malformed is passed over with a warning.
func TestWarningOfAMalformedNeighbour(t *testing.T) {
	s, log := policySite(t)
	net := filepath.Join(s.Dir, "net.d")
	must.Do(t, os.MkdirAll(net, 0o755))
	must.WriteFile(t, filepath.Join(net, "05-broken.conf"), "{")
	must.WriteFile(t, filepath.Join(net, "10-good.conf"), string(must.JSON(t, policyNetwork("by-name", log))))
	s = s.With(map[string]any{"clusterNetwork": "by-name", "delegates": nil, "logLevel": "verbose"})
	p := site.NewPod(t, "warned")
	_, stderr, err := s.Call(site.Request{Verb: "ADD", Sandbox: site.SandboxID(870), Netns: p.Path()})
	must.Do(t, err)
	if !strings.Contains(stderr, "05-broken.conf") {
		t.Errorf("standard error says nothing of 05-broken.conf: %q", stderr)
	}
	s.MustDel(site.SandboxID(870), p, "")
}

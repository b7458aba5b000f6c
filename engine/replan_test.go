package engine

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// lose removes the record of the pod's sandbox, and libcni's cached results.
func (n *node) lose() {
	n.t.Helper()
	if err := errors.Join(os.Remove(n.Journal.File(sandboxOfPod)), os.RemoveAll(filepath.Join(n.dir, "results"))); err != nil {
		n.t.Fatal(err)
	}
}

// logged are the warnings and errors of the engine.
func (n *node) logged() *bytes.Buffer {
	log := &bytes.Buffer{}
	n.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return log
}

// The record and libcni's results are lost, the pod and its networks are still there: DEL plans
// the pod again and undoes what it asks for, the addresses of every kind of ipam too.
func TestALostPodIsPlannedAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	log := n.logged()
	r := n.mustAdd("executed,hosted,between@mid,script,probed,pair")
	n.lose()
	r.Args = append(r.Args, [2]string{"K8S_POD_UID", "1-2-3"})
	for range 2 {
		if err := n.Del(t.Context(), r); err != nil {
			t.Error(err)
		}
		n.wantNothingLeft("after DEL")
	}
	if strings.Contains(log.String(), "not recorded") {
		t.Errorf("log: %s", log)
	}
}

// The process is stopped at every step of such a DEL: the next one plans again.
func TestEveryStepOfDelOfALostPodIsStopped(t *testing.T) {
	t.Parallel()
	eachStep(t, true, func(n *node) { added(n); n.lose() }, del, func(t *testing.T, n *node, _ error) {
		if err := del(t.Context(), n); err != nil {
			t.Errorf("the next DEL: %v", err)
		}
		n.wantNothingLeft("after the next DEL")
	})
}

// What is in the way of the plan is in the way of no other network, nor of DEL: a network that is
// gone, a device that the kubelet has taken back, an executable that fails, one that is gone. The
// log names it.
func TestWhatIsInTheWayOfAPlan(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change func(*node)
		left   []string
		says   string
	}{
		"a network is gone":      {func(n *node) { delete(n.api.networks, "executed") }, []string{"first,net1", "last,net1"}, "executed: not found"},
		"an executable fails":    {func(n *node) { n.failPlugin("DEL", "first", true) }, []string{"first,net1"}, "first was told to fail"},
		"an executable is gone":  {func(n *node) { _ = os.Remove(filepath.Join(n.dir, "bin", "last")) }, []string{"last,net1"}, `plugin \"last\" is neither`},
		"no device any more":     {func(n *node) { n.api.resource = "example.com/vf" }, nil, "the pod has no device of resource example.com/vf"},
		"the API server is away": {func(n *node) { n.api.failures["Recall"] = errors.New("the API server is away") }, []string{"first,net1", "last,net1"}, "the API server is away"},
		"another pod":            {func(n *node) { n.api.pod.UID = "4-5-6" }, []string{"first,net1", "last,net1"}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			log := n.logged()
			r := n.mustAdd("executed,hosted")
			n.api.noPlace = true
			n.lose()
			c.change(n)
			r.Args = append(r.Args, [2]string{"K8S_POD_UID", "1-2-3"})
			if err := n.Del(t.Context(), r); err != nil {
				t.Error(err)
			}
			byExecutables, byPlexus := made(n)
			byPlexus = slices.DeleteFunc(byPlexus, func(what string) bool { return strings.HasPrefix(what, "status at") })
			unknown := what == "another pod" || what == "the API server is away" // nothing names network hosted any more
			if !slices.Equal(byExecutables, c.left) || len(byPlexus) > 0 && !unknown || slices.ContainsFunc(byPlexus, func(what string) bool { return !strings.HasPrefix(what, "ipam/") }) {
				t.Errorf("left: %q, %q", byExecutables, byPlexus)
			}
			if !strings.Contains(log.String(), c.says) || c.says == "" && strings.Contains(log.String(), "not recorded") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// The pod cannot be found any more: the addresses of a network that is known of another sandbox
// are freed by the container ID.
func TestAddressesOfALostPod(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.mustAdd("hosted")
	n.addAs("another", "hosted")
	n.lose()
	n.api.failures["Recall"] = errors.New("the API server is away")
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	var ipam []string
	for _, what := range n.left() {
		if strings.HasPrefix(what, "ipam/") {
			ipam = append(ipam, what)
		}
	}
	if len(ipam) != 1 {
		t.Errorf("left: %q", ipam)
	}
}

// The pod has a cluster network of its own: that is undone, not the node's.
func TestALostPodWithItsOwnClusterNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.api.pod.Annotations[conf.DefaultNetworkAnnotation] = `[{"name": "executed", "namespace": "kube-system"}]`
	r := n.mustAdd("bare")
	n.lose()
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
	if slices.Contains(n.log(), "DEL cluster eth0") {
		t.Errorf("executed: %q", n.log())
	}
}

// A built-in that is executed under its own name plans from the request.
func TestALostRecordOfABuiltinAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.request("")
	r.Conf, r.Network, r.Stdin = nil, "hosted", []byte(`{"cniVersion": "1.1.0", "name": "hosted", "type": "toy", "endpoint": "/run/toy/a", "ipam": {"type": "host-local", "dataDir": "`+n.dir+`/ipam", "subnet": "10.9.1.0/24"}}`)
	if _, err := n.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	n.lose()
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

// A runtime repeats DEL: what is undone is not planned again. A pod that was attached since, by the
// same container ID, is.
func TestWhatIsUndoneIsNotPlannedAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.mustAdd("executed")
	for range 2 {
		if err := n.Del(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.log(); slices.Index(got, "DEL first net1") != len(got)-3 { // cluster, and cluster again
		t.Errorf("executed: %q", got)
	}
	n.mustAdd("executed")
	n.lose()
	if err := n.Del(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	n.wantNothingLeft("after DEL")
}

package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/memif"
)

// memifOf is the socket of a pod's memif as the node has it.
func memifOf(t testing.TB, p *pod) string {
	t.Helper()
	for _, s := range p.status(t) {
		if s.Info.Type == "memif" {
			dir := filepath.Join("/var/lib/kubelet/pods", p.Metadata.UID, "volumes/kubernetes.io~empty-dir/shared-dir")
			short := "/run/" + p.Metadata.UID // the path of a socket has 107 bytes at most
			if err := os.Symlink(dir, short); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(short) })
			return filepath.Join(short, filepath.Base(s.Info.Memif.Path))
		}
	}
	t.Fatalf("%s has no memif: %+v", p.Metadata.Name, p.status(t))
	return ""
}

// A VPP that is restarted under running pods has their memifs again: frames flow,
// and no pod is touched.
func TestRestartedVPP(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	n.apply(t, deployment("ten", 10, "shm"))
	n.must(t, "rollout", "status", "deployment/ten", "--timeout=90s")
	pods := n.pods(t, "ten")
	peers := make([]*memif.Peer, len(pods))
	for i := range pods {
		p, err := memif.Dial(t.Context(), memifOf(t, &pods[i]), 0, memif.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		peers[i] = p
	}
	flow := func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for i, p := range peers {
			if err := p.WaitLink(ctx); err != nil {
				t.Fatalf("%s: %s: %v\nagent: %s", when, pods[i].Metadata.Name, err, n.agent.Tail())
			}
		}
		for i, p := range peers[1:] {
			// What is sent before both ends are connected again is lost.
			err := eventually(ctx, "a frame arrives", func() error {
				once, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, err := memif.Transfer(once, peers[0], p, 1, memif.Traffic{})
				return err
			})
			if err != nil {
				t.Fatalf("%s: %s to %s: %v", when, pods[0].Metadata.Name, pods[i+1].Metadata.Name, err)
			}
			got, err := memif.Transfer(ctx, peers[0], p, 100, memif.Traffic{})
			if err != nil || got < 100 { // more, as a domain floods what it has not learned
				t.Fatalf("%s: %d of 100 frames from %s to %s: %v", when, got, pods[0].Metadata.Name, pods[i+1].Metadata.Name, err)
			}
		}
	}
	flow("at first")
	for round := range 3 {
		n.vpp.Kill()
		if err := n.startVPP(t.Context()); err != nil {
			t.Fatal(err)
		}
		flow(fmt.Sprintf("after restart %d", round+1))
	}
	for i, p := range n.pods(t, "ten") {
		if p.Metadata.UID != pods[i].Metadata.UID || p.Status.Phase != "Running" {
			t.Errorf("%s is another pod, or does not run: %+v", p.Metadata.Name, p.Status)
		}
	}
	await(t, "events tell", func() error {
		if out := n.must(t, "get", "events", "--field-selector", "reason=NetworkRestored", "-o", "name"); out == "" {
			return errors.New("no event NetworkRestored")
		}
		return nil
	})
	var found []map[string]any
	data, err := n.ask("POST", "/v1/resync")
	if err != nil || json.Unmarshal(data, &found) != nil || len(found) != 0 {
		t.Errorf("after that the world differs: %s %v", data, err)
	}
	n.must(t, "delete", "deployment", "ten", "--cascade=foreground")
	n.nothingLeft(t)
}

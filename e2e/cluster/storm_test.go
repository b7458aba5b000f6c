package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plexus-cni/plexus/rig/kube"
)

// The storm.
const (
	stormPods   = 100         // are created, and deleted
	stormAlive  = 20          // at once
	stormOutage = time.Minute // of the API server
)

// Agents that are killed, an API server that is away for a minute, an upgrade: all
// of it while a hundred pods come and go. At the end each pod is Ready or gone, and
// the node has what its pods have.
func TestStorm(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	quiet := make(chan struct{})
	var others sync.WaitGroup
	half := make(chan struct{}) // closed when half of the pods were created
	others.Go(func() { n.killAgents(ctx, t, quiet) })
	others.Go(func() {
		select {
		case <-half:
		case <-ctx.Done():
			return
		}
		n.control(t, "/apiserver/stop", nil)
		select { // the outage is what is tested
		case <-time.After(stormOutage):
		case <-ctx.Done():
		}
		n.control(t, "/apiserver/start", nil)
	})
	created := 0
	for i := range stormPods {
		if i == stormPods/2 {
			close(half)
		}
		n.persist(ctx, t, "create", func() error {
			_, err := n.client.CoreV1().Pods("default").Create(ctx, stormPod(i), metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				err = nil
			}
			return err
		})
		created++
		if old := i - stormAlive; old >= 0 {
			n.persist(ctx, t, "delete", func() error {
				err := n.client.CoreV1().Pods("default").Delete(ctx, stormPod(old).Name, metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					err = nil
				}
				return err
			})
		}
	}
	close(quiet)
	others.Wait()
	if t.Failed() {
		return
	}
	await(t, "each pod is Ready or gone", func() error { return n.settled(ctx, stormAlive) })
	await(t, "the node has what its pods have", func() error { return n.agrees(t) })
	n.must(t, "delete", "pods", "-l", "app=storm", "--wait=true")
	n.nothingLeft(t)
}

func stormPod(i int) *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("storm-%d", i), Labels: map[string]string{"app": "storm"}, Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "lan,fast,shm"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Volumes:                       []corev1.Volume{{Name: "shared-dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{Name: "app", Image: kube.BusyboxImage, Command: []string{"sleep", "infinity"},
				VolumeMounts: []corev1.VolumeMount{{Name: "shared-dir", MountPath: "/shared"}}}},
		},
	}
}

// persist does it again until the API server takes it.
func (n *testNode) persist(ctx context.Context, t *testing.T, what string, do func() error) {
	t.Helper()
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// killAgents kills the agent at random moments and starts it again at once, every
// fifth time as an upgrade: ended in order, the executable replaced.
func (n *testNode) killAgents(ctx context.Context, t *testing.T, quiet <-chan struct{}) {
	kills := 0
	for ; ; kills++ {
		select {
		case <-quiet:
			t.Logf("the agent was ended %d times", kills)
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(300+rand.IntN(2500)) * time.Millisecond): // the moment is what is tested
		}
		if kills%5 == 4 {
			n.stopAgent()
			if err := replace("/opt/cni/bin/plexusd"); err != nil {
				t.Errorf("upgrade: %v", err)
			}
		} else {
			n.agent.Kill()
		}
		if err := n.launchAgent(); err != nil {
			t.Errorf("start the agent: %v", err)
			return
		}
	}
}

// replace puts a copy of an executable in its place.
func replace(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o755); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// settled: all pods that were not deleted are Ready.
func (n *testNode) settled(ctx context.Context, want int) error {
	list, err := n.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=storm"})
	if err != nil {
		return err
	}
	if len(list.Items) != want {
		return fmt.Errorf("%d pods, want %d", len(list.Items), want)
	}
	for _, p := range list.Items {
		ready := false
		for _, c := range p.Status.Conditions {
			ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}
		if !ready {
			return fmt.Errorf("%s is not Ready", p.Name)
		}
		var told []networkStatus
		if err := json.Unmarshal([]byte(p.Annotations["k8s.v1.cni.cncf.io/network-status"]), &told); err != nil || len(told) != 4 || !slices.Contains(told[0].IPs, p.Status.PodIP) {
			return fmt.Errorf("%s has %s, its network-status tells %+v", p.Name, p.Status.PodIP, told)
		}
	}
	return nil
}

// agrees compares journal, namespaces, addresses, OVS and VPP with the pods.
func (n *testNode) agrees(t *testing.T) error {
	var attached struct {
		Sandboxes []struct {
			Sandbox      string
			Transactions []struct {
				Phase string
				Pod   struct{ UID string }
			}
		}
	}
	data, err := n.ask("GET", "/v1/attachments")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &attached); err != nil {
		return err
	}
	list, err := n.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=storm"})
	if err != nil {
		return err
	}
	want := len(list.Items)
	uids, sandboxes := map[string]bool{}, map[string]bool{}
	for _, p := range list.Items {
		uids[string(p.UID)] = true
	}
	for _, s := range attached.Sandboxes {
		sandboxes[s.Sandbox] = true
		for _, tx := range s.Transactions {
			if tx.Phase != "attached" || !uids[tx.Pod.UID] {
				return fmt.Errorf("sandbox %s: %+v", s.Sandbox, tx)
			}
		}
	}
	var errs []error
	count := func(what string, got int) {
		if got != want {
			errs = append(errs, fmt.Errorf("%d %s, want %d", got, what, want))
		}
	}
	count("sandboxes in the journal", len(sandboxes))
	spaces, _ := filepath.Glob("/run/netns/cni-*")
	count("network namespaces", len(spaces))
	for _, network := range []string{"pods", "lan", "fast", "shm"} {
		files, _ := filepath.Glob("/var/lib/cni/networks/" + network + "/1*")
		count("addresses of "+network, len(files))
		for _, file := range files {
			if owner, err := firstLine(file); err != nil || !sandboxes[owner] {
				errs = append(errs, fmt.Errorf("%s is %s's (%v)", file, owner, err))
			}
		}
	}
	ports, err := n.ovs.VSCtl(t.Context(), "--bare", "--columns=name", "find", "Interface", "external_ids:plexus-sandbox!=none")
	if err != nil {
		return err
	}
	count("ports of OVS", len(strings.Fields(ports)))
	state, err := n.vpp.State()
	if err != nil {
		return err
	}
	memifs := 0
	for line := range strings.Lines(state) {
		if strings.HasPrefix(line, "interface ") && strings.Contains(line, "kind=memif") {
			memifs++
		}
	}
	count("memifs of VPP", memifs)
	return errors.Join(errs...)
}

func firstLine(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan()
	return strings.TrimSpace(s.Text()), s.Err()
}

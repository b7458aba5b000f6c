package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plexus-cni/plexus/agent"
)

// A pod is wired while the API server is away, and detached. When it is back it is told
// what pods got, by the agent that wired them or by the next one. What somebody removes
// of that is there again after a comparison; what others wrote stays.
func TestPublish(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	conf, err := os.ReadFile(filepath.Join(confDir, "00-plexus.conf"))
	if err != nil {
		t.Fatal(err)
	}
	pods, netns := map[string]*corev1.Pod{}, map[string]string{}
	do := func(verb, name string) { n.execute(t, "plexus", verb, netns[name], pods[name], conf) }
	for _, name := range []string{"same", "next", "gone"} {
		waiting := n.podCalled("publish-"+name, "shm") // for its volume: the kubelet makes no sandbox
		waiting.Spec.Volumes = append(waiting.Spec.Volumes, corev1.Volume{Name: "missing", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "missing"}}}})
		app := &waiting.Spec.Containers[0]
		app.VolumeMounts = append(app.VolumeMounts, corev1.VolumeMount{Name: "missing", MountPath: "/missing"})
		pods[name], netns[name] = n.create(t, waiting), namespace(t, "publish-"+name)
		do("ADD", name) // the watch has brought it then
		n.published(t)
		do("DEL", name)
		n.must(t, "annotate", "pod", pods[name].Name, "k8s.v1.cni.cncf.io/network-status-")
	}
	told := func(name string, want ...string) {
		t.Helper()
		await(t, "pod "+name+" is told", func() error {
			var p pod
			if err := json.Unmarshal([]byte(n.must(t, "get", "pod", pods[name].Name, "-o", "json")), &p); err != nil {
				return err
			}
			var have []string
			if p.Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"] != "" {
				for _, s := range p.status(t) {
					have = append(have, s.Interface+"="+s.Name)
				}
			}
			if !slices.Equal(have, want) {
				return fmt.Errorf("have %v\nagent: %s", have, n.agent.Tail())
			}
			return nil
		})
	}
	unpublished := func() int {
		t.Helper()
		var info agent.NodeInfo
		data, err := n.ask("GET", "/v1/node")
		if err := errors.Join(err, json.Unmarshal(data, &info)); err != nil {
			t.Fatal(err)
		}
		return info.Unpublished
	}

	// What kube.Cluster knows a replaced pod by.
	_, err = n.client.CoreV1().Pods("default").Patch(t.Context(), pods["same"].Name, types.MergePatchType, []byte(`{"metadata":{"uid":"other","annotations":{"a":"b"}}}`), metav1.PatchOptions{}, "status")
	var refused *apierrors.StatusError
	if !errors.As(err, &refused) || refused.ErrStatus.Code != 422 || refused.ErrStatus.Details.Causes[0].Field != "metadata.uid" {
		t.Errorf("a patch with another UID: %v", err)
	}

	n.control(t, "/apiserver/stop", nil)
	do("ADD", "same")
	do("CHECK", "same")
	do("ADD", "gone")
	if got := unpublished(); got != 2 {
		t.Errorf("%d pods are not told, want 2", got)
	}
	do("DEL", "gone")
	if got := unpublished(); got != 1 {
		t.Errorf("%d pods are not told, want 1: the other is no more", got)
	}
	n.control(t, "/apiserver/start", nil)
	told("same", "eth0=pods", "net1=default/shm")
	n.published(t)

	n.control(t, "/apiserver/stop", nil)
	do("ADD", "next")
	n.agent.Kill()
	n.control(t, "/apiserver/start", nil)
	if err := n.startAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	told("next", "eth0=pods", "net1=default/shm")
	told("gone")

	theirs := `[{"name":"others/net","interface":"ext0","ips":["192.0.2.7"]}]`
	n.must(t, "annotate", "--overwrite", "pod", pods["same"].Name, "k8s.v1.cni.cncf.io/network-status="+theirs)
	await(t, "the comparison finds what is missing", func() error { // when the watch has brought it
		data, err := n.ask("POST", "/v1/resync")
		var found []struct{ Sandbox, Kind, What string }
		if err := errors.Join(err, json.Unmarshal(data, &found)); err != nil {
			return err
		}
		if len(found) != 1 || found[0].Sandbox != "bench-publish-same" || found[0].Kind != "missing" {
			return fmt.Errorf("found %s", data)
		}
		return nil
	})
	told("same", "eth0=pods", "net1=default/shm", "ext0=others/net")
	await(t, "nothing is missing", func() error {
		data, err := n.ask("POST", "/v1/resync")
		if err == nil && string(data) != "[]\n" {
			err = errors.New(string(data))
		}
		return err
	})

	do("DEL", "same")
	do("DEL", "next")
	n.must(t, "delete", "pods", "-l", "app=bench", "--force")
	n.nothingLeft(t)
}

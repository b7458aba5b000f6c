package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/plexus-cni/plexus/conf"
)

// cluster is a Source in memory: one pod, and networks by name.
type cluster struct {
	mu       sync.Mutex
	pod      *conf.Pod
	networks map[string]string
	resource string                       // of every network; "" for none
	status   map[string]map[string]string // what Publish wrote, by place
	noPlace  bool                         // nothing that Publish writes has to be taken back
	failures map[string]error             // by method
}

func newCluster(networks map[string]string) *cluster {
	return &cluster{
		pod:      &conf.Pod{Namespace: "default", Name: "pod", UID: "1-2-3", Annotations: map[string]string{}},
		networks: networks, status: map[string]map[string]string{}, failures: map[string]error{},
	}
}

// ask sets the pod's networks.
func (c *cluster) ask(networks string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pod.Annotations[conf.NetworksAnnotation] = networks
}

// published is what Publish wrote and Retract did not take back, by place.
func (c *cluster) published() map[string]map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.status)
}

// asked is the pod as it asks for networks now, with what is published on it.
func (c *cluster) asked() *conf.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := *c.pod
	pod.Annotations = maps.Clone(c.pod.Annotations)
	maps.Copy(pod.Annotations, c.status[placeOf(c.pod)])
	return &pod
}

func placeOf(pod *conf.Pod) string { return "status of " + pod.String() }

// Pod is Source.
func (c *cluster) Pod(_ context.Context, namespace, name, uid string) (*conf.Pod, error) {
	if err := c.failures["Pod"]; err != nil {
		return nil, err
	}
	return c.Recall(context.Background(), namespace, name, uid)
}

// Recall is Source.
func (c *cluster) Recall(_ context.Context, namespace, name, uid string) (*conf.Pod, error) {
	if err := c.failures["Recall"]; err != nil {
		return nil, err
	}
	if namespace != c.pod.Namespace || name != c.pod.Name || uid != "" && uid != c.pod.UID {
		return nil, nil
	}
	return c.asked(), nil
}

// Network is Source.
func (c *cluster) Network(_ context.Context, w conf.Reference) (*conf.Definition, error) {
	config, has := c.networks[w.Name]
	switch {
	case w.ChainDir != "" && !has:
		return nil, nil
	case !has:
		return nil, fmt.Errorf("NetworkAttachmentDefinition %s/%s: not found", w.Namespace, w.Name)
	}
	return &conf.Definition{Origin: "NetworkAttachmentDefinition " + w.Name, Name: w.Namespace + "/" + w.Name, Fallback: w.Name, Config: []byte(config), ResourceName: c.resource}, nil
}

// StatusPlace is Source.
func (c *cluster) StatusPlace(pod *conf.Pod) string {
	if c.noPlace {
		return ""
	}
	return placeOf(pod)
}

// Publish is Source.
func (c *cluster) Publish(_ context.Context, pod *conf.Pod, sandbox string, annotations map[string]string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sandbox == "" {
		return errors.New("published for no sandbox")
	}
	if err := c.failures["Publish"]; err != nil {
		return err
	}
	c.status[placeOf(pod)] = annotations
	return nil
}

// Retract is Source.
func (c *cluster) Retract(_ context.Context, place, _ string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.failures["Retract"]; err != nil {
		return err
	}
	delete(c.status, place)
	return nil
}

package kube

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plexus-cni/plexus/conf"
)

// Live is the engine.Source of one request, for pods and networks of the API server. Networks
// that the configuration itself names may be files.
type Live struct {
	Cluster *Cluster
	ConfDir string

	pod *corev1.Pod
}

// Pod finds the pod of a request.
func (l *Live) Pod(ctx context.Context, namespace, name, uid string) (*conf.Pod, error) {
	p, err := l.Cluster.pod(ctx, namespace, name, uid)
	if err != nil {
		return nil, err
	}
	l.pod = p
	pod := podOf(p)
	if uid != "" {
		pod.UID = uid // of a static pod: its UID in the kubelet
	}
	return pod, nil
}

// isFor reports whether Pod has found a pod.
func (l *Live) isFor(pod *conf.Pod) bool {
	return l.pod != nil && l.pod.Namespace == pod.Namespace && l.pod.Name == pod.Name && isPod(l.pod, pod.UID)
}

// Recall finds a pod in memory. Without Follow it is requested.
func (l *Live) Recall(ctx context.Context, namespace, name, uid string) (pod *conf.Pod, err error) {
	pod, synced := l.Cluster.CachedPod(namespace, name, uid)
	if !synced {
		pod, err = l.Cluster.FetchPod(ctx, namespace, name, uid)
	}
	if errors.Is(err, ErrPodGone) {
		return nil, nil
	}
	if pod != nil && uid != "" {
		pod.UID = uid
	}
	return pod, err
}

// Network finds a network as Manifests does.
func (l *Live) Network(ctx context.Context, w conf.Reference) (*conf.Definition, error) {
	return find(w, l.ConfDir, ": the API server has none", func(namespace, name string) (*conf.Definition, error) {
		return l.Cluster.definition(ctx, namespace, name)
	})
}

// StatusPlace is "": the status is deleted with the pod.
func (l *Live) StatusPlace(*conf.Pod) string { return "" }

// Publish sets the annotations on the pod.
func (l *Live) Publish(ctx context.Context, pod *conf.Pod, _ string, annotations map[string]string) error {
	uid := types.UID(pod.UID)
	if l.isFor(pod) {
		uid = l.pod.UID // of a static pod: the mirror's
	}
	return l.Cluster.patch(ctx, pod.Namespace, pod.Name, uid, annotations)
}

// Retract has nothing to do.
func (l *Live) Retract(context.Context, string, string) error { return nil }

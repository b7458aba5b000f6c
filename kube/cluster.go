package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	nadapi "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/plexus-cni/plexus/conf"
)

// Cluster reads pods, NetworkAttachmentDefinitions and devices of resource claims of the API
// server. After Follow it has this node's pods with their claims, this node's ResourceSlices
// and all definitions in memory, and requests only objects that are missing there, or pods
// with another UID.
type Cluster struct {
	*API
	Kubeconfig string // of an API that is connected when it is needed
	Node       string
	Log        *slog.Logger

	once sync.Once
	err  error

	pods, networks, slices cache.SharedIndexInformer // nil without Follow
	claims                 claimWatch                // empty without Follow
	recorder               record.EventRecorder      // nil without OpenEvents
}

// arrival bounds the delay of this watch behind the kubelet's, which has made the runtime start
// the pod.
const arrival = 300 * time.Millisecond

// ErrPodGone is the error of a pod that does not exist any more.
var ErrPodGone = errors.New("does not exist any more")

// open connects at the first call.
func (c *Cluster) open() error {
	c.once.Do(func() {
		if c.API == nil {
			if c.API, c.err = Connect(c.Kubeconfig); c.err != nil {
				c.err = fmt.Errorf("key %q: %w: pods are the API server's unless %q names a folder", "kubeconfig", c.err, "manifests")
			}
		}
	})
	return c.err
}

// request connects, and repeats a request while its error is temporary, see API.retry.
func (c *Cluster) request(ctx context.Context, needs string, request func(context.Context) error) error {
	if err := c.open(); err != nil {
		return err
	}
	return c.retry(ctx, needs, request)
}

// Follow starts the watches, until ctx is done. It calls changed with each state of a pod.
func (c *Cluster) Follow(ctx context.Context, changed func(*conf.Pod)) error {
	onNode := fields.OneTermEqualSelector("spec.nodeName", c.Node)
	c.pods = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(c.core, "pods", "", onNode), &corev1.Pod{}, 0, nil)
	c.networks = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(c.nads, "network-attachment-definitions", "", fields.Everything()), &nadapi.NetworkAttachmentDefinition{}, 0, nil)
	_, err := c.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { changed(podOf(o.(*corev1.Pod))) },
		UpdateFunc: func(_, o any) { changed(podOf(o.(*corev1.Pod))) },
	})
	if err != nil {
		return err
	}
	// A handler of its own: client-go calls each in a goroutine of its own, so that changed
	// waits for no claim.
	_, err = c.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { c.learnClaims(ctx, o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { c.learnClaims(ctx, o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			c.claims.forget(o.(*corev1.Pod).UID)
		},
	})
	c.slices = c.watchSlices()
	for informer, failed := range map[cache.SharedIndexInformer]cache.WatchErrorHandlerWithContext{c.pods: c.watchFailed, c.networks: c.watchFailed, c.slices: c.sliceWatchFailed} {
		if err = errors.Join(err, informer.SetTransform(slim), informer.SetWatchErrorHandlerWithContext(failed)); err != nil {
			return err
		}
		go informer.RunWithContext(ctx)
	}
	return nil
}

// watchFailed logs why a watch is tried again.
func (c *Cluster) watchFailed(_ context.Context, _ *cache.Reflector, err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) { // 410: client-go lists again
		return
	}
	c.Log.Warn("watch: it is tried again", "why", c.explain(err, "list and watch pods, network-attachment-definitions, resourceslices").Error())
}

// Synced returns an error for each kind that every ADD needs and whose first list is missing;
// nil when the watches have caught up. A ResourceSlice that is missing is requested.
func (c *Cluster) Synced() error {
	var errs []error
	if !c.pods.HasSynced() {
		errs = append(errs, fmt.Errorf("the pods of node %s are not known yet", c.Node))
	}
	if !c.networks.HasSynced() {
		errs = append(errs, errors.New("the NetworkAttachmentDefinitions are not known yet: is their CustomResourceDefinition installed?"))
	}
	return errors.Join(errs...)
}

// AwaitPods waits for the first list of the node's pods; false when ctx is done first.
func (c *Cluster) AwaitPods(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), c.pods.HasSynced)
}

// slim drops fields that plexus never reads.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		kept := &corev1.Pod{ObjectMeta: slimMeta(&o.ObjectMeta)}
		kept.Spec.NodeName, kept.Spec.HostNetwork = o.Spec.NodeName, o.Spec.HostNetwork
		kept.Spec.ResourceClaims = o.Spec.ResourceClaims
		kept.Status.Phase, kept.Status.ResourceClaimStatuses = o.Status.Phase, o.Status.ResourceClaimStatuses
		kept.Status.ExtendedResourceClaimStatus = o.Status.ExtendedResourceClaimStatus
		kept.Spec.Volumes = slimVolumes(o.Spec.Volumes)
		for _, c := range o.Spec.InitContainers {
			mounts := slimMounts(c.VolumeMounts, kept.Spec.Volumes)
			kept.Spec.InitContainers = append(kept.Spec.InitContainers, corev1.Container{Name: c.Name, RestartPolicy: c.RestartPolicy, VolumeMounts: mounts})
		}
		for _, c := range o.Spec.Containers {
			kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Name: c.Name, VolumeMounts: slimMounts(c.VolumeMounts, kept.Spec.Volumes)})
		}
		return kept, nil
	case *nadapi.NetworkAttachmentDefinition:
		return &nadapi.NetworkAttachmentDefinition{ObjectMeta: slimMeta(&o.ObjectMeta), Spec: o.Spec}, nil
	case *resourcev1.ResourceSlice:
		return slimSlice(o), nil
	}
	return o, nil
}

func slimMeta(m *metav1.ObjectMeta) metav1.ObjectMeta {
	delete(m.Annotations, corev1.LastAppliedConfigAnnotation)
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		DeletionTimestamp: m.DeletionTimestamp, Annotations: m.Annotations,
	}
}

// podOf converts a pod.
func podOf(p *corev1.Pod) *conf.Pod {
	pod := &conf.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Annotations: p.Annotations}
	pod.Ended = p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	pod.Containers = containersOf(&p.Spec)
	addVolumes(pod, &p.Spec)
	return pod
}

// containersOf are the names of a pod's containers in the order in which they get devices:
// sidecars, which are init containers that go on, and the pod's own, as the kubelet lists
// them, then the other init containers, whose devices the others have by then.
func containersOf(spec *corev1.PodSpec) (names []string) {
	var others []string
	for _, container := range spec.InitContainers {
		if policy := container.RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			names = append(names, container.Name)
		} else {
			others = append(others, container.Name)
		}
	}
	for _, container := range spec.Containers {
		names = append(names, container.Name)
	}
	return append(names, others...)
}

// hashAnnotation of a static pod's mirror has the pod's UID in the kubelet (k8s.io/kubernetes/pkg/kubelet/types).
const hashAnnotation = "kubernetes.io/config.hash"

func isPod(p *corev1.Pod, uid string) bool {
	return uid == "" || string(p.UID) == uid || p.Annotations[hashAnnotation] == uid
}

// pod finds a pod, in memory or else by a request. It waits for the watch to bring the pod,
// for arrival at most.
func (c *Cluster) pod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error) {
	for deadline := time.Now().Add(arrival); ctx.Err() == nil; {
		p, synced := c.cachedPod(namespace, name, uid)
		if p != nil {
			return p, nil
		}
		if !synced || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
	return c.get(ctx, namespace, name, uid)
}

// FetchPod requests a pod from the API server.
func (c *Cluster) FetchPod(ctx context.Context, namespace, name, uid string) (*conf.Pod, error) {
	p, err := c.get(ctx, namespace, name, uid)
	if err != nil {
		return nil, err
	}
	return podOf(p), nil
}

func (c *Cluster) get(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error) {
	p := &corev1.Pod{}
	err := c.request(ctx, "get pods", func(ctx context.Context) error {
		return c.core.Get().Namespace(namespace).Resource("pods").Name(name).Do(ctx).Into(p)
	})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("pod %s/%s %w", namespace, name, ErrPodGone)
	}
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, err)
	}
	if !isPod(p, uid) {
		return nil, fmt.Errorf("pod %s/%s with UID %.80s %w: it has UID %s, it has been replaced", namespace, name, uid, ErrPodGone, p.UID)
	}
	return p, nil
}

// cached returns the object in an informer's memory, nil when there is none. synced is false
// before the first list.
func cached[T any](informer cache.SharedIndexInformer, namespace, name string) (object *T, synced bool) {
	if informer == nil || !informer.HasSynced() {
		return nil, false
	}
	if o, ok, err := informer.GetStore().GetByKey(namespace + "/" + name); err == nil && ok {
		object = o.(*T)
	}
	return object, true
}

func (c *Cluster) cachedPod(namespace, name, uid string) (p *corev1.Pod, synced bool) {
	p, synced = cached[corev1.Pod](c.pods, namespace, name)
	if p != nil && !isPod(p, uid) {
		p = nil
	}
	return p, synced
}

// CachedPod is the pod of this UID in memory, nil when there is none. synced is false before
// the first list of the node's pods.
func (c *Cluster) CachedPod(namespace, name, uid string) (pod *conf.Pod, synced bool) {
	p, synced := c.cachedPod(namespace, name, uid)
	if p == nil {
		return nil, synced
	}
	return podOf(p), true
}

// definition finds a NetworkAttachmentDefinition; nil, nil when there is none.
func (c *Cluster) definition(ctx context.Context, namespace, name string) (*conf.Definition, error) {
	nad, _ := cached[nadapi.NetworkAttachmentDefinition](c.networks, namespace, name)
	if nad != nil {
		return definitionOf(nad), nil
	}
	nad = &nadapi.NetworkAttachmentDefinition{}
	err := c.request(ctx, "get network-attachment-definitions (k8s.cni.cncf.io)", func(ctx context.Context) error {
		return c.nads.Get().Namespace(namespace).Resource("network-attachment-definitions").Name(name).Do(ctx).Into(nad)
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("NetworkAttachmentDefinition %s/%s: %w", namespace, name, err)
	}
	return definitionOf(nad), nil
}

func definitionOf(nad *nadapi.NetworkAttachmentDefinition) *conf.Definition {
	return newDefinition(nad.Namespace, nad.Name, nad.Spec.Config, nad.Annotations)
}

// metadataOnly makes the API server return only an object's metadata.
const metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

// patch sets annotations of a pod by a merge patch that holds for this UID alone: a UID
// cannot be changed, so the API server answers 422 when the name is another pod's by now
// (k8s.io/apimachinery/pkg/api/validation/objectmeta.go).
func (c *Cluster) patch(ctx context.Context, namespace, name string, uid types.UID, annotations map[string]string) error {
	meta := map[string]any{"annotations": annotations}
	if uid != "" {
		meta["uid"] = uid
	}
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return err
	}
	err = c.request(ctx, "patch pods/status", func(ctx context.Context) error {
		return c.core.Patch(types.MergePatchType).Namespace(namespace).Resource("pods").Name(name).SubResource("status").
			SetHeader("Accept", metadataOnly).Body(body).Do(ctx).Error()
	})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("pod %s/%s %w", namespace, name, ErrPodGone)
	case isOtherUID(err):
		return fmt.Errorf("pod %s/%s with UID %s %w, it has been replaced: %w", namespace, name, uid, ErrPodGone, err)
	}
	return err
}

func isOtherUID(err error) bool {
	var s apierrors.APIStatus
	return apierrors.IsInvalid(err) && errors.As(err, &s) && s.Status().Details != nil &&
		slices.ContainsFunc(s.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

package kube

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/plexus-cni/plexus/conf"
)

// maxMessage is what the API server allows of an event's message, in bytes
// (k8s.io/kubernetes/pkg/apis/core/validation/events.go).
const maxMessage = 1024

// OpenEvents begins to send events, in the background: client-go counts repeated events and
// drops floods of them. The returned function stops it, after a short time for events that are
// still to be sent.
func (c *Cluster) OpenEvents() (done func()) {
	b := record.NewBroadcaster()
	watch := b.StartRecordingToSink(&sink{c.core})
	c.recorder = b.NewRecorder(c.scheme, corev1.EventSource{Component: "plexus", Host: c.Node})
	return func() { watch.Stop(); b.Shutdown() }
}

// Event sends an event about a pod. An unreachable API server never fails the request: the
// event is lost. Without OpenEvents it is sent before Event returns.
func (c *Cluster) Event(pod *conf.Pod, warning bool, reason, message string) {
	if pod == nil {
		return
	}
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage-3], "") + "..." // the cut may be inside of a character
	}
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)}
	if c.recorder != nil {
		c.recorder.Event(about, kind, reason, message)
		return
	}
	err := c.open()
	if now := metav1.Now(); err == nil {
		_, err = (&sink{c.core}).Create(&corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{GenerateName: pod.Name + ".", Namespace: pod.Namespace},
			InvolvedObject: *about, Reason: reason, Message: message, Type: kind, Count: 1,
			FirstTimestamp: now, LastTimestamp: now, Source: corev1.EventSource{Component: "plexus", Host: c.Node},
		})
	}
	if err != nil {
		c.Log.Warn("event: not sent", "pod", pod.String(), "reason", reason, "why", err.Error())
	}
}

// sink sends events to the API server.
type sink struct{ core rest.Interface }

// send sends a request about an event.
func send(r *rest.Request, namespace string) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	made := &corev1.Event{}
	return made, r.Namespace(namespace).Resource("events").Do(ctx).Into(made)
}

// Create is record.EventSink.
func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	return send(s.core.Post().Body(e), e.Namespace)
}

// Update is record.EventSink.
func (s *sink) Update(e *corev1.Event) (*corev1.Event, error) {
	return send(s.core.Put().Name(e.Name).Body(e), e.Namespace)
}

// Patch is record.EventSink.
func (s *sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return send(s.core.Patch(types.StrategicMergePatchType).Name(e.Name).Body(data), e.Namespace)
}

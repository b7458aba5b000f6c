package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// planAgain plans the pod of a sandbox again, as Multus does at DEL of what it has not recorded:
// a pod with the UID of the request, as it and its networks are now. Where it is gone, that is the
// plan of a pod without annotations. It notes the pod in tx. whole is false where the pod may have
// asked for more: it is gone, a network is, or the API server away. What was undone a short time
// ago is not planned again.
func (e *Engine) planAgain(ctx context.Context, r *Request, tx *journal.Transaction) (planned []*journal.Entry, whole bool) {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	namespace, name := r.Args.Get("K8S_POD_NAMESPACE"), r.Args.Get("K8S_POD_NAME")
	named := conf.CheckObjectName(namespace, name) == nil
	undone := e.Journal.IsUndone(r.Sandbox)
	var pod *conf.Pod
	var err error
	if named {
		uid := r.Args.Get("K8S_POD_UID")
		if !undone {
			pod, err = e.Source.Recall(ctx, namespace, name, uid)
		}
		tx.Pod = e.onNode(cmp.Or(pod, &conf.Pod{Namespace: namespace, Name: name, UID: uid}))
		if r.Conf != nil {
			tx.StatusPlace = e.Source.StatusPlace(tx.Pod)
		}
	}
	if undone {
		return nil, true
	}
	if err == nil {
		lenient := &lenientSource{Source: e.Source}
		again := *e
		again.Source = lenient
		plan, errDevices := again.planFor(ctx, r, pod)
		if errDevices != nil { // the kubelet may have taken the devices back
			lenient.deviceless, lenient.err = true, nil
			plan, err = again.planFor(ctx, r, pod)
		}
		if err == nil {
			err = errors.Join(errDevices, lenient.err)
			known := slices.DeleteFunc(plan.Networks, func(n conf.Network) bool { return n.Name == notFound })
			planned, whole = newEntries(&Request{}, known), (pod != nil || !named) && err == nil
		}
	}
	if err != nil {
		e.Log.Warn("DEL of a sandbox that is not recorded: what its pod asks for is not all known, some of it may be left", "sandbox", r.Sandbox, "why", err.Error())
	}
	return planned, whole
}

// lenientSource has a network that does nothing in the place of each that it does not find: the
// others keep their interface names.
type lenientSource struct {
	Source
	deviceless bool  // no network needs a device
	err        error // of what was not found
}

// notFound is a name that no network has.
const notFound = "not found"

const nothing = `{"cniVersion": "1.0.0", "name": "lost", "type": "passthru",
	"capabilities": {"ips": true, "mac": true, "infinibandGUID": true, "portMappings": true, "bandwidth": true}}`

// Network is Source.
func (l *lenientSource) Network(ctx context.Context, w conf.Reference) (*conf.Definition, error) {
	d, err := l.Source.Network(ctx, w)
	if err != nil {
		l.err = errors.Join(l.err, err)
		d = &conf.Definition{Origin: "network " + w.Name, Name: notFound, Config: []byte(nothing)}
	}
	if l.deviceless && d != nil {
		copied := *d
		d, copied.ResourceName = &copied, ""
	}
	return d, nil
}

// undoPlanned undoes attachments of the pod's plan. Nobody knows whether they were ever made:
// what does not undo them is logged, and is not in the way of DEL.
func (e *Engine) undoPlanned(ctx context.Context, sandbox string, tx *journal.Transaction, planned []*journal.Entry, live string) {
	if len(planned) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if _, err := e.detachEach(ctx, sandbox, &journal.Transaction{Pod: tx.Pod, Path: tx.Path}, planned, live); err != nil {
		e.Log.Error("DEL of a sandbox that is not recorded: what its pod asks for is not all undone", "sandbox", sandbox, "pod", tx.Pod.String(), "why", err.Error())
	}
}

package engine

import (
	"context"
	"encoding/json"
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/status"
)

// describe writes the device-info files, or the one that the caller of a built-in under its own
// name has given. It returns the annotations of the pod,
// network-status among them; nil when the request has no pod to annotate. others are the
// elements of network-status that plexus has not written.
func (e *Engine) describe(ctx context.Context, r *Request, tx *journal.Transaction, all []*attachment, results []*types100.Result, others []json.RawMessage) (map[string]string, error) {
	annotations, infos := map[string]string{}, make([]*conf.DeviceInfo, len(all))
	file, err := "", error(nil)
	if r.Conf == nil {
		if file, err = status.CallersDeviceInfo(r.Stdin); err != nil {
			return nil, conf.Refuse(err)
		}
	}
	for i, a := range all {
		if infos[i], err = status.ReadDeviceInfo(r.Sandbox, a.Entry); err != nil {
			e.Log.Warn(err.Error())
		}
		for _, b := range a.chain.Builtins() {
			if b.Network == nil {
				continue // recorded, and refused by the present bounds
			}
			b.Result = results[i]
			description, err := b.Network.Describe(b.Attachment)
			if err != nil {
				return nil, a.errorf("describe", err)
			}
			for key, value := range description.Annotations {
				annotations[key] = status.Join(annotations[key], value)
			}
			if description.DeviceInfo == nil || r.Conf == nil && file == "" {
				continue
			}
			infos[i] = description.DeviceInfo
			infos[i].SeenBy(tx.Pod)
			if err := status.WriteDeviceInfo(ctx, r.Sandbox, a.IfName, file, infos[i]); err != nil {
				return nil, err
			}
		}
	}
	if r.Conf == nil || tx.Pod == nil {
		return nil, nil
	}
	return annotations, status.Publish(annotations, tx, results, infos, others)
}

// publish sets the annotations of a pod (describe).
func (e *Engine) publish(ctx context.Context, sandbox string, pod *conf.Pod, annotations map[string]string) error {
	if annotations == nil {
		return nil
	}
	err := delegates.Step(ctx, "publish network-status of pod %s", pod)
	if err == nil {
		err = e.Source.Publish(ctx, pod, sandbox, annotations)
	}
	if err != nil {
		return fmt.Errorf("publish what pod %s got: %w", pod, err)
	}
	return nil
}

// Republish publishes the attachments of a running pod if its annotations lack them. Elements
// that plexus has not written stay. It reports whether it published.
func (e *Engine) Republish(ctx context.Context, sandbox string, pod *conf.Pod) (bool, error) {
	var annotations map[string]string
	err := e.withRecord(ctx, sandbox, func(ctx context.Context, rec *journal.Record) error {
		tx := rec.Latest()
		if tx == nil || rec.Damage != "" || !status.Unpublished(tx, pod) {
			return nil
		}
		r, err := requestOf(tx, sandbox)
		if err == nil {
			annotations, err = e.describeRecorded(ctx, r, tx, e.open(sandbox, tx, tx.Attachments, r.Netns), status.Others(tx, pod))
		}
		return err
	})
	if err != nil || annotations == nil {
		return false, err
	}
	return true, e.publish(ctx, sandbox, pod, annotations) // without the lock: DEL does not wait for the API server
}

// describeRecorded is describe for recorded attachments.
func (e *Engine) describeRecorded(ctx context.Context, r *Request, tx *journal.Transaction, all []*attachment, others []json.RawMessage) (map[string]string, error) {
	results, err := tx.Results()
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.errChain != nil {
			return nil, a.errorf("describe", a.errChain)
		}
	}
	return e.describe(ctx, r, tx, all, results, others)
}

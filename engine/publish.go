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

// describe writes the device-info files and returns the annotations of the pod,
// network-status among them. others are the elements of network-status that plexus has not
// written.
func (e *Engine) describe(ctx context.Context, r *Request, tx *journal.Transaction, all []*attachment, results []*types100.Result, others []json.RawMessage) (map[string]string, error) {
	annotations, infos := map[string]string{}, make([]*conf.DeviceInfo, len(all))
	for i, a := range all {
		var err error
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
			if description.DeviceInfo == nil {
				continue
			}
			infos[i] = description.DeviceInfo
			if err := writeDeviceInfo(ctx, r, a.IfName, description.DeviceInfo); err != nil {
				return nil, err
			}
		}
	}
	if r.Conf == nil || tx.Pod == nil {
		return annotations, nil
	}
	return annotations, status.Publish(annotations, tx, results, infos, others)
}

// writeDeviceInfo writes the device-info of an attachment: to the attachment's own file, or to
// the file that the caller of a built-in under its own name has given.
func writeDeviceInfo(ctx context.Context, r *Request, ifName string, info *conf.DeviceInfo) error {
	file := ""
	if r.Conf == nil {
		var err error
		if file, err = status.CallersDeviceInfo(r.Stdin); err != nil || file == "" {
			return conf.Refuse(err)
		}
	}
	return status.WriteDeviceInfo(ctx, r.Sandbox, ifName, file, info)
}

// publish sets the annotations of the request's pod, if there is one.
func (e *Engine) publish(ctx context.Context, r *Request, tx *journal.Transaction, annotations map[string]string) error {
	if r.Conf == nil || tx.Pod == nil {
		return nil
	}
	return e.setAnnotations(ctx, r.Sandbox, tx.Pod, annotations)
}

// publishesLater reports whether Later publishes the annotations, after the commit: there is
// a pod, and its status needs no Retract.
func (e *Engine) publishesLater(r *Request, tx *journal.Transaction) bool {
	return e.Later != nil && r.Conf != nil && tx.Pod != nil && tx.StatusPlace == ""
}

func (e *Engine) setAnnotations(ctx context.Context, sandbox string, pod *conf.Pod, annotations map[string]string) error {
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
	annotations, err := e.unpublished(ctx, sandbox, pod)
	if err != nil || annotations == nil {
		return false, err
	}
	return true, e.setAnnotations(ctx, sandbox, pod, annotations)
}

// unpublished are the annotations of a pod whose network-status lacks an attachment, else nil.
func (e *Engine) unpublished(ctx context.Context, sandbox string, pod *conf.Pod) (map[string]string, error) {
	ctx, unlock, err := e.lock(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock() // before the API server is asked: DEL does not wait for it
	rec, err := e.Journal.Read(sandbox)
	if err != nil {
		return nil, err
	}
	tx := rec.Latest()
	if tx == nil || rec.Damage != "" || !status.Unpublished(tx, pod) {
		return nil, nil
	}
	r, err := requestOf(tx, sandbox)
	if err != nil {
		return nil, err
	}
	results, err := tx.Results()
	if err != nil {
		return nil, err
	}
	all, err := e.openAll(sandbox, tx, tx.Attachments, r.Netns)
	if err != nil {
		return nil, err
	}
	return e.describe(ctx, r, tx, all, results, status.Others(tx, pod))
}

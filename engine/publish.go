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

// describe writes the files about devices and gives the annotations that the pod will
// have, network-status among them. others are elements of it that somebody else has
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
				continue // recorded, and refused by now
			}
			b.Result = results[i]
			said, err := b.Network.Describe(b.Attachment)
			if err != nil {
				return nil, a.errorf("describe", err)
			}
			for key, value := range said.Annotations {
				annotations[key] = status.Join(annotations[key], value)
			}
			if said.DeviceInfo == nil {
				continue
			}
			infos[i] = said.DeviceInfo
			if err := writeDeviceInfo(ctx, r, a.IfName, said.DeviceInfo); err != nil {
				return nil, err
			}
		}
	}
	if r.Conf == nil || tx.Pod == nil {
		return annotations, nil
	}
	return annotations, status.Publish(annotations, tx, results, infos, others)
}

// writeDeviceInfo writes what a built-in says of an attachment: to the file that is its
// own, or to the one that a caller of the delegate alone has named.
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

// publishesLater reports whether the annotations go to Later, once the transaction is
// committed: the pod is known, and nothing that is written has to be retracted.
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

// Republish publishes what a running pod has got, if that is not on the pod; what
// others have written there stays. It reports whether it did.
func (e *Engine) Republish(ctx context.Context, sandbox string, pod *conf.Pod) (bool, error) {
	annotations, err := e.unpublished(ctx, sandbox, pod)
	if err != nil || annotations == nil {
		return false, err
	}
	return true, e.setAnnotations(ctx, sandbox, pod, annotations)
}

// unpublished are the annotations that a pod lacks, nil when it lacks none.
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

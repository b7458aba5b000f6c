package delegates

import (
	"context"
	"encoding/json"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// passthru is the plugin that does nothing: it begins a chain whose plugins want
// a prevResult, as Multus' plugin of that name does.
type passthru struct{}

func (passthru) Prepare(context.Context, conf.Attachment) (json.RawMessage, error) {
	return json.RawMessage("{}"), nil
}

func (passthru) Add(context.Context, conf.Attachment, json.RawMessage) (*types100.Result, error) {
	return &types100.Result{CNIVersion: types100.ImplementedSpecVersion}, nil
}

func (passthru) Check(context.Context, conf.Attachment, json.RawMessage) error { return nil }

func (passthru) Del(context.Context, conf.Attachment, json.RawMessage) error { return nil }

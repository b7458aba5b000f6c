package call

import (
	"context"

	"github.com/plexus-cni/plexus/engine"
)

// Serve does the verb. What it returns is the answer, nil for none.
func Serve(ctx context.Context, command string, e *engine.Engine, r *engine.Request) (any, error) {
	switch command {
	case "ADD":
		result, err := e.Add(ctx, r)
		if err != nil {
			return nil, err
		}
		if r.Conf != nil {
			return asVersion(result, r.Conf.CNIVersion)
		}
		return asVersion(result, versionOf(r.Stdin))
	case "DEL":
		return nil, e.Del(ctx, r)
	case "CHECK":
		return nil, e.Check(ctx, r)
	case "STATUS":
		return nil, e.Status(ctx, r)
	default: // GC: Call.required refuses all others
		valid, err := validAttachments(r.Stdin)
		if err != nil {
			return nil, err
		}
		return nil, e.GC(ctx, r, valid)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// inEngine times ADD and DEL of n networks in an engine that is kept, with its
// connections, as the node agent keeps it.
func (b *bench) inEngine(ctx context.Context, networks []any) (add, del time.Duration, err error) {
	data := encode(map[string]any{"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": filepath.Join(b.dir, "data"), "delegates": networks})
	settings, err := conf.Parse(data)
	if err != nil {
		return 0, 0, err
	}
	log := slog.New(slog.DiscardHandler)
	e := &engine.Engine{Delegates: engine.Builtin(log), Journal: journal.Open(settings.DataDir), Log: log, Stderr: io.Discard}
	r := &engine.Request{Conf: settings, Network: settings.Name, Stdin: data, Sandbox: "bench0123456789", Netns: b.pod.Path(), IfName: "eth0", Path: []string{b.bin}}
	var adds, dels []time.Duration
	for range b.runs {
		began := time.Now()
		_, errAdd := e.Add(ctx, r)
		added := time.Now()
		errDel := e.Del(ctx, r)
		if err := errors.Join(errAdd, errDel); err != nil {
			return 0, 0, fmt.Errorf("in the engine: %w", err)
		}
		adds, dels = append(adds, added.Sub(began)), append(dels, time.Since(added))
	}
	return middle(adds), middle(dels), nil
}

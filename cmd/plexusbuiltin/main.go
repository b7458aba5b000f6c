// Command plexusbuiltin is a built-in delegate (sriov, vppmemif, ovsdpdk, userspace) as a CNI
// plugin of its own: the name under which it is linked says which. It has the same engine and
// journal as plexusd, and no API server, agent or device plugin: an executable that links
// those needs twice the time to start.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

func main() { os.Exit(run(filepath.Base(os.Args[0]))) }

func run(as string) int {
	if as == "plexusbuiltin" || conf.IsOwnType(as) {
		_, _ = io.WriteString(os.Stderr, as+" is no built-in delegate: link plexusbuiltin as sriov, vppmemif, ovsdpdk or userspace\n")
		return 2
	}
	// A request that is cut short is undone before the process ends.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c := call.OSCall(as)
	return c.Alone(open, func(e *engine.Engine, r *engine.Request) (any, error) {
		return call.Serve(ctx, c.Getenv("CNI_COMMAND"), e, r)
	})
}

func open(settings *conf.Conf, log *slog.Logger, stderr io.Writer) *engine.Engine {
	return &engine.Engine{
		Delegates: engine.Builtin(log),
		Source:    noPods{},
		Journal:   journal.Open(settings.DataDir),
		Bounds:    settings.Bounds,
		Log:       log,
		Stderr:    stderr,
	}
}

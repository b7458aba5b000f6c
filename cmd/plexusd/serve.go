package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"k8s.io/klog/v2"

	"github.com/plexus-cni/plexus/agent"
)

// The agent shares the node with pods. Its heap is kept near what is alive, and its
// code runs on one processor at a time: it mostly waits, and a second one would look
// for work beside the plugins that it waits for.
const (
	gcPercent  = 100
	processors = 1
)

// serve is plexusd serve.
func serve(ctx context.Context, args []string, stderr io.Writer) int {
	s := agent.Settings{Stderr: stderr}
	var level slog.Level
	var h host
	f := flag.NewFlagSet("plexusd serve", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.Socket, "socket", agent.DefaultSocket, "unix `path` to serve; the key agent.socket of the configuration names it")
	f.StringVar(&s.DataDir, "data-dir", agent.DefaultDataDir, "`folder` of the journal; the key dataDir of the configuration")
	f.StringVar(&s.ConfDir, "conf-dir", agent.DefaultConfDir, "`folder` of network files; the key confDir of the configuration")
	f.StringVar(&s.Kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: the service account of the pod)")
	f.BoolVar(&s.Standalone, "standalone", false, "there is no API server: pods and networks come from the folder that the configuration names (manifests)")
	f.StringVar(&s.Node, "node", os.Getenv("NODE_NAME"), "`name` of this node in the cluster (default: NODE_NAME in the environment)")
	f.StringVar(&s.Listen, "listen", "", "TCP `address` to read from, over TLS and for tokens that the API server knows (default: none)")
	f.DurationVar(&s.Reconcile, "reconcile", 5*time.Minute, "`time` between comparisons of the journal with the world")
	f.DurationVar(&s.Grace, "grace", 5*time.Minute, "`time` after which a sandbox is undone whose network namespace is gone and whose pod does not run")
	h.flags(f)
	f.TextVar(&level, "log-level", slog.LevelInfo, "`level`: DEBUG, INFO, WARN or ERROR")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.NArg() > 0 {
		fmt.Fprintf(stderr, "plexusd serve: %q is no flag\n", f.Arg(0))
		return 2
	}
	if s.Reconcile < time.Second || s.Grace < time.Second {
		fmt.Fprintln(stderr, "plexusd serve: --reconcile and --grace want a second or more")
		return 2
	}
	s.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(s.Log)
	debug.SetGCPercent(gcPercent)
	runtime.GOMAXPROCS(processors)
	return onNode(ctx, &h, s)
}

// Command plexusd does the work of plexus: `plexusd cni [NAME]` answers one CNI
// request, as plexus or as the built-in delegate NAME; `plexusd serve` is the
// node agent.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/call"
)

const usage = `usage: plexusd cni [NAME]
       plexusd serve [FLAGS]
       plexusd version

  cni    answer the CNI request in the environment and on standard input;
         NAME is the plugin to be: plexus (the default), sriov, vppmemif, ovsdpdk, userspace
  serve  be the node agent; plexusd serve -h lists the flags
`

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	// A request that is cut short is undone before the process ends.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch {
	case len(args) > 0 && args[0] == "serve":
		return serve(ctx, args[1:], os.Stderr)
	case len(args) == 1 && (args[0] == "version" || args[0] == "--version"):
		fmt.Println("plexusd", call.Version())
		return 0
	case len(args) == 1 && args[0] == "cni":
		return agent.Answer(ctx, call.OSCall("plexus"))
	case len(args) == 2 && args[0] == "cni":
		return agent.Answer(ctx, call.OSCall(args[1]))
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

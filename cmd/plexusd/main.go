// Command plexusd does the work of plexus: `plexusd cni [NAME]` answers one CNI
// request, as plexus or as the built-in delegate NAME.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/plexus-cni/plexus/agent"
)

const usage = `usage: plexusd cni [NAME]

  cni    answer the CNI request in the environment and on standard input;
         NAME is the plugin to be: plexus (the default), ovsdpdk, vppmemif, userspace
`

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) < 1 || len(args) > 2 || args[0] != "cni" {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	as := "plexus"
	if len(args) == 2 {
		as = args[1]
	}
	// A request that is cut short is undone before the process ends.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return agent.Answer(ctx, agent.OSCall(as))
}

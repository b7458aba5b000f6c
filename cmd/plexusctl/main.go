// Command plexusctl is the operator's tool: it wires a pod as a runtime would,
// checks files before they are used, and shows what is recorded.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "plexusctl:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "plexusctl",
		Short:         "Wire pods by hand, validate files, show what plexus has recorded",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		wireCommand("add", "ADD", "Attach a pod to its networks and print the CNI result"),
		wireCommand("del", "DEL", "Detach a pod from its networks"),
		wireCommand("check", "CHECK", "Compare a pod's attachments with what is recorded"),
		validateCommand(),
		showCommand(),
		migrateCommand(),
	)
	return root
}

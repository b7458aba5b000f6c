// Command plexusctl is the operator's tool: it shows the state of the node
// agent, wires a pod as a runtime would, checks files before they are used, and shows the
// journal. As kubectl-plexus it asks the agents of a cluster.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/call"
)

// kubectlName is the executable's name by which kubectl finds `kubectl plexus`.
const kubectlName = "kubectl-plexus"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, filepath.Base(os.Args[0]), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command, under the name that it was executed by. It returns
// the exit status: 1 when it failed, or found what it was to look for.
func run(ctx context.Context, name string, args []string, stdout, stderr io.Writer) int {
	c := command()
	if name == kubectlName {
		c = kubectlCommand()
	}
	c.Version = call.Version()
	c.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	c.AddCommand(&cobra.Command{Use: "version", Short: "Show the version, and the commit that it was built from", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := fmt.Fprintln(stdout, c.DisplayName(), c.Version)
		return err
	}})
	c.SetArgs(args)
	c.SetOut(stdout)
	c.SetErr(stderr)
	if err := c.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, c.DisplayName()+":", cleanLines(err.Error()))
		return 1
	}
	return 0
}

// command is plexusctl, on a node.
func command() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "plexusctl",
		Short:         "Ask the node agent, wire pods by hand, validate files, show what plexus has recorded",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	o.flags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&o.host, "host", "", "`folder` that is put before the socket's path: where the node's root is seen")
	root.AddCommand(inspection(o)...)
	root.AddCommand(
		wireCommand(o, "add", "ADD", "Attach a pod to its networks and print the CNI result"),
		wireCommand(o, "del", "DEL", "Detach a pod from its networks"),
		checkCommand(o, &wire{verb: "CHECK"}),
		validateCommand(),
		showCommand(),
		migrateCommand(),
	)
	return root
}

// inspection are the commands that ask agents, on a node and in a cluster.
func inspection(o *options) []*cobra.Command {
	return []*cobra.Command{
		healthCommand(o), nodesCommand(o), podsCommand(o), explainCommand(o), historyCommand(o), resyncCommand(o), reclaimCommand(o),
	}
}

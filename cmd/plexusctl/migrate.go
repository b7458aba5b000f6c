package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/node"
)

func migrateCommand() *cobra.Command {
	var n node.Multus
	var binDirs string
	var apply, back bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Move this node from Multus to plexus, or back",
		Long: `Reads Multus' configuration, its cache and libcni's, and prints what plexus would
have instead; --apply writes it: the journal, from which plexus undoes the pods
that are running, then the configuration, in place of Multus'. What Multus'
plugins have attached they undo themselves, so their executables have to stay
until those pods are gone. --back is the way back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n.BinDirs = filepath.SplitList(binDirs)
			if back {
				return goBack(cmd, n, apply)
			}
			m, err := node.FromMultus(n)
			if err != nil {
				return err
			}
			printMigration(cmd.OutOrStdout(), m)
			if !apply {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing is changed: --apply does it")
				return nil
			}
			return m.Apply(cmd.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&n.ConfDir, "conf-dir", node.DefaultPaths().ConfDir, "folder of the runtime's network configurations")
	f.StringVar(&n.CacheDir, "cni-cache", "", "libcni's cache (default: Multus', where it is since 3.8)")
	f.StringVar(&n.Delegates, "multus-cache", "", "Multus' cache (default: as its configuration says)")
	f.StringVar(&binDirs, "cni-path", "/opt/cni/bin", "folders of the plugins' executables, separated by ':'")
	f.BoolVar(&apply, "apply", false, "do it")
	f.BoolVar(&back, "back", false, "from plexus to Multus")
	return c
}

func printMigration(w io.Writer, m *node.Migration) {
	fmt.Fprintf(w, "in place of %s:\n%s\n", m.From, m.Conf)
	for _, key := range m.Dropped {
		fmt.Fprintf(w, "left out: key %q has no effect in plexus\n", key)
	}
	for _, rec := range m.Records {
		for _, tx := range rec.Transactions {
			fmt.Fprintf(w, "sandbox %s, pod %s:", rec.Sandbox, tx.Pod)
			for _, e := range tx.Attachments {
				fmt.Fprintf(w, " %s=%s", e.IfName, e.Name)
			}
			fmt.Fprintln(w)
		}
	}
	for _, what := range m.Missing {
		fmt.Fprintln(w, "missing:", what)
	}
	for _, why := range m.Left {
		fmt.Fprintln(w, "cannot be moved:", why)
	}
}

func goBack(cmd *cobra.Command, n node.Multus, apply bool) error {
	b, err := node.ToMultus(n, isBuiltin)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s goes, %s comes back; %d sandboxes\n", b.From, b.To, len(b.Caches))
	for _, why := range b.Left {
		fmt.Fprintln(w, "cannot be moved:", why)
	}
	if !apply {
		fmt.Fprintln(w, "nothing is changed: --apply does it")
		return nil
	}
	return b.Apply(cmd.Context())
}

// isBuiltin reports whether plexus itself attaches networks of a type.
func isBuiltin(typ string) bool { return engine.Builtin(nil).Has(typ) }

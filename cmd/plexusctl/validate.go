package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
)

func validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check pods, networks and configurations before they are used",
		Long: `Check pods, networks and configurations before they are used.

Manifests are YAML or JSON as kubectl apply takes them; *.conf and *.conflist
are CNI configurations. Each problem is told with file, document and key. What a
pod asks for is held against the networks of the same files.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			problems, documents := 0, 0
			networks := networksOf(files)
			for _, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				n, findings := agent.Validate(file, data, networks...)
				documents += n
				for _, f := range findings {
					if !f.Warning {
						problems++
					}
					fmt.Fprintln(cmd.OutOrStdout(), f)
				}
			}
			if problems > 0 {
				return fmt.Errorf("%d problems in %d documents", problems, documents)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d documents are valid\n", documents)
			return nil
		},
	}
}

// networksOf are the networks of files. What cannot be read its own check says.
func networksOf(files []string) (all []*conf.Definition) {
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			all = append(all, agent.Networks(file, data)...)
		}
	}
	return all
}

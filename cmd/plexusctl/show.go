package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

func showCommand() *cobra.Command {
	var dataDir, confFile, output string
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the attachments that are recorded in the journal",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dataDir == "" {
				dir, err := dataDirOf(confFile)
				if err != nil {
					return err
				}
				dataDir = dir
			}
			shown, err := readJournal(delegates.OpenJournal(dataDir))
			if err != nil {
				return err
			}
			switch output {
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(shown)
			case "table":
				return shown.table(cmd.OutOrStdout())
			}
			return fmt.Errorf("flag --output %q, allowed are table, json", output)
		},
	}
	c.Flags().StringVar(&dataDir, "data-dir", "", "folder of the journal (default: that of the configuration)")
	c.Flags().StringVar(&confFile, "conf", "", "plexus configuration (default: the first one of type plexus in "+confDir+")")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func dataDirOf(file string) (string, error) {
	w := wire{conf: file}
	if file == "" {
		if found, _, err := findConf(confDir); err != nil || found == "" {
			return conf.DefaultDataDir, err
		}
	}
	data, err := w.readConf()
	if err != nil {
		return "", err
	}
	c, err := conf.Parse(data)
	if err != nil {
		return "", err
	}
	return c.DataDir, nil
}

// journal is what show shows.
type journal struct {
	Sandboxes []*delegates.Record `json:"sandboxes"`
	Damaged   []string            `json:"damaged"` // unusable files and those that were set aside
}

func readJournal(j *delegates.Journal) (*journal, error) {
	sandboxes, err := j.Sandboxes()
	if err != nil {
		return nil, err
	}
	shown := &journal{Sandboxes: []*delegates.Record{}, Damaged: []string{}}
	for _, sandbox := range sandboxes {
		rec, err := j.Read(sandbox)
		switch {
		case err != nil:
			shown.Damaged = append(shown.Damaged, err.Error())
		case rec != nil: // else it was detached meanwhile
			shown.Sandboxes = append(shown.Sandboxes, rec)
		}
	}
	aside, err := j.Damaged()
	shown.Damaged = append(shown.Damaged, aside...)
	return shown, err
}

func (s *journal) table(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SANDBOX\tPOD\tINTERFACE\tNETWORK\tDELEGATE\tADDRESSES\tSTATE")
	for _, rec := range s.Sandboxes {
		for _, tx := range rec.Transactions {
			for _, entry := range tx.Attachments {
				pod := "-"
				if tx.Pod != nil {
					pod = tx.Pod.String()
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", abbreviate(rec.Sandbox), pod, entry.IfName, entry.Name,
					strings.Join(entry.List.Types(), "+"), addresses(entry), tx.Phase)
			}
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, d := range s.Damaged {
		fmt.Fprintln(out, "damaged:", d)
	}
	return nil
}

func abbreviate(sandbox string) string {
	if len(sandbox) > 20 {
		return sandbox[:17] + "..."
	}
	return sandbox
}

func addresses(entry *delegates.Entry) string {
	var r types100.Result
	if json.Unmarshal(entry.Result, &r) != nil || len(r.IPs) == 0 {
		return "-"
	}
	list := make([]string, len(r.IPs))
	for i, ip := range r.IPs {
		list[i] = ip.Address.String()
	}
	return strings.Join(list, ",")
}

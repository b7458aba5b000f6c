package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

func showCommand() *cobra.Command {
	var dataDir, confFile string
	var f *form
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the attachments that are recorded in the journal; it needs no agent",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dataDir == "" {
				dir, err := dataDirOf(confFile)
				if err != nil {
					return err
				}
				dataDir = dir
			}
			shown, err := readJournal(journal.Open(dataDir))
			if err != nil {
				return err
			}
			answer, err := json.Marshal(shown)
			if err == nil {
				answer, err = conf.Redact(answer)
			}
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), answer, func() error { return shown.table(cmd.OutOrStdout(), *f) })
		},
	}
	c.Flags().StringVar(&dataDir, "data-dir", "", "folder of the journal (default: that of the configuration)")
	c.Flags().StringVar(&confFile, "conf", "", "plexus configuration (default: the first one of type plexus in "+confDir+")")
	f = formFlag(c)
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

// journalView is what show shows: the records, and the files that cannot be used.
type journalView struct {
	Sandboxes []*journal.Record `json:"sandboxes"`
	Damaged   []string          `json:"damaged"` // files that are unusable or damaged behind their record, and those that were set aside
}

func readJournal(j *journal.Journal) (*journalView, error) {
	sandboxes, err := j.Sandboxes()
	if err != nil {
		return nil, err
	}
	shown := &journalView{Sandboxes: []*journal.Record{}, Damaged: []string{}}
	for _, sandbox := range sandboxes {
		rec, err := j.Read(sandbox)
		switch {
		case err != nil:
			shown.Damaged = append(shown.Damaged, err.Error())
		case rec != nil: // else it was detached meanwhile
			shown.Sandboxes = append(shown.Sandboxes, rec)
			if rec.Damage != "" {
				shown.Damaged = append(shown.Damaged, rec.Damage)
			}
		}
	}
	aside, err := j.Damaged()
	shown.Damaged = append(shown.Damaged, aside...)
	return shown, err
}

func (s *journalView) table(out io.Writer, f form) error {
	head := []string{"SANDBOX", "POD", "INTERFACE", "NETWORK", "DELEGATE", "ADDRESSES", "STATE"}
	if f == asWide {
		head = wideHead()
	}
	t := (&options{}).table(out, head...)
	for _, rec := range s.Sandboxes {
		for _, m := range attachmentRows(rec) {
			if f == asWide {
				t.row("", m.wide()...)
			} else {
				t.row("", short(rec.Sandbox, f), m.pod, m.ifName, m.network, m.delegate, m.ips, m.state)
			}
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	for _, d := range s.Damaged {
		fmt.Fprintln(out, "damaged:", clean(d))
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

func explainCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "explain POD",
		Short: "Show what a pod asks for, what is recorded and what is there, side by side",
		Long: `Show a pod's interfaces, each with what would be made now (PLAN), what was made
(JOURNAL), and what kernel and vswitches have (DATAPATH). Lines that differ begin
with "!". POD is NAME or NAMESPACE/NAME. -o wide shows counters, the whole
configuration, and the pod's last requests with their steps.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.completePods,
	}
	f := formFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		pod, err := o.pod(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		q := question{method: "GET", path: "/v1/explain", query: url.Values{"pod": {pod}}, words: []string{"explain", pod}}
		if o.cluster != nil {
			q.node = o.cluster.nodeOf(cmd.Context(), o.timeout, pod)
		}
		replies, failed := o.ask(cmd.Context(), cmd.ErrOrStderr(), q)
		if len(replies) == 0 {
			return failed
		}
		all, err := decodeReplies[agent.Explanation](replies)
		if err != nil {
			return err
		}
		if o.cluster != nil {
			replies, all = withoutUnknown(replies, all)
		}
		err = o.show(cmd, *f, replies, func() error {
			for _, x := range all {
				if err := printExplanation(cmd.OutOrStdout(), *f, &x.answer); err != nil {
					return err
				}
			}
			return nil
		})
		if !slices.ContainsFunc(all, func(x nodeAnswer[agent.Explanation]) bool { return len(x.answer.Journal) > 0 }) {
			err = errors.Join(err, fmt.Errorf("nothing is recorded of pod %s", pod))
		}
		return errors.Join(err, failed)
	}
	return c
}

// withoutUnknown leaves out nodes without a record or an event of the pod.
func withoutUnknown(replies []reply, all []nodeAnswer[agent.Explanation]) (r []reply, some []nodeAnswer[agent.Explanation]) {
	for i, x := range all {
		if len(x.answer.Journal) > 0 || len(x.answer.History) > 0 {
			r, some = append(r, replies[i]), append(some, x)
		}
	}
	return r, some
}

// printExplanation prints one node's explanation.
func printExplanation(out io.Writer, f form, x *agent.Explanation) error {
	fmt.Fprintf(out, "pod %s%s\n", clean(x.Pod), onNode(x.Node))
	if x.Annotation != "" {
		fmt.Fprintf(out, "annotation: %s\n", clean(strings.TrimSpace(x.Annotation)))
	}
	for _, warning := range x.Warnings {
		fmt.Fprintf(out, "warning: %s\n", clean(warning))
	}
	if x.Unpublished != "" {
		fmt.Fprintf(out, "! network-status is not published: %s\n", clean(x.Unpublished))
	}
	if x.Error != "" && len(x.Journal) > 0 { // else the command's error says it
		fmt.Fprintf(out, "! %s\n", clean(x.Error))
	}
	for _, b := range blocks(x) {
		if err := b.print(out, f, len(x.Journal) > 1); err != nil {
			return err
		}
	}
	if len(x.History) > 0 && (f == asWide || len(x.Journal) == 0) {
		fmt.Fprintln(out)
		var events []nodeAnswer[agent.Event]
		for _, e := range x.History {
			events = append(events, nodeAnswer[agent.Event]{answer: e})
		}
		return (&options{}).historyTable(out, f, events)
	}
	return nil
}

// block is one interface with its plan, its record and its datapath; each may be nil.
type block struct {
	sandbox  string
	planned  bool // there is a plan at all
	plan     *conf.Network
	phase    journal.Phase // of the entry
	entry    *journal.Entry
	datapath *engine.Datapath
}

// blocks puts side by side what belongs to the same interface: first what is
// recorded, then what is only planned. The datapath's elements are in the order
// of the journal's, but for records that could not be looked at.
func blocks(x *agent.Explanation) []block {
	var all []block
	left := x.Datapath
	seen := map[string]bool{}
	for _, rec := range x.Journal {
		var some []block
		for _, tx := range rec.Transactions {
			for _, entry := range tx.Attachments {
				b := block{sandbox: rec.Sandbox, planned: len(x.Plan) > 0, entry: entry, phase: tx.Phase}
				if entry.Phase != "" {
					b.phase = entry.Phase
				}
				for i := range x.Plan {
					if x.Plan[i].IfName == entry.IfName {
						b.plan = &x.Plan[i]
						seen[entry.IfName] = true
					}
				}
				some = append(some, b)
			}
		}
		if ofRecord(some, left) {
			for i := range some {
				some[i].datapath = &left[i]
			}
			left = left[len(some):]
		}
		all = append(all, some...)
	}
	for i := range x.Plan {
		if !seen[x.Plan[i].IfName] {
			all = append(all, block{planned: true, plan: &x.Plan[i]})
		}
	}
	return all
}

// ofRecord says that the first elements of datapath are those of a record.
func ofRecord(some []block, datapath []engine.Datapath) bool {
	if len(datapath) < len(some) {
		return false
	}
	for i, b := range some {
		if datapath[i].IfName != b.entry.IfName || datapath[i].Network != b.entry.Name {
			return false
		}
	}
	return true
}

// print writes a block. Its sandbox is named where there are several.
func (b *block) print(out io.Writer, f form, several bool) error {
	ifName := ""
	if b.entry != nil {
		ifName = b.entry.IfName
	} else {
		ifName = b.plan.IfName
	}
	fmt.Fprintf(out, "\n%s", clean(ifName))
	if several && b.sandbox != "" {
		fmt.Fprintf(out, " of sandbox %s", clean(b.sandbox))
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  \tPLAN\tJOURNAL\tDATAPATH")
	for _, l := range b.lines(f == asWide) {
		mark := "  "
		if l.differs {
			mark = "! "
		}
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", mark, clean(l.key), cell(l.plan, f), cell(l.journal, f), cell(l.datapath, f))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	switch {
	case b.entry == nil:
		fmt.Fprintln(out, "! it is planned, and not attached")
	case b.planned && b.plan == nil:
		fmt.Fprintln(out, "! it is attached, and not planned any more")
	}
	if b.datapath != nil && b.datapath.Differences != "" {
		for _, line := range slices.Compact(cleaned(b.datapath.Differences)) { // two checks may report the same
			fmt.Fprintln(out, "!", line)
		}
	}
	return nil
}

// maxCell bounds what is shown of a value, in characters.
const maxCell = 48

func cell(text string, f form) string {
	if text == "" {
		return "-"
	}
	text = clean(text)
	if short := []rune(text); f != asWide && len(short) > maxCell && !strings.HasPrefix(text, "/") { // a path is of no use in part
		return string(short[:maxCell-1]) + "…"
	}
	return text
}

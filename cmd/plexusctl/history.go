package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
)

func historyCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "history [POD|SANDBOX]",
		Short: "Show the last requests and what the agent did on its own, newest first",
		Long: `Show the last requests and what the agent did on its own, newest first: of all
pods, of a POD (NAME or NAMESPACE/NAME), or of a SANDBOX (the beginning of its
ID). -o wide shows each step, and what was undone. The agent keeps 400 of them
and none when it is restarted.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completePods,
	}
	f := formFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		word := strings.Join(args, "")
		replies, failed := o.askAbout(cmd.Context(), cmd.ErrOrStderr(), question{method: "GET", path: "/v1/history", words: []string{"history"}}, word)
		all, err := decodeReplies[[]agent.Event](replies)
		if err != nil {
			return err
		}
		err = o.show(cmd, *f, replies, func() error { return o.historyTable(cmd.OutOrStdout(), *f, flat(all)) })
		return errors.Join(err, failed, notFoundError(replies, word))
	}
	return c
}

// notFoundError is the error of a pod or a sandbox that no agent has.
func notFoundError(replies []reply, word string) error {
	if word == "" || len(replies) == 0 || !empty(replies) {
		return nil
	}
	return fmt.Errorf("nothing is known of %q", word)
}

// flat are the elements of all nodes' lists.
func flat[T any](all []nodeAnswer[[]T]) []nodeAnswer[T] {
	var list []nodeAnswer[T]
	for _, node := range all {
		for _, one := range node.answer {
			list = append(list, nodeAnswer[T]{node.node, one})
		}
	}
	return list
}

func (o *options) historyTable(out io.Writer, f form, events []nodeAnswer[agent.Event]) error {
	slices.SortStableFunc(events, func(a, b nodeAnswer[agent.Event]) int { return b.answer.Time.Compare(a.answer.Time) })
	var lines bytes.Buffer
	t := o.table(&lines, "TIME", "VERB", "POD", "SANDBOX", "TOOK", "RESULT")
	for _, e := range events {
		t.row(e.node, e.answer.Time.UTC().Format(time.RFC3339), e.answer.Verb, e.answer.Pod, short(e.answer.Sandbox, asTable), took(e.answer.Took), result(e.answer))
	}
	if err := t.end(); err != nil {
		return err
	}
	for i, line := range strings.SplitAfter(lines.String(), "\n") { // the first is the head
		fmt.Fprint(out, line)
		if i > 0 && i <= len(events) && f == asWide {
			steps(out, events[i-1].answer)
		}
	}
	return nil
}

// steps are what a transaction did, a line each.
func steps(out io.Writer, e agent.Event) {
	for _, s := range e.Steps {
		mark := ""
		if s.Undoes {
			mark = "undo: "
		}
		fmt.Fprintf(out, "  %9.3f ms  %s%s\n", s.At, mark, clean(s.What))
	}
	if e.Left > 0 {
		fmt.Fprintf(out, "  and %d steps that are not kept\n", e.Left)
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func result(e agent.Event) string {
	switch {
	case e.Took == 0:
		return "under way"
	case e.Error == "":
		return "ok"
	}
	return e.Error
}

func took(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}

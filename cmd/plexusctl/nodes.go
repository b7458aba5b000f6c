package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
)

func healthCommand(o *options) *cobra.Command {
	var live bool
	c := &cobra.Command{
		Use:   "health",
		Short: "Say whether the node agent serves; the exit status is 0 then",
		Long: `Say whether the node agent serves as it should: the API server has been read, and
plexus is the runtime's first configuration where the agent installs it. If it does
not, the reason is told and the exit status is 1. It is what probes execute.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := question{method: "GET", path: "/readyz", words: []string{"health"}, text: true}
			if live {
				q.path, q.words = "/healthz", []string{"health", "--live"}
			}
			replies, err := o.ask(cmd.Context(), cmd.ErrOrStderr(), q)
			var refused *agent.RefusedError
			if errors.As(err, &refused) {
				return fmt.Errorf("the node agent is not ready: %s", refused.Text)
			}
			for _, r := range replies {
				if r.node != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: ", clean(r.node))
				}
				fmt.Fprintln(cmd.OutOrStdout(), cleanLines(string(r.data)))
			}
			return err
		},
	}
	c.Flags().BoolVar(&live, "live", false, "ask only whether it answers")
	return c
}

func nodesCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "nodes", Short: "Show the state of the node agent", Args: cobra.NoArgs}
	if o.cluster != nil {
		c.Short = "Show the states of the node agents"
	}
	f := formFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		replies, failed := o.ask(cmd.Context(), cmd.ErrOrStderr(), question{method: "GET", path: "/v1/node", words: []string{"nodes"}})
		return errors.Join(o.show(cmd, *f, replies, func() error { return o.nodesTable(cmd, *f, replies) }), failed)
	}
	return c
}

// show prints answers, if there are any.
func (o *options) show(cmd *cobra.Command, f form, replies []reply, people func() error) error {
	if len(replies) == 0 {
		return nil
	}
	answer, err := o.mergeReplies(replies)
	if err != nil {
		return err
	}
	return f.print(cmd.OutOrStdout(), answer, people)
}

func (o *options) nodesTable(cmd *cobra.Command, f form, replies []reply) error {
	all, err := decodeReplies[agent.NodeInfo](replies)
	if err != nil {
		return err
	}
	head := []string{"READY", "SANDBOXES", "ATTACHMENTS", "UNFINISHED", "DAMAGED", "DIFFERENCES", "UNPUBLISHED"}
	if f == asWide {
		head = append(head, "VERSION", "PROTOCOL")
	}
	t := newTable(cmd.OutOrStdout(), true, head...)
	for _, n := range all {
		i := n.answer
		cells := []string{yes(i.Ready), strconv.Itoa(i.Sandboxes), strconv.Itoa(i.Attachments), strconv.Itoa(i.Unfinished), strconv.Itoa(i.Damaged), strconv.Itoa(i.Differences), strconv.Itoa(i.Unpublished)}
		if f == asWide {
			cells = append(cells, i.Version, strconv.Itoa(i.Protocol))
		}
		t.row(cmp.Or(n.node, i.Node), cells...)
	}
	if err := t.end(); err != nil {
		return err
	}
	for _, n := range all {
		if !n.answer.Ready {
			fmt.Fprintf(cmd.OutOrStdout(), "not ready%s: %s\n", onNode(n.answer.Node), clean(n.answer.Why))
		}
		for _, w := range n.answer.Warnings {
			fmt.Fprintf(cmd.OutOrStdout(), "warning%s: %s\n", onNode(n.answer.Node), clean(w))
		}
	}
	return nil
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

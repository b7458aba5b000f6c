package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
)

func reclaimCommand(o *options) *cobra.Command {
	var force bool
	var abandon []string
	var dataDir string
	c := &cobra.Command{
		Use:   "reclaim SANDBOX",
		Short: "Undo what is recorded of a sandbox that no runtime will delete, or cannot",
		Long: `Undo all that is recorded of a sandbox, the beginning of whose ID is given. One
whose network namespace is there is refused without --force, as its pod would
lose its networks, unless DEL was asked for and has failed.

An attachment stays recorded, and DEL fails, while the executables that made it
do not undo it. --abandon gives it up: they are asked once more, then it is
dropped, and what they may have left is told by the log, the history, an event
on the pod and the metric plexus_abandoned_total. All else is undone. What
plexus itself has made is never given up.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := formFlag(c)
	c.Flags().BoolVar(&force, "force", false, "even if a pod may be running")
	c.Flags().StringSliceVar(&abandon, "abandon", nil, "give up the attachment of this `interface` or network; may be repeated")
	if o.cluster == nil {
		c.Flags().StringVar(&dataDir, "data-dir", "", "by the journal in this `folder`, without the agent")
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		sandbox := args[0]
		if !sandboxForm.MatchString(sandbox) {
			return fmt.Errorf("%.80q is no sandbox: want the beginning of a container ID", sandbox)
		}
		if dataDir != "" {
			return reclaimAlone(cmd.Context(), dataDir, sandbox, force, abandon, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}
		q := question{method: "POST", path: "/v1/reclaim", words: []string{"reclaim"}}
		if o.cluster != nil {
			var err error
			if q.node, sandbox, err = o.findSandbox(cmd, sandbox); err != nil {
				return err
			}
		}
		q.query, q.words = url.Values{"sandbox": {sandbox}}, append(q.words, sandbox)
		if force {
			q.query.Set("force", "true")
			q.words = append(q.words, "--force")
		}
		for _, name := range abandon {
			q.query.Add("abandon", name)
			q.words = append(q.words, "--abandon", name)
		}
		replies, failed := o.ask(cmd.Context(), cmd.ErrOrStderr(), q)
		all, err := decodeReplies[agent.Reclaimed](replies)
		if err != nil {
			return err
		}
		return errors.Join(o.show(cmd, *f, replies, func() error {
			for _, c := range all {
				showReclaimed(cmd.OutOrStdout(), &c.answer, c.node)
			}
			return nil
		}), failed)
	}
	return c
}

func showReclaimed(out io.Writer, r *agent.Reclaimed, node string) {
	for _, what := range r.Abandoned {
		fmt.Fprintln(out, cleanLines(what))
	}
	if r.Kept {
		return
	}
	fmt.Fprintf(out, "sandbox %s of pod %s is undone%s\n", clean(r.Sandbox), clean(orDash(r.Pod)), onNode(node))
}

// reclaimAlone undoes a sandbox without the agent, by the journal in dataDir.
func reclaimAlone(ctx context.Context, dataDir, sandbox string, force bool, abandon []string, stdout, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := agent.Reclaim(ctx, dataDir, sandbox, force, abandon, log, stderr)
	if err != nil {
		return err
	}
	showReclaimed(stdout, r, "")
	return nil
}

// findSandbox finds the one sandbox of the cluster whose ID begins so, and its
// node. Nothing is undone on a node because of what another one has.
func (o *options) findSandbox(cmd *cobra.Command, beginning string) (node, sandbox string, err error) {
	replies, failed := o.ask(cmd.Context(), cmd.ErrOrStderr(), question{method: "GET", path: "/v1/attachments", words: []string{"pods"}})
	all, err := decodeReplies[agent.Attachments](replies)
	if err != nil {
		return "", "", err
	}
	found := 0
	for _, a := range all {
		for _, rec := range a.answer.Sandboxes {
			if strings.HasPrefix(rec.Sandbox, beginning) {
				node, sandbox = a.node, rec.Sandbox
				found++
			}
		}
	}
	switch found {
	case 0:
		return "", "", errors.Join(fmt.Errorf("no sandbox %.80q is recorded", beginning), failed)
	case 1:
		return node, sandbox, nil
	}
	return "", "", fmt.Errorf("%d sandboxes begin with %.80q: give more of it", found, beginning)
}

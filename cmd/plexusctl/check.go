package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/engine"
)

// checkCommand asks agents to compare. Without one, w does it for one pod.
func checkCommand(o *options, w *wire) *cobra.Command {
	c := &cobra.Command{
		Use:   "check [POD|SANDBOX]",
		Short: "Compare what is recorded with what is there; the exit status is 1 if it differs",
		Long: `Compare what is recorded with what is there: of all pods, of a POD (NAME or
NAMESPACE/NAME), or of a SANDBOX (the beginning of its ID). Nothing is changed;
the exit status is 1 when something differs.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completePods,
	}
	f := formFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		word := strings.Join(args, "")
		replies, failed := o.askAbout(cmd.Context(), cmd.ErrOrStderr(), question{method: "POST", path: "/v1/check", words: []string{"check"}}, word)
		all, err := decodeReplies[[]agent.Checked](replies)
		if err != nil {
			return err
		}
		list := flat(all)
		err = o.show(cmd, *f, replies, func() error {
			t := o.table(cmd.OutOrStdout(), "POD", "SANDBOX", "RESULT")
			for _, c := range list {
				text := c.answer.Error
				if text == "" {
					text = "ok"
				}
				t.rows(text, c.node, orDash(c.answer.Pod), short(c.answer.Sandbox, *f))
			}
			return t.end()
		})
		return errors.Join(err, differ(list), failed, notFoundError(replies, word))
	}
	if w == nil {
		return c
	}
	c.Use += " [--netns PATH]"
	c.Long += `

With --netns or --sandbox it is a CHECK as the runtime makes it, of POD, which
needs no agent.`
	flags := w.flags(c)
	ask := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if w.netns == "" && w.sandbox == "" {
			for _, name := range flags {
				if cmd.Flags().Changed(name) {
					return fmt.Errorf("flag --%s is for a CHECK without the agent, which needs --netns too", name)
				}
			}
			return ask(cmd, args)
		}
		if len(args) != 1 {
			return errors.New("check --netns: want POD, NAME or NAMESPACE/NAME")
		}
		if cmd.Flags().Changed("output") {
			return errors.New("flag --output is for what the agent answers, without --netns and --sandbox")
		}
		return w.run(cmd.Context(), o.named(args[0]), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return c
}

func differ(list []nodeAnswer[agent.Checked]) error {
	n := 0
	for _, c := range list {
		if c.answer.Error != "" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d sandboxes differ from what is recorded", n, len(list))
}

func resyncCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "resync",
		Short: "Have the agent compare and repair now, and show what it found",
		Long: `Have the agent do now what it does from time to time: undo what was cut short,
make again what a vswitch has lost, and tell what differs.`,
		Args: cobra.NoArgs,
	}
	f := formFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		replies, failed := o.ask(cmd.Context(), cmd.ErrOrStderr(), question{method: "POST", path: "/v1/resync", words: []string{"resync"}})
		all, err := decodeReplies[[]engine.Finding](replies)
		if err != nil {
			return err
		}
		list := flat(all)
		return errors.Join(o.show(cmd, *f, replies, func() error {
			if len(list) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "what is recorded is there; nothing had to be done")
				return err
			}
			t := o.table(cmd.OutOrStdout(), "POD", "SANDBOX", "INTERFACE", "NETWORK", "KIND", "WHAT")
			for _, n := range list {
				pod := "-"
				if n.answer.Pod != nil {
					pod = n.answer.Pod.String()
				}
				t.rows(n.answer.What, n.node, pod, short(n.answer.Sandbox, *f), orDash(n.answer.IfName), orDash(n.answer.Network), string(n.answer.Kind))
			}
			return t.end()
		}), failed)
	}
	return c
}

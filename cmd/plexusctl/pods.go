package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/spf13/cobra"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/journal"
)

// attachmentRow is a recorded attachment as text; missing values are "".
type attachmentRow struct {
	sandbox, pod, ifName, network, delegate, device, mac, ips, state, since string
}

// attachmentRows are the attachments of a sandbox. A sandbox without attachments has one empty row.
func attachmentRows(rec *journal.Record) []attachmentRow {
	var all []attachmentRow
	for _, tx := range rec.Transactions {
		m := attachmentRow{sandbox: rec.Sandbox, state: string(tx.Phase), since: tx.Started.UTC().Format(time.RFC3339)}
		if tx.Pod != nil {
			m.pod = tx.Pod.String()
		}
		if len(tx.Attachments) == 0 {
			m.ifName, m.network = tx.IfName, tx.Network
			all = append(all, m)
		}
		for _, entry := range tx.Attachments {
			one, r := m, resultOf(entry)
			one.ifName, one.network, one.delegate = entry.IfName, entry.Name, strings.Join(entry.List.Types(), "+")
			one.state = cmp.Or(string(entry.Phase), m.state)
			one.device, one.mac = entry.DeviceID, macOf(r, entry.IfName)
			for _, i := range r.Interfaces {
				if i.Name == entry.IfName && i.Sandbox != "" {
					one.device = cmp.Or(one.device, i.PciID, i.SocketPath)
				}
			}
			one.ips = strings.Join(addresses(r), ",")
			all = append(all, one)
		}
	}
	return all
}

// resultOf is the recorded result, an empty one when there is none that can be read.
func resultOf(entry *journal.Entry) *types100.Result {
	r, err := entry.ParseResult()
	if err != nil || r == nil {
		return &types100.Result{}
	}
	r.Interfaces = slices.DeleteFunc(r.Interfaces, func(i *types100.Interface) bool { return i == nil })
	r.IPs = slices.DeleteFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip == nil })
	return r
}

// macOf is the hardware address of the pod's interface.
func macOf(r *types100.Result, ifName string) string {
	for _, i := range r.Interfaces {
		if i.Name == ifName && i.Sandbox != "" {
			return i.Mac
		}
	}
	return ""
}

func addresses(r *types100.Result) []string {
	var list []string
	for _, ip := range r.IPs {
		list = append(list, ip.Address.String())
	}
	return list
}

// podOf is the pod of a sandbox, "" when no request named one.
func podOf(rec *journal.Record) string {
	for _, tx := range rec.Transactions {
		if tx.Pod != nil {
			return tx.Pod.String()
		}
	}
	return ""
}

// short is a container ID as runtimes' tools print it.
func short(sandbox string, f form) string {
	if len(sandbox) > 13 && f != asWide {
		return sandbox[:13]
	}
	return sandbox
}

func podsCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "pods [POD]",
		Short: "List pods and what they are attached to",
		Long: `List the pods that are recorded, or one, and what they are attached to.
POD is NAME or NAMESPACE/NAME. -o wide has a line for each attachment.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completePods,
	}
	f := formFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		pod := ""
		if len(args) == 1 {
			var err error
			if pod, err = o.pod(cmd.Context(), args[0]); err != nil {
				return err
			}
		}
		replies, failed := o.ask(cmd.Context(), cmd.ErrOrStderr(), question{method: "GET", path: "/v1/attachments", words: []string{"pods"}})
		if len(replies) == 0 {
			return failed
		}
		replies, err := onlyPod(replies, pod)
		if err != nil {
			return err
		}
		all, err := decodeReplies[agent.Attachments](replies)
		if err != nil {
			return err
		}
		err = o.show(cmd, *f, replies, func() error { return o.podsTable(cmd, *f, all) })
		if pod != "" && !slices.ContainsFunc(all, func(a nodeAnswer[agent.Attachments]) bool { return len(a.answer.Sandboxes) > 0 }) {
			err = errors.Join(err, fmt.Errorf("nothing is recorded of pod %s", pod))
		}
		return errors.Join(err, failed)
	}
	return c
}

// onlyPod leaves the sandboxes of other pods out of answers, "" none.
func onlyPod(replies []reply, pod string) ([]reply, error) {
	if pod == "" {
		return replies, nil
	}
	some := slices.Clone(replies)
	for i, r := range some {
		var answer map[string]json.RawMessage
		var all []json.RawMessage
		if err := errors.Join(json.Unmarshal(r.data, &answer), json.Unmarshal(answer["sandboxes"], &all)); err != nil {
			return nil, fmt.Errorf("answer of the agent%s: %w", onNode(r.node), err)
		}
		kept := []json.RawMessage{}
		for _, one := range all {
			var rec journal.Record
			if err := json.Unmarshal(one, &rec); err != nil {
				return nil, fmt.Errorf("answer of the agent%s: %w", onNode(r.node), err)
			}
			if podOf(&rec) == pod {
				kept = append(kept, one)
			}
		}
		var err error
		if answer["sandboxes"], err = json.Marshal(kept); err != nil {
			return nil, err
		}
		if some[i].data, err = json.Marshal(answer); err != nil {
			return nil, err
		}
	}
	return some, nil
}

func (o *options) podsTable(cmd *cobra.Command, f form, all []nodeAnswer[agent.Attachments]) error {
	head := []string{"POD", "SANDBOX", "INTERFACES", "NETWORKS", "IPS", "STATE"}
	if f == asWide {
		head = wideHead()
	}
	t := o.table(cmd.OutOrStdout(), head...)
	for _, a := range all {
		slices.SortStableFunc(a.answer.Sandboxes, func(a, b *journal.Record) int { return cmp.Compare(podOf(a), podOf(b)) })
		for _, rec := range a.answer.Sandboxes {
			if f != asWide {
				t.row(a.node, podRow(rec)...)
				continue
			}
			for _, m := range attachmentRows(rec) {
				t.row(a.node, m.wide()...)
			}
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	for _, a := range all {
		for _, why := range a.answer.Damaged {
			fmt.Fprintf(cmd.OutOrStdout(), "damaged%s: %s\n", onNode(a.node), clean(why))
		}
	}
	return nil
}

// podRow is a pod in a line. Its state is that of the worst of its attachments.
func podRow(rec *journal.Record) []string {
	var ifNames, networks, ips []string
	state := string(journal.PhaseAttached)
	for _, m := range attachmentRows(rec) {
		ifNames, networks = append(ifNames, m.ifName), append(networks, m.network)
		if m.ips != "" {
			ips = append(ips, m.ips)
		}
		if m.state != string(journal.PhaseAttached) {
			state = m.state
		}
	}
	return []string{podOf(rec), short(rec.Sandbox, asTable), strings.Join(ifNames, ","), strings.Join(networks, ","), strings.Join(ips, ","), state}
}

func wideHead() []string {
	return []string{"POD", "SANDBOX", "INTERFACE", "NETWORK", "DELEGATE", "DEVICE", "MAC", "IPS", "STATE", "SINCE"}
}

func (m attachmentRow) wide() []string {
	return []string{m.pod, short(m.sandbox, asTable), m.ifName, m.network, m.delegate, m.device, m.mac, m.ips, m.state, m.since}
}

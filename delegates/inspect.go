package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/netns"
)

// Datapath is what the world has of one attachment.
type Datapath struct {
	Sandbox     string                       `json:"sandbox"`
	IfName      string                       `json:"ifName"`
	Network     string                       `json:"network"`
	Facts       map[string]map[string]string `json:"facts"` // by delegate; "link" is the pod's kernel link
	Differences string                       `json:"differences,omitempty"`
}

// inspections is how many attachments of a sandbox are looked at together.
const inspections = 8

// Inspect asks datapaths and kernel what they have of a recorded sandbox, and
// CHECKs each attachment. Nothing is changed. Attachments are looked at together: one
// whose datapath does not answer keeps no other waiting. What is not known when ctx is
// done is a difference.
func (e *Engine) Inspect(ctx context.Context, rec *Record) []Datapath {
	var all []func() Datapath
	for _, tx := range rec.Transactions {
		live := tx.liveNetns("")
		for _, entry := range tx.Attachments {
			all = append(all, func() Datapath { return e.inspect(ctx, rec, tx, entry, live) })
		}
	}
	found := make([]Datapath, len(all))
	var group sync.WaitGroup
	room := make(chan bool, inspections)
	for i, look := range all {
		room <- true
		group.Go(func() {
			defer func() { <-room }()
			found[i] = look()
		})
	}
	group.Wait()
	return found
}

func (e *Engine) inspect(ctx context.Context, rec *Record, tx *Transaction, entry *Entry, live string) Datapath {
	sandbox := rec.Sandbox
	d := Datapath{Sandbox: sandbox, IfName: entry.IfName, Network: entry.Name, Facts: map[string]map[string]string{}}
	errs := []error{e.eachOfChain(sandbox, tx, entry, live, func(name string, a conf.Attachment, state json.RawMessage) error {
		i, ok := e.Delegates[name].(Inspector)
		if !ok {
			return nil
		}
		facts, err := i.Inspect(ctx, a, state)
		if len(facts) > 0 {
			d.Facts[name] = maps.Clone(facts)
		}
		return err
	})}
	switch {
	case rec.Damage != "":
		errs = append(errs, errors.New(rec.Damage+": it is undone by DEL"))
	case tx.Phase != PhaseAttached || entry.Phase != "":
		errs = append(errs, errors.New("a request was cut short: it is undone by the agent, or by DEL"))
	case live == "":
		errs = append(errs, errors.New("the network namespace "+tx.Netns+" is gone"))
	default:
		if conf.AllUnavailable(errs[0]) == nil { // CHECK would say the same
			errs = append(errs, e.checkOne(ctx, &Request{Sandbox: sandbox, Netns: live}, tx, entry, live))
		}
		if facts := linkFacts(live, entry); facts != nil {
			d.Facts["link"] = facts
		}
	}
	if err := errors.Join(errs...); err != nil {
		d.Differences = err.Error()
	}
	return d
}

// linkFacts are those of the attachment's kernel link; nil when it has none.
func linkFacts(path string, entry *Entry) map[string]string {
	r, err := entry.ParseResult()
	if err != nil {
		return nil
	}
	var facts map[string]string
	for _, i := range r.Interfaces {
		if !isPodLink(i) || facts != nil {
			continue
		}
		_ = inNetns(path, func(h *netlink.Handle) error {
			link, err := h.LinkByName(i.Name)
			if err != nil {
				return err
			}
			a := link.Attrs()
			facts = map[string]string{"name": a.Name, "kind": link.Type(), "mac": a.HardwareAddr.String(), "mtu": strconv.Itoa(a.MTU), "state": a.OperState.String()}
			if a.Statistics != nil {
				facts["rx packets"], facts["tx packets"] = strconv.FormatUint(a.Statistics.RxPackets, 10), strconv.FormatUint(a.Statistics.TxPackets, 10)
			}
			addresses, err := netns.Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
			if err != nil {
				return err
			}
			var list []string
			for _, a := range addresses {
				if a.Scope != int(netlink.SCOPE_LINK) {
					list = append(list, a.IPNet.String())
				}
			}
			if len(list) > 0 {
				facts["addresses"] = strings.Join(list, " ")
			}
			return nil
		})
	}
	return facts
}

// CheckAll is CHECK for every attachment of a recorded sandbox.
func (e *Engine) CheckAll(ctx context.Context, rec *Record) error {
	var errs []error
	for _, tx := range rec.Transactions {
		r := &Request{Sandbox: rec.Sandbox, Netns: tx.liveNetns(""), IfName: tx.IfName, Path: tx.Path}
		if r.Netns == "" {
			errs = append(errs, errors.New("the network namespace "+tx.Netns+" is gone"))
			continue
		}
		errs = append(errs, e.Check(ctx, r))
	}
	return errors.Join(errs...)
}

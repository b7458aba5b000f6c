package vppmemif

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

// lockTimeout is how long a request waits for the locks of bridge domains. Others that have
// them wait for VPP.
const lockTimeout = 5 * time.Second

// tries bounds the search for a number of a bridge domain.
const tries = 64

// joins reports whether the attachment has a bridge domain to join.
func (p *attachment) joins() bool { return p.config.BridgeDomain != nil && !p.view.joined }

// isDomain reports whether a bridge domain is the attachment's.
func (s *state) isDomain(b *BridgeDomain, d *l2.BridgeDomainDetails) bool {
	return d.BdTag == s.DomainTag || b.ID != 0 && d.BdID == b.ID && !isDomainOfVLAN(s.DomainTag)
}

// lockDomains locks bridge domains by their tags until unlock: none goes with its last
// member while an interface joins. VPP makes a domain that is missing when an interface
// joins, and nobody owns that one. Every request locks in the same order. failed gets the
// error of a tag.
func (s *session) lockDomains(ctx context.Context, tags []string, failed func(tag string, err error)) (unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	var locks []func()
	for _, tag := range slices.Compact(slices.Sorted(slices.Values(tags))) {
		if release, err := lock.Take(ctx, "bridge-domain-"+digest(s.socket, tag), "bridge domain "+tag); err != nil {
			failed(tag, err)
		} else {
			locks = append(locks, release)
		}
	}
	return func() {
		for _, release := range locks {
			release()
		}
	}
}

// makeDomains finds the numbers of the bridge domains that attachments join, makes the
// missing ones, and flushes. A domain with a name gets the number that is made from it, or
// the next one that is free. domains are all that VPP has.
func (s *session) makeDomains(ctx context.Context, all []*attachment, domains *[]*l2.BridgeDomainDetails) error {
	for range tries {
		missing := map[string]bool{}
		for _, p := range all {
			at := slices.IndexFunc(*domains, func(d *l2.BridgeDomainDetails) bool { return p.joins() && p.state.isDomain(p.config.BridgeDomain, d) })
			if at >= 0 {
				p.domain = (*domains)[at].BdID
				if differs := p.config.BridgeDomain.differs((*domains)[at]); len(differs) > 0 {
					return delegates.Coded(delegates.CodeConfig, fmt.Errorf("%s%s", p.prefix, strings.Join(differs, ", ")))
				}
			} else if p.joins() && !missing[p.state.DomainTag] {
				missing[p.state.DomainTag] = true
				if err := p.config.mayMake(p.state); err != nil {
					return fmt.Errorf("%s%w", p.prefix, err)
				}
				s.makeDomain(p, domains)
			}
		}
		before := len(*domains)
		if err := s.flush(ctx); err != nil || len(missing) == 0 {
			return err
		}
		if len(*domains) < before+len(missing) { // another client has made one of that number meanwhile
			*domains = nil
			s.listDomains(domains)
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%d times VPP had a bridge domain with a number that was free before", tries)
}

// differs are the properties of a domain that the configuration names and that are otherwise. A
// network that names none takes the domain as it is.
func (b *BridgeDomain) differs(d *l2.BridgeDomainDetails) (all []string) {
	for _, one := range []struct {
		key  string
		want *bool
		is   bool
	}{{"learn", b.Learn, d.Learn}, {"flood", b.Flood, d.Flood && d.UuFlood}} {
		if one.want != nil && *one.want != one.is {
			all = append(all, fmt.Sprintf("bridge domain %d has %s %v, and the network says %q: %v: of one domain all networks say the same", d.BdID, one.key, one.is, "bridgeDomain."+one.key, *one.want))
		}
	}
	if b.ARPTermination && !d.ArpTerm {
		all = append(all, fmt.Sprintf("bridge domain %d terminates no ARP, and the network says %q: true", d.BdID, "bridgeDomain.arpTermination"))
	}
	return all
}

// made is the domain as the configuration has it made.
func (b *BridgeDomain) made(number uint32, tag string) *l2.BridgeDomainDetails {
	on := func(p *bool) bool { return p == nil || *p }
	return &l2.BridgeDomainDetails{BdID: number, BdTag: tag, Flood: on(b.Flood), UuFlood: on(b.Flood), Forward: true, Learn: on(b.Learn), ArpTerm: b.ARPTermination}
}

// makeDomain queues a bridge domain with the first number that domains have not. The next
// flush adds it to domains, unless VPP has made one of that number before.
func (s *session) makeDomain(p *attachment, domains *[]*l2.BridgeDomainDetails) {
	b, number := p.config.BridgeDomain, p.state.Domain
	for slices.ContainsFunc(*domains, func(d *l2.BridgeDomainDetails) bool { return d.BdID == number }) {
		number = number%maxBridgeDomain + 1
	}
	doing, d := fmt.Sprintf("%smake bridge domain %d", p.prefix, number), b.made(number, p.state.DomainTag)
	s.send(request{
		doing: doing, message: &l2.BridgeDomainAddDelV2{
			IsAdd: true, BdID: d.BdID, BdTag: d.BdTag, Flood: d.Flood, UuFlood: d.UuFlood, Forward: d.Forward, Learn: d.Learn, ArpTerm: d.ArpTerm,
		},
		done: func(api.Message) {
			*domains = append(*domains, b.made(number, p.state.DomainTag))
			p.made = append(p.made, fmt.Sprintf("bridge domain %d", number))
		},
		refused: func(err error) error {
			if isCode(err, codeBDExists) {
				return nil
			}
			return fmt.Errorf("%s: %w", doing, err)
		},
	})
}

// deleteDomains deletes the bridge domains that have no member but the sub-interface of an
// uplink, by tag.
func (s *session) deleteDomains(ctx context.Context, byTag map[string]*removal) error {
	if len(byTag) == 0 {
		return nil
	}
	defer s.lockDomains(ctx, slices.Collect(maps.Keys(byTag)), func(tag string, err error) {
		byTag[tag].fail(err)
		delete(byTag, tag)
	})()
	var domains []*l2.BridgeDomainDetails
	var all []*interfaces.SwInterfaceDetails
	s.listDomains(&domains)
	if slices.ContainsFunc(slices.Collect(maps.Keys(byTag)), isDomainOfVLAN) {
		s.listInterfaces(&all)
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for _, d := range domains {
		r := byTag[d.BdTag]
		if r == nil {
			continue
		}
		uplink := findUplink(d.BdTag, r.uplink(), all, domains)
		if slices.ContainsFunc(d.SwIfDetails, func(m l2.BridgeDomainSwIf) bool { return uplink == nil || m.SwIfIndex != uplink.SwIfIndex }) {
			continue // an interface of another client may be a member
		}
		if uplink != nil {
			s.delete(r, "sub-interface "+uplink.InterfaceName, &interfaces.DeleteSubif{SwIfIndex: uplink.SwIfIndex}, codeNoInterface)
		}
		s.delete(r, fmt.Sprintf("bridge domain %d", d.BdID), &l2.BridgeDomainAddDelV2{BdID: d.BdID}, codeBDUsed, codeNone)
	}
	return s.flush(ctx)
}

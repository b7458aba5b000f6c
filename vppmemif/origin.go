package vppmemif

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/delegates"
)

// maker is the creator of a bridge domain that the configuration names by number, "" in records
// of former versions, which do not name it.
type maker string

const (
	byPlexus   maker = "plexus"
	byOperator maker = "operator"
)

// startupTime bounds the time from the start of VPP until its startup configuration (unix
// startup-config) has run. VPP begins to run it after two seconds.
const startupTime = 10 * time.Second

// isStarting reports whether VPP may still have to run its startup configuration. VPP makes
// the API socket when it starts.
func isStarting(socket string) bool {
	i, err := os.Stat(socket)
	return err == nil && time.Since(i.ModTime()) < startupTime
}

// isNumbered reports whether the domain is one that an operator may have made.
func (c *Config) isNumbered() bool {
	return c.BridgeDomain != nil && c.BridgeDomain.ID != 0 && c.VLAN == 0
}

// mayMake refuses to make a numbered domain that is missing and is the operator's: he makes it
// with what belongs to it, and cannot when it is there.
func (c *Config) mayMake(st *state) error {
	if !c.isNumbered() {
		return nil
	}
	create, id := c.BridgeDomain.Create, c.BridgeDomain.ID
	var why string
	switch {
	case create != nil && *create, create == nil && st.DomainOf == byPlexus:
		return nil
	case create != nil:
		why = fmt.Sprintf("make it, or set %q to true", c.key("bridgeDomain.create"))
	case st.DomainOf == byOperator:
		why = "plexus did not make it, and joins it when it is there again: has VPP's startup configuration run?"
	case isStarting(st.API):
		why = fmt.Sprintf("VPP has just started, and its startup configuration may make it: plexus does so in %s, or at once with %q",
			startupTime, c.key("bridgeDomain.create"))
	default:
		return nil
	}
	return delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("VPP has no bridge domain %d: %s", id, why))
}

// findOrigin puts the creator of a numbered domain into the state.
func (s *session) findOrigin(ctx context.Context, c *Config, st *state) error {
	if !c.isNumbered() {
		return nil
	}
	var domains []*l2.BridgeDomainDetails
	list(s, "bridge domains", &l2.BridgeDomainDump{BdID: c.BridgeDomain.ID, SwIfIndex: allInterfaces}, &domains)
	if err := s.flush(ctx); err != nil {
		return err
	}
	at := slices.IndexFunc(domains, func(d *l2.BridgeDomainDetails) bool { return d.BdID == c.BridgeDomain.ID })
	if at >= 0 && domains[at].BdTag != st.DomainTag {
		st.DomainOf = byOperator
		return nil
	}
	if at < 0 {
		if err := c.mayMake(st); err != nil {
			return err
		}
	}
	st.DomainOf = byPlexus
	return nil
}

// domainIsThere refuses a domain that is missing and that plexus may not make.
func domainIsThere(_ context.Context, p *attachment) error {
	if !p.joins() || slices.ContainsFunc(p.view.snap.domains, func(d *l2.BridgeDomainDetails) bool { return p.state.isDomain(p.config.BridgeDomain, d) }) {
		return nil
	}
	return p.config.mayMake(p.state)
}

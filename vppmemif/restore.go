package vppmemif

import (
	"context"
	"fmt"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ip"

	"github.com/plexus-cni/plexus/delegates"
)

// Restore is delegates.Network. VPP has lost all of an attachment in a restart, or an
// operator has deleted or changed a part of it. Restore makes the missing parts as Attach
// does. The socket's path stays: the pod's side finds it again.
func (n *network) Restore(ctx context.Context, a *delegates.Attachment) ([]string, error) {
	s, p, done, err := n.observe(ctx, a)
	defer done()
	if err != nil {
		return nil, err
	}
	snap := p.view.snap
	err = s.restore(ctx, p)
	switch {
	case a.Comparison == nil:
	case err != nil, p.view.snap != snap, p.state.Uplink != "" && len(p.made) > 0: // more than the attachment's own may be another
		s.forget(a)
	case len(p.made) > 0:
		err = s.reread(ctx, p)
	}
	return p.made, err
}

func (s *session) restore(ctx context.Context, p *attachment) error {
	for _, do := range []func(context.Context, *attachment) error{domainIsThere, restoreFolder, s.adopt, s.clearRoutes, s.restoreTables} {
		if err := do(ctx, p); err != nil {
			return err
		}
	}
	return s.attach(ctx, []*attachment{p})
}

// restoreFolder makes the sandbox's own folder again, the short link, and the file that the
// container reads. A volume is the pod's: when it is gone the pod is.
func restoreFolder(ctx context.Context, p *attachment) error {
	st := p.state
	if st.Abstract != "" {
		return nil
	}
	missing, err := st.Missing(st.Config)
	if err != nil || len(missing) == 0 {
		return err
	}
	if !st.Own && slices.Contains(missing, "folder "+st.Dir) {
		return fmt.Errorf("socket folder %s, the pod's volume, is gone", st.Dir)
	}
	if err := p.provide(ctx, p.Result); err != nil {
		return err
	}
	p.made = append(p.made, missing...)
	return nil
}

// adopt decides whether the interface on the socket is the attachment's and of use. An
// interface without a tag is of an Attach or a Restore that was cut short, as for Detach.
// An interface of another role or mode is deleted, and one with a socket to which nobody
// can connect.
func (s *session) adopt(ctx context.Context, p *attachment) error {
	port, st := p.view.port, p.state
	switch {
	case port == nil && p.view.other != nil:
		return isUsed(st, p.view.other)
	case port == nil:
		return st.isVacant()
	case port.Tag != "" && port.Tag != st.Tag && !st.ownsSocket():
		return isUsed(st, port)
	case port.server != (st.Role == "server"), port.memif != nil && modeOf(port.memif.Mode) != p.config.Mode:
		return s.discard(ctx, p)
	case p.isDeaf():
		if err := st.isVacant(); err != nil {
			return err
		}
		return s.discard(ctx, p)
	}
	return nil
}

// isDeaf reports whether nothing is connected to the interface and nothing can connect: the
// folder has no socket with a listener.
func (p *attachment) isDeaf() bool {
	return p.state.Role == "server" && p.state.Abstract == "" && !p.view.port.isLinkUp() && !p.state.Listened(p.state.File)
}

// discard deletes an interface that is of no use to the pod.
func (s *session) discard(ctx context.Context, p *attachment) error {
	st := p.state
	if p.view.other != nil {
		return isUsed(st, p.view.other)
	}
	if err := p.step(ctx, "delete "+st.kind()+" "+st.Tag); err != nil {
		return err
	}
	r := &removal{state: st, recorded: true, ports: []port{*p.view.port}}
	if r.fail(s.deleteFrom(ctx, p.view.snap, []*removal{r})); r.err != nil {
		return r.err
	}
	p.view = &view{dangling: p.view.dangling}
	return nil
}

// clearRoutes removes paths through interfaces that are gone, before an interface
// gets the number of one of them.
func (s *session) clearRoutes(ctx context.Context, p *attachment) error {
	for _, r := range p.view.dangling {
		doing := fmt.Sprintf("clear route %s", r.Prefix)
		if err := p.step(ctx, doing); err != nil {
			return err
		}
		s.send(request{doing: doing, message: &ip.IPRouteAddDel{IsAdd: len(r.Paths) > 0, Route: r}})
	}
	return s.flush(ctx)
}

// restoreTables makes the tables of the vrf, for both families, when VPP has lost them:
// Attach has found them there.
func (s *session) restoreTables(ctx context.Context, p *attachment) error {
	vrf := p.config.VRF
	if vrf == 0 || p.view.tables == [2]uint32{vrf, vrf} {
		return nil
	}
	if err := s.conn.compatible(ctx, append(routeMessages(), &ip.IPTableAddDel{})...); err != nil {
		return err
	}
	all, err := s.tables(ctx)
	if err != nil {
		return err
	}
	for _, family := range families {
		table := ip.IPTable{TableID: vrf, IsIP6: family.six}
		if slices.ContainsFunc(all, func(t *ip.IPTableDetails) bool { return t.Table.TableID == vrf && t.Table.IsIP6 == family.six }) {
			continue
		}
		if isStarting(p.state.API) {
			return delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("VPP has no table %d of %s: it has just started, and its startup configuration may make it: plexus does so in %s",
				vrf, family.name, startupTime))
		}
		doing := fmt.Sprintf("make table %d", vrf)
		if err := p.step(ctx, doing); err != nil {
			return err
		}
		s.send(request{doing: doing, message: &ip.IPTableAddDel{IsAdd: true, Table: table}, done: func(api.Message) {
			p.made = append(p.made, fmt.Sprintf("table %d of %s", vrf, family.name))
		}})
	}
	return s.flush(ctx)
}

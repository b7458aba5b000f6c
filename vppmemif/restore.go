package vppmemif

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ip"

	"github.com/plexus-cni/plexus/conf"
)

// Restore makes again what VPP has lost of an attachment: all of it, when it was
// restarted, or what somebody has deleted or changed. It is what Add does, less
// what is there; the socket's path stays, so that the pod's side finds it again.
func (d *Delegate) Restore(ctx context.Context, a conf.Attachment, raw json.RawMessage) ([]string, error) {
	w, err := d.seen(ctx, a, raw)
	if err != nil {
		return nil, err
	}
	w.again = true
	for _, step := range []func(context.Context) error{w.folder, w.settle, w.clearRoutes, w.table, w.attach} {
		if err := step(ctx); err != nil {
			return w.made, err
		}
	}
	return w.made, nil
}

// seen is a recorded attachment with what VPP has of it.
func (d *Delegate) seen(ctx context.Context, a conf.Attachment, raw json.RawMessage) (*wiring, error) {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return nil, err
	}
	s, err := decodeState(raw, a)
	if err != nil {
		return nil, err
	}
	v, err := d.vpp.open(ctx, s.API)
	if err != nil {
		return nil, err
	}
	have, err := v.look(ctx, c, a, s)
	if err != nil {
		return nil, err
	}
	return &wiring{session: v, c: c, a: a, st: s, have: have}, nil
}

// folder makes the sandbox's own folder again, and the short link. A volume that
// is gone is the pod's, which is gone then, too.
func (w *wiring) folder(ctx context.Context) error {
	st := w.st
	if st.Abstract != "" || st.Folder.Check(false, st.File) == nil {
		return nil
	}
	missing, err := st.Missing("")
	if err != nil {
		return err
	}
	if !st.Own && slices.Contains(missing, "folder "+st.Dir) {
		return fmt.Errorf("socket folder %s, the pod's volume, is gone", st.Dir)
	}
	if err := st.Provide(ctx, w.a, w.c.userspace); err != nil {
		return err
	}
	w.made = append(w.made, "folder "+st.Dir)
	return nil
}

// settle decides whether the interface on the socket is the attachment's and of
// use. One without a tag was made by an Add or a Restore that was cut short, as
// Del sees it, too. One that is not as Add makes it, or at whose socket nobody
// can connect, is made anew.
func (w *wiring) settle(ctx context.Context) error {
	p, st := w.have.port, w.st
	switch {
	case p == nil && w.have.other != nil:
		return usedBy(st, w.have.other)
	case p == nil:
		return placeFree(st)
	case p.tag() != "" && p.tag() != st.Tag:
		return usedBy(st, p)
	case p.server != (st.Role == "server"), p.memif != nil && modeOf(p.memif.Mode) != w.c.Mode:
		return w.discard(ctx)
	case w.deaf():
		if err := placeFree(st); err != nil {
			return err
		}
		return w.discard(ctx)
	case p.tag() == "":
		w.index = p.index
		if err := w.mark(ctx); err != nil {
			return err
		}
		return w.answers(ctx)
	}
	return nil
}

// deaf tells whether nobody is connected to the interface and nobody can be: its
// socket has no listener in the folder.
func (w *wiring) deaf() bool {
	return w.st.Role == "server" && w.st.Abstract == "" && !w.have.linkUp() && !w.st.Listened(w.st.File)
}

// discard deletes an interface that is of no use to the pod.
func (w *wiring) discard(ctx context.Context) error {
	p, st := w.have.port, w.st
	if w.have.other != nil {
		return usedBy(st, w.have.other)
	}
	if err := w.step(ctx, "delete %s %s", st.kind(), st.Tag); err != nil {
		return err
	}
	if err := w.unroute(ctx, *p, st); err != nil {
		return err
	}
	if err := w.delete(ctx, *p); err != nil && !answered(err, codeNoInterface) {
		return fmt.Errorf("delete %s %s: %w", st.kind(), p.name, err)
	}
	w.have = &found{dangling: w.have.dangling}
	return nil
}

// clearRoutes removes paths through interfaces that are gone, before an interface
// gets the number of one of them.
func (w *wiring) clearRoutes(ctx context.Context) error {
	for _, r := range w.have.dangling {
		if err := w.step(ctx, "clear route %s", r.Prefix); err != nil {
			return err
		}
		if _, err := call(ctx, w.session, func(ctx context.Context) (*ip.IPRouteAddDelReply, error) {
			return ip.NewServiceClient(w.conn).IPRouteAddDel(ctx, &ip.IPRouteAddDel{IsAdd: len(r.Paths) > 0, Route: r})
		}); err != nil {
			return fmt.Errorf("clear route %s: %w", r.Prefix, err)
		}
	}
	return nil
}

// table makes the tables of the vrf, for both families, when VPP has them no
// longer: Add has found them there.
func (w *wiring) table(ctx context.Context) error {
	if w.c.VRF == 0 || w.have.tables == [2]uint32{w.c.VRF, w.c.VRF} {
		return nil
	}
	if err := compatible(ctx, w.conn, append(routeMessages(), api.Message(&ip.IPTableAddDel{}), &ip.IPTableAddDelReply{})...); err != nil {
		return err
	}
	all, err := w.tables(ctx)
	if err != nil {
		return err
	}
	for _, six := range []bool{false, true} {
		if slices.ContainsFunc(all, func(t *ip.IPTableDetails) bool { return t.Table.TableID == w.c.VRF && t.Table.IsIP6 == six }) {
			continue
		}
		if err := w.step(ctx, "make table %d", w.c.VRF); err != nil {
			return err
		}
		if _, err := call(ctx, w.session, func(ctx context.Context) (*ip.IPTableAddDelReply, error) {
			return ip.NewServiceClient(w.conn).IPTableAddDel(ctx, &ip.IPTableAddDel{IsAdd: true, Table: ip.IPTable{TableID: w.c.VRF, IsIP6: six}})
		}); err != nil {
			return fmt.Errorf("make table %d: %w", w.c.VRF, err)
		}
		w.made = append(w.made, fmt.Sprintf("table %d of %s", w.c.VRF, familyOf(six)))
	}
	return nil
}

func familyOf(six bool) string {
	if six {
		return "IPv6"
	}
	return "IPv4"
}

package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// notRunning reports whether an error says that nobody listens on the API socket, and
// nothing else. Such a VPP has lost all that it had.
func notRunning(err error) bool {
	away := conf.AllUnavailable(err)
	return len(away) > 0 && !slices.ContainsFunc(away, func(e *conf.Unavailable) bool {
		return !errors.Is(e, fs.ErrNotExist) && !errors.Is(e, syscall.ECONNREFUSED)
	})
}

// detach removes what carries the tag, and the bridge domain if it is ours and
// empty then. own says that the socket is surely the attachment's: what is on it
// and has no tag yet is its own, too. It returns the uses of folders that remain
// in this VPP.
func (s *session) detach(ctx context.Context, st *state, own bool) ([]shareddir.Use, error) {
	sockets, err := s.sockets(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.ports(ctx, sockets)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, p := range all {
		unmarked := own && p.tag() == "" && p.socket == st.Socket && (p.memif == nil) == st.Vhost && (st.Vhost || p.memif.ID == st.ID)
		if p.tag() != st.Tag && !unmarked {
			others = append(others, p.socket)
			continue
		}
		if err := s.unroute(ctx, p, st); err != nil {
			return nil, err
		}
		if err := s.delete(ctx, p); err != nil && !answered(err, codeNoInterface) {
			return nil, fmt.Errorf("delete %s %s: %w", st.kind(), p.name, err)
		}
	}
	used := slices.Contains(others, st.Socket)
	for id, name := range sockets {
		if name != st.Socket || used {
			others = append(others, name) // without an interface yet, perhaps
			continue
		}
		if err := s.deleteSocket(ctx, id); err != nil {
			return nil, fmt.Errorf("delete socket %s: %w", st.Socket, err)
		}
	}
	if st.DomainTag != "" {
		if err := s.deleteDomain(ctx, st.DomainTag); err != nil {
			return nil, err
		}
	}
	return usesOf(others), nil
}

// unroute removes the routes through an interface that is about to be deleted.
// VPP keeps them, for whatever gets the interface's number next.
func (s *session) unroute(ctx context.Context, p port, st *state) error {
	for _, r := range st.Routes {
		err := s.setRoute(ctx, st.VRF, r, p.index, false)
		if err != nil && !answered(err, codeNone, codeNoFIB, codeNoPath) {
			return fmt.Errorf("delete route %s: %w", r.Dst, err)
		}
	}
	return nil
}

func (s *session) delete(ctx context.Context, p port) error {
	if p.memif == nil {
		return s.deleteVhost(ctx, p.index)
	}
	_, err := call(ctx, s, func(ctx context.Context) (*memif.MemifDeleteReply, error) {
		return memif.NewServiceClient(s.conn).MemifDelete(ctx, &memif.MemifDelete{SwIfIndex: p.index})
	})
	return err
}

// deleteDomain removes a bridge domain of ours that has no member.
func (s *session) deleteDomain(ctx context.Context, tag string) error {
	release, err := s.lockDomain(ctx, tag)
	if err != nil {
		return err
	}
	defer release()
	all, err := s.domains(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.BdTag != tag || len(d.SwIfDetails) > 0 {
			continue
		}
		_, err := call(ctx, s, func(ctx context.Context) (*l2.BridgeDomainAddDelV2Reply, error) {
			return l2.NewServiceClient(s.conn).BridgeDomainAddDelV2(ctx, &l2.BridgeDomainAddDelV2{BdID: d.BdID})
		})
		if err != nil && !answered(err, codeBDUsed, codeNone) { // somebody joined, or removed it, meanwhile
			return fmt.Errorf("delete bridge domain %d: %w", d.BdID, err)
		}
	}
	return nil
}

// Sweep removes what carries owner's tag and is not to be kept, at the default VPP
// and at those of the endpoints that are sockets of its API, all at once. keep gets
// the beginning of the container ID. A VPP that does not run has nothing.
func (d *Delegate) Sweep(ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool) []error {
	apis := []string{defaultAPISocket}
	for _, e := range endpoints {
		if filepath.IsAbs(e) && !slices.Contains(apis, e) {
			apis = append(apis, e)
		}
	}
	bases := append(slices.Clone(defaultSocketDirs), bounds.SocketDirs...)
	errs := make([]error, len(apis))
	var group sync.WaitGroup
	for i, api := range apis {
		group.Go(func() {
			v, err := d.vpp.open(ctx, api)
			if err == nil {
				err = d.sweepAt(ctx, v, owner, bases, keep)
			}
			if !notRunning(err) {
				errs[i] = err
			}
		})
	}
	group.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// sweepAt goes by the tags alone. They say what is to be removed of VPP; of files only
// those are removed that the attachment's names lead to, below the bases.
func (d *Delegate) sweepAt(ctx context.Context, v *session, owner string, bases []string, keep func(sandbox, ifName string) bool) error {
	sockets, err := v.sockets(ctx)
	if err != nil {
		return err
	}
	all, err := v.ports(ctx, sockets)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		sandbox, ifName, ours := parseTag(owner, p.tag())
		if !ours || keep(sandbox, ifName) {
			continue
		}
		s := &state{API: v.vpp.socket, Tag: p.tag(), Socket: p.socket, Vhost: p.memif == nil}
		if err := v.forgetRoutes(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.tag(), err))
			continue
		}
		others, err := v.detach(ctx, s, false)
		for _, base := range bases {
			files, ok := shareddir.Marked(base, sandbox, ifName, socketName(s.kind(), sandbox, ifName), uniqueOf(owner, sandbox, ifName))
			if err == nil && ok {
				err = files.Clear(shareddir.Clearing{Log: d.log, Others: others})
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.tag(), err))
		}
	}
	domains, err := v.domains(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, b := range domains {
		if strings.HasPrefix(b.BdTag, ownerTag(owner)+domainMark) {
			errs = append(errs, v.deleteDomain(ctx, b.BdTag))
		}
	}
	return errors.Join(errs...)
}

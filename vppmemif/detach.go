package vppmemif

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/shareddir"
)

// notRunning reports whether nobody listens on the API socket: then an error is
// that of connecting. Such a VPP has lost all that it had.
func notRunning(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
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

// Sweep removes what carries owner's tag and is not to be kept, at the default
// VPP and at those that the configurations name. keep gets the beginning of the
// container ID.
func (d *Delegate) Sweep(ctx context.Context, owner string, configs []json.RawMessage, keep func(sandbox, ifName string) bool) error {
	apis, bases := []string{defaultAPISocket}, []string{defaultSocketDir, userspaceSocketDir}
	for _, raw := range configs {
		c, _, err := d.parse("", raw)
		if err != nil {
			continue
		}
		bases = append(bases, filepath.Clean(c.Socket.Dir))
		if !slices.Contains(apis, c.APISocket) {
			apis = append(apis, c.APISocket)
		}
	}
	var errs []error
	for _, api := range apis {
		v, err := d.vpp.open(ctx, api)
		if err == nil {
			err = d.sweepAt(ctx, v, owner, bases, keep)
		}
		if !notRunning(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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

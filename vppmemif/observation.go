package vppmemif

import (
	"context"
	"slices"
	"sync"
	"time"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/delegates"
)

// observation is the snapshot that the attachments of a comparison share. It is right for an
// attachment whose record is older: its sandbox is locked, so nobody else has made or removed
// its interface since. What Restore makes is added.
type observation struct {
	mu   sync.Mutex // held while an attachment is compared
	snap *snapshot
	at   time.Time
	of   *connection // a VPP that is restarted has another one
}

// recordAge is how much older than a snapshot a record has to be: the times of files are those
// of the kernel's last tick.
const recordAge = time.Second

// observe returns VPP's sockets, interfaces and domains for an attachment. done ends their use.
func (s *session) observe(ctx context.Context, a *delegates.Attachment) (snap *snapshot, done func(), err error) {
	if a.Comparison == nil {
		snap, err = s.snapshot(ctx)
		return snap, func() {}, err
	}
	o := delegates.Shared(a.Comparison, "vppmemif "+s.socket, func() *observation { return &observation{} })
	o.mu.Lock()
	if o.snap == nil || o.of != s.conn || a.Changed.After(o.at.Add(-recordAge)) {
		begin := time.Now()
		if o.snap, err = s.snapshot(ctx); err != nil {
			o.snap = nil
		}
		o.at, o.of = begin, s.conn // after a restart that the snapshot's own requests have found
	}
	s.used = true // its numbers are of this VPP
	return o.snap, o.mu.Unlock, err
}

// forget drops the shared snapshot: the next attachment reads VPP again.
func (s *session) forget(a *delegates.Attachment) {
	if a.Comparison != nil {
		delegates.Shared(a.Comparison, "vppmemif "+s.socket, func() *observation { return &observation{} }).snap = nil
	}
}

// reread brings a snapshot up to date with what Restore has made of an attachment.
func (s *session) reread(ctx context.Context, p *attachment) error {
	snap, st := p.view.snap, p.state
	var all []*interfaces.SwInterfaceDetails
	list(s, "interface "+st.name(), &interfaces.SwInterfaceDump{SwIfIndex: p.index}, &all)
	if err := s.flush(ctx); err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(d *interfaces.SwInterfaceDetails) bool { return d.SwIfIndex == p.index })
	if at < 0 {
		s.forget(p.Attachment)
		return nil
	}
	snap.interfaces[p.index] = all[at]
	known := slices.IndexFunc(snap.on[st.Socket], func(at int) bool { return snap.ports[at].SwIfIndex == p.index })
	if known >= 0 {
		snap.ports[snap.on[st.Socket][known]].SwInterfaceDetails = all[at]
	} else {
		snap.add(p, all[at])
	}
	if p.config.BridgeDomain != nil && p.domain != 0 {
		snap.join(p, p.domain)
	}
	return nil
}

// add adds an interface that was made as an attachment's configuration says.
func (snap *snapshot) add(p *attachment, details *interfaces.SwInterfaceDetails) {
	made := port{SwInterfaceDetails: details, socket: p.state.Socket, server: p.state.Role == "server"}
	if !p.state.Vhost {
		snap.addSocket(p.socket, p.state.Socket)
		made.memif = &memif.MemifDetails{SwIfIndex: p.index, ID: p.state.ID, SocketID: p.socket}
		if p.config.Mode == "ip" {
			made.memif.Mode = memif.MEMIF_MODE_API_IP
		}
		if !made.server {
			made.memif.Role = memif.MEMIF_ROLE_API_SLAVE
		}
	}
	snap.addPort(made)
}

// join makes an attachment's interface a member of its bridge domain. A domain that is not in the
// snapshot was made as the configuration says.
func (snap *snapshot) join(p *attachment, number uint32) {
	at := slices.IndexFunc(snap.domains, func(d *l2.BridgeDomainDetails) bool { return d.BdID == number })
	if at < 0 {
		at = len(snap.domains)
		snap.domains = append(snap.domains, p.config.BridgeDomain.made(number, p.state.DomainTag))
	}
	if d := snap.domains[at]; domainOf([]*l2.BridgeDomainDetails{d}, p.index) == nil {
		d.SwIfDetails = append(d.SwIfDetails, l2.BridgeDomainSwIf{SwIfIndex: p.index})
	}
}

package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/conf"
)

// Restore makes again what is missing of an attachment: folder and files when
// their file system was emptied, the port with its bridge when OVSDB has lost
// them. What is there is left alone, changed or not: the pod's side may be
// connected, and CHECK is who reports differences.
func (d *Delegate) Restore(ctx context.Context, a conf.Attachment, raw json.RawMessage) (made []string, err error) {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return nil, err
	}
	s, err := decodeState(raw, a.Sandbox)
	if err != nil {
		return nil, err
	}
	if made, err = s.restoreFiles(ctx, a, c.userspace); err != nil {
		return nil, err
	}
	p := &port{a, s, c, raw}
	rows, err := d.restorePort(ctx, p)
	if err != nil || len(rows) > 0 {
		return append(made, rows...), err
	}
	linked, err := d.restoreLink(ctx, p)
	return append(made, linked...), err
}

// restoreFiles makes what is missing of folder, short link and configuration
// file. A volume that is gone is not made: it was the kubelet's, who will not
// remove it, and no pod would see it.
func (s *state) restoreFiles(ctx context.Context, a conf.Attachment, userspace *conf.Userspace) (made []string, err error) {
	missing, err := s.Missing(s.Config)
	if err != nil {
		return nil, fmt.Errorf("look for the files of %s: %w", a.IfName, err)
	}
	if len(missing) == 0 {
		return nil, nil
	}
	if !s.Own && !s.Made && slices.Contains(missing, "folder "+s.Dir) {
		return nil, fmt.Errorf("the pod's volume %s is gone", s.Dir)
	}
	return missing, s.Provide(ctx, a, userspace)
}

// restorePort inserts the port when its row is missing, and its bridge if that
// is ours to make.
func (d *Delegate) restorePort(ctx context.Context, p *port) (made []string, err error) {
	found, err := d.db.transact(ctx, p.OVSDB,
		selectRows("Interface", equal("name", p.Port), "external_ids"),
		selectRows("Bridge", equal("name", p.Bridge), "name"))
	if err != nil {
		return nil, err
	}
	if rows := found[0].Rows; len(rows) > 0 {
		return nil, p.marks().mustBeOn(rows[0], p.Port)
	}
	if err := d.open(ctx, p.OVSDB, []*port{p}); err != nil {
		return nil, err
	}
	if len(found[1].Rows) == 0 {
		made = append(made, "bridge "+p.Bridge)
	}
	return append(made, fmt.Sprintf("port %s on bridge %s", p.Port, p.Bridge)), nil
}

// restoreLink makes the link to the vswitch's socket again, in server mode: the
// folder was emptied, or the vswitch was restarted and listens at another
// socket of the same name.
func (d *Delegate) restoreLink(ctx context.Context, p *port) (made []string, err error) {
	if p.Mode != modeServer {
		return nil, nil
	}
	origin, err := d.serverSocket(ctx, p.state)
	if err != nil {
		return nil, err
	}
	defer origin.Close()
	linked, err := p.Linked(origin, p.File)
	if err != nil || linked {
		return nil, err
	}
	if err := conf.Step(ctx, "%s: link the socket to %s", p.IfName, p.Socket); err != nil {
		return nil, err
	}
	if err := p.LinkSocket(origin, p.File, p.config.key("vhost.socketFile")); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("link %s to the socket of port %s", p.Place(p.File), p.Port)}, nil
}

func (p *port) marks() marks { return marks{p.Owner, p.Sandbox, p.IfName} }

// mustBeOn refuses a row that somebody else has made under our name.
func (m marks) mustBeOn(row map[string]any, port string) error {
	if !m.on(row) {
		return fmt.Errorf("port %s is not this attachment's: its marks of ownership (external_ids plexus-*) are not ours", port)
	}
	return nil
}

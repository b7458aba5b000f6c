package ovsdpdk

import (
	"context"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/delegates"
)

// Restore makes again what is missing of an attachment: folder and files when
// their file system was emptied, the port with its bridge when OVSDB has lost
// them. What is there is left alone, changed or not: the pod's side may be
// connected, and CHECK reports differences.
func (n *network) Restore(ctx context.Context, a *delegates.Attachment) (made []string, err error) {
	p, err := portOf(a)
	if err != nil {
		return nil, err
	}
	if made, err = p.restoreFiles(ctx); err != nil {
		return nil, err
	}
	rows, err := n.restorePort(ctx, p)
	made = append(made, rows...)
	if err != nil {
		return made, err
	}
	links, err := n.d.link(ctx, []*port{p})
	return append(made, links...), err
}

// restoreFiles makes what is missing of folder, short link and configuration
// file. A volume that is gone is not made: it was the kubelet's, which will not
// remove it, and no pod would see it.
func (p *port) restoreFiles(ctx context.Context) (made []string, err error) {
	missing, err := p.Missing(p.Config)
	if err != nil {
		return nil, fmt.Errorf("look for the files of %s: %w", p.IfName, err)
	}
	if len(missing) == 0 {
		return nil, p.network.d.grants.Keep(p.Use) // the agent may be a new one
	}
	if !p.Own && !p.Made && slices.Contains(missing, "folder "+p.Dir) {
		return nil, fmt.Errorf("the pod's volume %s is gone", p.Dir)
	}
	return missing, p.provide(ctx)
}

// restorePort inserts the port when its row is missing, and its bridge if the
// configuration has plexus make it.
func (n *network) restorePort(ctx context.Context, p *port) (made []string, err error) {
	if err := n.d.alive(ctx, p.OVSDB); err != nil {
		return nil, err
	}
	results, err := n.d.db.transact(ctx, p.OVSDB,
		selectRows("Interface", equal("name", p.Port), "external_ids", "ofport"),
		selectRows("Bridge", equal("name", p.Bridge), "name"))
	if err != nil {
		return nil, err
	}
	if rows := results[0].Rows; len(rows) > 0 {
		if err := p.mustOwn(rows[0]); err != nil || isOpen(rows[0]) || p.Mode != modeServer {
			return nil, err
		}
		return n.d.reopen(ctx, p)
	}
	if err := n.d.open(ctx, p.OVSDB, []*port{p}); err != nil {
		return nil, err
	}
	if len(results[1].Rows) == 0 {
		made = append(made, "bridge "+p.Bridge)
	}
	return append(made, fmt.Sprintf("port %s on bridge %s", p.Port, p.Bridge)), nil
}

package ovsdpdk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Sweep removes attachments with owner's mark that are not to be kept, at the default
// OVSDB and at those endpoints that are addresses of an OVSDB, all at once. An OVSDB
// whose socket does not exist has no attachments.
func (d *Delegate) Sweep(ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool) []error {
	addresses := []string{defaultOVSDB}
	for _, e := range endpoints {
		if checkAddress(e) == nil && !slices.Contains(addresses, e) {
			addresses = append(addresses, e)
		}
	}
	bases := append(slices.Clone(defaultSocketDirs), bounds.SocketDirs...)
	errs := make([]error, len(addresses))
	var group sync.WaitGroup
	for i, address := range addresses {
		if path := socketPath(address); path != "" && len(remotesOf(address)) == 1 {
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		group.Go(func() { errs[i] = d.sweepAt(ctx, address, owner, bases, keep) })
	}
	group.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// sweepAt removes the attachments that rows of one OVSDB name. It removes only files that
// have the attachment's names below the bases, whatever the rows say of files.
func (d *Delegate) sweepAt(ctx context.Context, address, owner string, bases []string, keep func(sandbox, ifName string) bool) error {
	results, err := d.db.transact(ctx, address, selectRows("Interface", includes("external_ids", pair(markOwner, owner)), "name", "external_ids"))
	if err != nil {
		return err
	}
	var errs []error
	for _, row := range results[0].Rows {
		ids := strMap(row, "external_ids")
		if ids[markSandbox] == "" || keep(ids[markSandbox], ids[markIfName]) {
			continue
		}
		a := &delegates.Attachment{Owner: owner, Sandbox: ids[markSandbox], IfName: ids[markIfName]}
		p := &port{Attachment: a, state: &state{OVSDB: address, Port: portName(a)}, files: markedFiles(a, bases...)}
		if err := p.misnamed(row); err != nil {
			errs = append(errs, err)
		} else if d.undo(ctx, []*port{p}); p.err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", p.Port, p.err))
		}
	}
	return errors.Join(errs...)
}

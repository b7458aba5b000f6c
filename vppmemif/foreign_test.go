package vppmemif

import (
	"strings"
	"testing"

	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/rig/standin"
)

// Somebody makes a memif of their own, with another id and without a tag, on the
// socket of an attachment. It is not the attachment's.
func TestUntaggedOfOthersOnOurSocket(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	r.admin().do(&memif.MemifCreateV2{SocketID: r.socketIDs(d)[stateOf(t, raw).Socket], ID: 9}, &memif.MemifCreateV2Reply{})
	mustDel(t, d, a, raw)
	if !strings.Contains(r.State(), "id=9") {
		t.Errorf("somebody else's memif is gone:\n%s", r.State())
	}
}

package agent

import (
	"bytes"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

// One that is too long is told so, also where a pipe may not hold it
// (fs.pipe-max-size): a root without CAP_SYS_RESOURCE, in a container, is enough.
func TestTooLongConfigurations(t *testing.T) {
	s, _, _ := site.NewKiller(t)
	for _, length := range []int{1<<20 + 1, 4<<20 - 1, 4 << 20, 4<<20 + 1, 8 << 20} {
		_, _, err := s.Call(site.Request{Verb: "DEL", Sandbox: site.AgentSandbox, Pod: "two", Conf: bytes.Repeat([]byte(" "), length)})
		site.Says(t, err, "bytes")
	}
}

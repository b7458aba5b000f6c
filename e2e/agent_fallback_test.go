package e2e

import (
	"bytes"
	"testing"
)

// One that is too long is told so, also where a pipe may not hold it
// (fs.pipe-max-size): a root without CAP_SYS_RESOURCE, in a container, is enough.
func TestTooLongConfigurations(t *testing.T) {
	s, _, _ := agentSite(t)
	for _, length := range []int{1<<20 + 1, 4<<20 - 1, 4 << 20, 4<<20 + 1, 8 << 20} {
		_, _, err := s.call(request{verb: "DEL", sandbox: agentSandbox, pod: "two", conf: bytes.Repeat([]byte(" "), length)})
		says(t, err, "bytes")
	}
}

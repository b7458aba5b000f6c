package ovsdpdk

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Attach gives each attachment its result: the addresses of IPAM on the interface, and
// the socket. IPAM's own answer stays as it is.
func TestAttachResult(t *testing.T) {
	c := userspaceTrial(t)
	before := string(toJSON(t, c.a.IPAM))
	mustAttach(t, c.d, c.a)
	if after := string(toJSON(t, c.a.IPAM)); after != before {
		t.Errorf("IPAM is %s, was %s", after, before)
	}
	want := `{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":"/run/netns/0123456789abcdef","socketPath":"` + decoded(t, c.a.State).Socket + `"}],` +
		`"ips":[{"address":"192.168.7.2/24","gateway":"192.168.7.1","interface":0}],"routes":[{"dst":"10.0.0.0/8","gw":"192.168.7.1"}]}`
	if diff := cmp.Diff(want, string(toJSON(t, c.a.Result))); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	mustDetach(t, c.d, c.a)
}

// The container's configuration is made again with the recorded addresses.
func TestRestoreConfigurationFile(t *testing.T) {
	c := userspaceTrial(t)
	mustAttach(t, c.d, c.a)
	c.a.IPAM = nil // as of a recorded attachment
	s := decoded(t, c.a.State)
	remove(t, s.Place(s.Config))
	c.mustRestore("file ")
	data, err := os.ReadFile(s.Place(s.Config))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(golden, indented(t, data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	description, err := c.a.Network.Describe(c.a)
	if err != nil || description.DeviceInfo.VhostUser.Path != s.Socket {
		t.Errorf("%+v, %v", description, err)
	}
	mustDetach(t, c.d, c.a)
}

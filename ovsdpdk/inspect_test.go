package ovsdpdk

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/shareddir"
)

// Inspect returns the columns that the vswitch has written, and no others.
func TestInspect(t *testing.T) {
	c := ways[0].begin(t)
	c.upTo("Check")
	port := portName(c.a)
	want := map[string]string{
		"ovsdb": c.address, "bridge": testBridge, "port": port, "mode": "client", "vlan": "7", "vlan_mode": "access", "ofport": "1",
		"socket": filepath.Join(c.dir, shareddir.OwnName(sandbox), sandbox[:12]+"-net1"),
	}
	wantInspected(t, c, want)
	c.vsctl("set", "Interface", port, "mtu=1500", "link_state=up", "status:status=connected", "status:features=0x1", "error=oops",
		"statistics:rx_packets=9007199254740993", "statistics:tx_packets=0", "statistics:ovs_tx_retries=5",
		"--", "set", "Port", port, "trunks=10,20", "vlan_mode=native-untagged")
	for key, value := range map[string]string{
		"mtu": "1500", "link_state": "up", "status": "connected", "error": "oops", "rx_packets": "9007199254740993", "tx_packets": "0",
		"trunks": "10,20", "vlan_mode": "native-untagged",
	} {
		want[key] = value
	}
	wantInspected(t, c, want)
	c.vsctl("set", "Interface", port, "external_ids:plexus-sandbox=other")
	_, err := c.a.Network.Inspect(bounded(t), c.a)
	wantError(t, err, port, "not this attachment's")
	c.vsctl("del-port", port)
	_, err = c.a.Network.Inspect(bounded(t), c.a)
	wantError(t, err, port, "gone")
}

func wantInspected(t *testing.T, c *trial, want map[string]string) {
	t.Helper()
	got, err := c.a.Network.Inspect(bounded(t), c.a)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The mode is that of the vswitch's side, as configurations have it.
func TestInspectServer(t *testing.T) {
	c := wayOf("server").attached(t)
	got, err := c.a.Network.Inspect(bounded(t), c.a)
	if err != nil || got["mode"] != "server" {
		t.Errorf("%v, %v", got, err)
	}
}

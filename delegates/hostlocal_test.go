package delegates

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// An address whose file is empty is of somebody who was killed while he reserved it:
// it is given away again. One with an owner is not.
func TestHostLocalAfterAKill(t *testing.T) {
	dir := t.TempDir()
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "host-local", "dataDir": %q, "subnet": "10.9.0.0/30"}}`, dir)
	if err := os.MkdirAll(filepath.Join(dir, "n"), 0o755); err != nil {
		t.Fatal(err)
	}
	only := filepath.Join(dir, "n", "10.9.0.2") // the one address beside the gateway's
	if err := os.WriteFile(only, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := conf.Attachment{Sandbox: "one", IfName: "net1", Conf: []byte(config)}
	r, err := hostLocalAdd(a, "")
	if err != nil || r.IPs[0].Address.String() != "10.9.0.2/30" {
		t.Fatalf("%v, %v", r, err)
	}
	if data, err := os.ReadFile(only); err != nil || string(data) != "one\r\nnet1" {
		t.Errorf("%q, %v", data, err)
	}
	a.Sandbox = "two"
	if r, err := hostLocalAdd(a, ""); err == nil {
		t.Errorf("the address of one is given to two: %v", r)
	}
	a.Sandbox = "one"
	if err := hostLocalDel(a, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(only); !os.IsNotExist(err) {
		t.Errorf("after DEL: %v", err)
	}
}

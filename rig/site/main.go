package site

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/fault"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// Main runs the tests of a suite in a node of their own, and ends the OVS that they have
// started. It is all that TestMain needs: os.Exit(site.Main(m)). The executable is also the
// plugin Recorder, and plexusd with a fault (package fault).
func Main(m *testing.M) int {
	if filepath.Base(os.Args[0]) == Recorder {
		return recorderPlugin()
	}
	if fault.Asked() {
		return fault.Answer()
	}
	node.Enter()
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if vswitch.running != nil {
		if err := vswitch.running.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return status
}

// prepare makes the folders and the settings that every suite has.
func prepare() error {
	// What plugins keep below /var/lib stays in this node's memory.
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /var/lib: %w", err)
	}
	if err := os.MkdirAll(DeviceInfoDir, 0o755); err != nil {
		return err
	}
	return writeNodeFile(map[string]any{"endpoints": Endpoints, "socketDirs": SocketDirs, "ipamDirs": []string{node.Dir()}})
}

// Endpoints are the vswitches that tests start, at any depth that they use.
var Endpoints = endpointPatterns()

func endpointPatterns() (all []string) {
	for depth := 1; depth <= 4; depth++ {
		below := node.Dir() + strings.Repeat("/*", depth)
		all = append(all, below, "unix:"+below)
	}
	return all
}

// SocketDirs are the folders that tests name.
var SocketDirs = []string{node.Dir() + "/*/*", node.Dir() + "/*/*/*", node.Dir() + "/*/*/*/*"}

// writeNodeFile writes the settings of the node for built-in delegates that are
// executed under their own names.
func writeNodeFile(keys map[string]any) error {
	data, err := json.Marshal(keys)
	if err == nil {
		err = os.MkdirAll("/etc/plexus", 0o755)
	}
	if err != nil {
		return err
	}
	return os.WriteFile("/etc/plexus/node.json", data, 0o644)
}

// DeviceInfoDir is where the device-information specification has the files of
// attachments.
const DeviceInfoDir = "/var/run/k8s.cni.cncf.io/devinfo/cni"

// vswitch is the one OVS-DPDK of this node, started by the first test that
// needs it.
var vswitch struct {
	once    sync.Once
	running *ovs.Switch
	err     error
}

// OVS is the OVS-DPDK of this node.
func OVS(t testing.TB) *ovs.Switch {
	t.Helper()
	vswitch.once.Do(func() {
		dir := filepath.Join(node.Dir(), "ovs")
		if vswitch.err = os.Mkdir(dir, 0o755); vswitch.err == nil {
			vswitch.running, vswitch.err = ovs.Start(context.Background(), dir, nil)
		}
	})
	if vswitch.err != nil {
		t.Fatal(vswitch.err)
	}
	return vswitch.running
}

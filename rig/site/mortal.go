package site

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/rig/vpp"
)

// MortalVPP is the machine's VPP, or a stand-in, in a process of its own, which
// is killed and started again.
type MortalVPP struct {
	t       testing.TB
	program string
	dir     string
	startup string // file, or empty
	Process interface {
		State() (string, error)
		Kill()
	}
}

// NewMortalVPP starts a VPP that ends with the test. It executes commands of its CLI two seconds
// after each start.
func NewMortalVPP(t testing.TB, commands ...string) *MortalVPP {
	t.Helper()
	v := &MortalVPP{t: t, program: vpp.Find(), dir: filepath.Join(node.Dir(), "mortal")}
	if v.program == "" {
		v.program = filepath.Join(node.Dir(), "standin")
		if _, err := os.Stat(v.program); err != nil {
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", v.program, "github.com/plexus-cni/plexus/rig/standin/serve").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	must.Do(t, os.MkdirAll(v.dir, 0o755))
	if len(commands) > 0 {
		v.startup = filepath.Join(v.dir, "commands")
		must.WriteFile(t, v.startup, strings.Join(commands, "\n")+"\n")
	}
	v.Start()
	return v
}

// Start starts VPP again.
func (v *MortalVPP) Start() {
	v.t.Helper()
	if v.program == vpp.Find() {
		p, err := vpp.StartWith(must.Deadline(v.t), v.program, v.dir, v.API(), v.startup)
		must.Do(v.t, err)
		v.t.Cleanup(p.Kill)
		v.Process = p
		return
	}
	p, err := standin.StartProcess(must.Deadline(v.t), v.program, v.dir, "-startup", v.startup)
	must.Do(v.t, err)
	v.t.Cleanup(p.Kill)
	v.Process = p
}

// Restart kills VPP and starts it again.
func (v *MortalVPP) Restart() {
	v.t.Helper()
	v.Process.Kill()
	v.Start()
}

// API is the path of the API socket.
func (v *MortalVPP) API() string { return filepath.Join(v.dir, standin.SocketName) }

// State is what VPP has.
func (v *MortalVPP) State() string {
	v.t.Helper()
	text, err := v.Process.State()
	must.Do(v.t, err)
	return text
}

package ovsdpdk

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// Delegate attaches pods to OVS-DPDK.
type Delegate struct {
	log   *slog.Logger
	parse func(network string, data []byte) (*Config, []string, error)
	db    *databases
}

var (
	_ delegates.Delegate = (*Delegate)(nil)
	_ delegates.Network  = (*network)(nil)
)

// New makes the delegate of type ovsdpdk.
func New(log *slog.Logger) *Delegate {
	return &Delegate{log: log, parse: parse, db: newDatabases()}
}

// NewUserspace makes the delegate of type userspace, engine ovs-dpdk.
func NewUserspace(log *slog.Logger) *Delegate {
	return &Delegate{log: log, parse: parseUserspace, db: newDatabases()}
}

// Parse reads a configuration. It looks at nothing else.
func (d *Delegate) Parse(name string, config []byte) (delegates.Network, []string, error) {
	c, warnings, err := d.parse(name, config)
	if err != nil {
		return nil, nil, conf.Refuse(err)
	}
	return &network{Config: c, d: d}, warnings, nil
}

// Close ends the connections to OVSDB. Requests under way fail.
func (d *Delegate) Close() { d.db.close() }

// state is all that Detach needs. It is decided before anything is changed, and
// stands in the journal and in the external_ids of the interface.
type state struct {
	OVSDB  string `json:"ovsdb"`
	Bridge string `json:"bridge"`
	Port   string `json:"port"` // name of port and interface
	Mode   string `json:"mode"` // of the vswitch's side
	shareddir.Use
	Socket string `json:"socket"` // path that the vswitch is given, or that the pod sees
}

// decodeState reads a recorded state and refuses one that could not be that of
// the sandbox: it says what is removed.
func decodeState(raw json.RawMessage, sandbox string) (*state, error) {
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("recorded state: %w", err)
	}
	if s.Port == "" || s.OVSDB == "" || !s.Valid(sandbox, s.Port) {
		return nil, fmt.Errorf("recorded state is not one of this sandbox: %.200s", raw)
	}
	return s, nil
}

// socketName is the name that a socket gets where the configuration gives none.
func socketName(sandbox, ifName string) string { return shareddir.Short(sandbox) + "-" + ifName }

// portName derives the name of port and interface: at most 15 bytes, the same
// for the same attachment.
func portName(a *delegates.Attachment) string {
	sum := sha256.Sum256([]byte(a.Owner + "\x00" + a.Sandbox + "\x00" + a.IfName))
	return "vhu" + hex.EncodeToString(sum[:6])
}

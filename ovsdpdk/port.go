package ovsdpdk

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// state is all that Detach needs. It is decided before anything is changed, and
// stands in the journal and in the external_ids of the interface.
type state struct {
	OVSDB  string `json:"ovsdb"`
	Bridge string `json:"bridge"`
	Port   string `json:"port"` // name of port and interface
	Mode   string `json:"mode"` // of the vswitch's side
	shareddir.Use
	Socket string `json:"socket"`           // path that the vswitch is given, or that the pod sees
	Device bool   `json:"device,omitempty"` // the socket is where a device plugin's device has it
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

// port is the port of one attachment.
type port struct {
	*delegates.Attachment
	*state
	network *network

	// Of Detach, which does without network:
	files  []shareddir.Use // to be removed
	socket *os.File        // of the vswitch, linked into a volume; nil for none
	err    error           // why something of the attachment remains
}

// portOf is the port of an attachment that has a state.
func portOf(a *delegates.Attachment) (*port, error) {
	s, err := decodeState(a.State, a.Sandbox)
	return &port{Attachment: a, state: s, network: networkOf(a)}, err
}

// byOVSDB groups ports that have a state by the OVSDB that they are in.
func byOVSDB(ports []*port) [][]*port {
	var groups [][]*port
	for _, p := range ports {
		if p.state == nil {
			continue
		}
		i := slices.IndexFunc(groups, func(g []*port) bool { return g[0].OVSDB == p.OVSDB })
		if i < 0 {
			groups = append(groups, []*port{p})
		} else {
			groups[i] = append(groups[i], p)
		}
	}
	return groups
}

// names lists interfaces of a pod, and their ports, for people.
func names(ports []*port) (ifNames, portNames string) {
	var pod, vswitch []string
	for _, p := range ports {
		pod, vswitch = append(pod, p.IfName), append(vswitch, p.Port)
	}
	return strings.Join(pod, ", "), strings.Join(vswitch, ", ")
}

// errorf makes an error that names the attachment.
func (p *port) errorf(format string, args ...any) error {
	return fmt.Errorf("%s (network %s): %w", p.IfName, p.Name, fmt.Errorf(format, args...))
}

// owns reports whether a row has the attachment's marks.
func (p *port) owns(row ovsdb.Row) bool {
	ids := strMap(row, "external_ids")
	return ids[markOwner] == p.Owner && ids[markSandbox] == p.Sandbox && ids[markIfName] == p.IfName
}

// mustOwn refuses a row that somebody else has made under the port's name.
func (p *port) mustOwn(row ovsdb.Row) error {
	if !p.owns(row) {
		return fmt.Errorf("port %s is not this attachment's: its marks of ownership (external_ids plexus-*) are not ours", p.Port)
	}
	return nil
}

// misnamed refuses a row with the attachment's marks and another name than its port:
// somebody has changed the marks.
func (p *port) misnamed(row ovsdb.Row) error {
	if name := text(row, "name"); name != p.Port {
		return fmt.Errorf("interface %s: its marks of ownership (external_ids plexus-*) are those of port %s: remove it with ovs-vsctl del-port", name, p.Port)
	}
	return nil
}

// recordedState is the state that a row records, as far as it can be read.
func recordedState(row ovsdb.Row) (s state) {
	_ = json.Unmarshal([]byte(strMap(row, "external_ids")[markState]), &s)
	return s
}

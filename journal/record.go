package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// Record is the recorded state of a sandbox.
type Record struct {
	Sandbox      string         `json:"sandbox"`
	Transactions []*Transaction `json:"transactions"`

	// Damage names the file and describes the damage behind the record, "" for none. A
	// newer version of the record may have been there. It is not recorded.
	Damage string `json:"-"`
}

// Transaction is one ADD in force. A sandbox has one, or several when built-in
// delegates are executed under their own names, once for each interface.
type Transaction struct {
	Network string    `json:"network"` // name of the request's configuration
	IfName  string    `json:"ifName"`  // CNI_IFNAME of the request
	Phase   Phase     `json:"phase"`
	Started time.Time `json:"started"`
	Netns   string    `json:"netns"`
	NetnsID string    `json:"netnsID"` // see podnet.ID; a path may be reused
	Pod     *conf.Pod `json:"pod,omitempty"`
	Request string    `json:"request,omitempty"` // Request.ID
	// Conf is the configuration of the request; Networks is the pod's networks
	// annotation as ADD read it, to see a change of it.
	Conf        json.RawMessage `json:"conf,omitempty"`
	Networks    string          `json:"networks,omitempty"`
	Path        []string        `json:"path"`                  // folders of executables
	StatusPlace string          `json:"statusPlace,omitempty"` // where network-status is published
	// Published are the names of all elements of network-status that plexus has ever
	// written; the other elements are foreign.
	Published []string `json:"published,omitempty"`
	// Abandoned tells, for people, what was given up and may be left.
	Abandoned   []string `json:"abandoned,omitempty"`
	Attachments []*Entry `json:"attachments"`
}

// Phase is the progress of a transaction.
type Phase string

// The phases. A transaction in any other phase than attached is undone.
const (
	PhaseAdding   Phase = "adding"
	PhaseAttached Phase = "attached"
	PhaseRemoving Phase = "removing" // a DEL that could not undo everything
	// PhaseAbandoned is of an attachment that an operator gives up: it is dropped where
	// executables do not undo it.
	PhaseAbandoned Phase = "abandoned"
)

// Entry is one attachment: its planned network, and the state that the built-in delegates of
// its chain need for DEL.
type Entry struct {
	conf.Network
	// Phase is "" when the transaction's applies. An attachment that is added or removed
	// while the pod runs has its own.
	Phase  Phase                      `json:"phase,omitempty"`
	State  map[string]json.RawMessage `json:"state,omitempty"` // by delegate
	Result json.RawMessage            `json:"result,omitempty"`
	// DisplacedRoutes are its default routes that were replaced by those of the attachment
	// with the key default-route.
	DisplacedRoutes []*types.Route `json:"displaced,omitempty"`
	// Executed: another meta-plugin has made the attachment by executables. It is undone
	// by executables too, even if the plugin is built in.
	Executed bool `json:"executed,omitempty"`
	// Origin is that meta-plugin's own record of the attachment.
	Origin json.RawMessage `json:"origin,omitempty"`
}

// journalVersion is the version of the file format.
const journalVersion = 1

// headerMark is the beginning of a header. In a record the same bytes are never followed by a
// line feed.
const headerMark = `{"plexusJournal":`

// header is the first line of a record.
type header struct {
	Version int    `json:"plexusJournal"`
	SHA256  string `json:"sha256"`
}

// Decode finds the last whole record in a file. why describes the damage when there is none;
// otherwise Damage describes damage behind the record, without the file's name.
func Decode(sandbox string, data []byte) (rec *Record, why string) {
	if len(data) == 0 {
		return nil, "it is empty"
	}
	for len(data) > 0 {
		found, later, bad := cutRecord(sandbox, data)
		if bad == "" {
			rec, why, data = found, "", later
			continue
		}
		if why == "" { // the first damage explains the others
			why = bad
		}
		next := bytes.Index(data[1:], []byte(headerMark)) // a line feed may be damaged
		if next < 0 {
			break
		}
		data = data[1+next:]
	}
	if rec == nil {
		return nil, why
	}
	rec.Damage = why
	return rec, ""
}

// cutRecord cuts the first record off the content of a file.
func cutRecord(sandbox string, data []byte) (rec *Record, later []byte, why string) {
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	body, later, _ := bytes.Cut(rest, []byte("\n"))
	sum := sha256.Sum256(body)
	var h header
	switch err := json.Unmarshal(first, &h); {
	case err != nil || h.Version == 0:
		return nil, nil, "there is no plexus header: truncated, or written by something else"
	case h.Version != journalVersion:
		return nil, nil, fmt.Sprintf("its format is version %d, this plexus knows version %d", h.Version, journalVersion)
	case hex.EncodeToString(sum[:]) != h.SHA256:
		return nil, nil, "its checksum does not match: truncated or changed"
	}
	rec = &Record{}
	if err := json.Unmarshal(body, rec); err != nil {
		return nil, nil, err.Error()
	}
	if rec.Sandbox != sandbox {
		return nil, nil, fmt.Sprintf("it is about sandbox %.80q", rec.Sandbox)
	}
	for _, tx := range rec.Transactions {
		if tx == nil || slices.Contains(tx.Attachments, nil) {
			return nil, nil, "it has an empty transaction or attachment"
		}
	}
	return rec, later, ""
}

// Encode returns a record in the format of the files.
func Encode(rec *Record) ([]byte, error) {
	body, err := json.Marshal(rec)
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s%d,\"sha256\":\"%x\"}\n%s\n", headerMark, journalVersion, sum, body), err
}

// Find returns the transaction of a request, nil when there is none.
func (r *Record) Find(ifName string) *Transaction {
	if r == nil {
		return nil
	}
	for _, tx := range r.Transactions {
		if tx.IfName == ifName {
			return tx
		}
	}
	return nil
}

// Remove removes a transaction from the record.
func (r *Record) Remove(tx *Transaction) {
	r.Transactions = slices.DeleteFunc(r.Transactions, func(t *Transaction) bool { return t == tx })
}

// Results are the recorded results, one for each attachment.
func (tx *Transaction) Results() ([]*types100.Result, error) {
	results := make([]*types100.Result, len(tx.Attachments))
	for i, entry := range tx.Attachments {
		var err error
		if results[i], err = entry.ParseResult(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// SetResults records the results of attachments, one for each.
func SetResults(entries []*Entry, results []*types100.Result) error {
	for i, entry := range entries {
		if err := entry.SetResult(results[i]); err != nil {
			return err
		}
	}
	return nil
}

// ParseResult is the recorded result.
func (e *Entry) ParseResult() (*types100.Result, error) {
	r := &types100.Result{}
	if err := json.Unmarshal(e.Result, r); err != nil {
		return nil, fmt.Errorf("recorded result of %s: %w", e.IfName, err)
	}
	if slices.Contains(r.Interfaces, nil) || slices.Contains(r.IPs, nil) || slices.Contains(r.Routes, nil) {
		return nil, fmt.Errorf("recorded result of %s: it has a null among its interfaces, ips or routes", e.IfName)
	}
	return r, nil
}

// SetResult records the result.
func (e *Entry) SetResult(r *types100.Result) (err error) {
	e.Result, err = json.Marshal(r)
	return err
}

// Networks are the planned networks of attachments.
func Networks(entries []*Entry) []conf.Network {
	all := make([]conf.Network, len(entries))
	for i, entry := range entries {
		all[i] = entry.Network
	}
	return all
}

// Latest is the newest transaction of a pod, which network-status describes. nil when there
// is none.
func (r *Record) Latest() (last *Transaction) {
	if r == nil {
		return nil
	}
	for _, tx := range r.Transactions {
		if tx.Conf != nil && tx.Pod != nil && (last == nil || tx.Started.After(last.Started)) {
			last = tx
		}
	}
	return last
}

package delegates

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/lock"
)

// Journal is where plexus writes what DEL will need, one file a sandbox. A
// Record in it is two lines of JSON: a header with the format's version and the
// checksum of the second line, and the record. A later form of it may follow; the
// last one is in force.
type Journal struct {
	dir string
}

// journalVersion is the version of the file format.
const journalVersion = 1

// maxSandbox bounds a container ID, in bytes: it becomes a file name.
const maxSandbox = 200

// Record is everything that plexus knows of a sandbox.
type Record struct {
	Sandbox      string         `json:"sandbox"`
	Transactions []*Transaction `json:"transactions"`
}

// Transaction is one ADD in force. A sandbox has one, or several when built-in
// delegates are executed under their own names, once for each interface.
type Transaction struct {
	Network string    `json:"network"` // name of the request's configuration
	IfName  string    `json:"ifName"`  // CNI_IFNAME of the request
	Phase   Phase     `json:"phase"`
	Started time.Time `json:"started"`
	Netns   string    `json:"netns"`
	NetnsID string    `json:"netnsID"` // see netns.ID; paths are used again
	Pod     *conf.Pod `json:"pod,omitempty"`
	Request string    `json:"request,omitempty"` // Request.ID
	// Conf is the configuration of the request; Networks is what the pod's
	// annotation asked for by then, to see a change of it.
	Conf        json.RawMessage `json:"conf,omitempty"`
	Networks    string          `json:"networks,omitempty"`
	Path        []string        `json:"path"`                  // folders of executables
	StatusPlace string          `json:"statusPlace,omitempty"` // where network-status is published
	// Published names the elements of network-status that were ever written; the
	// others there are somebody else's.
	Published   []string `json:"published,omitempty"`
	Attachments []*Entry `json:"attachments"`
}

// Phase says how far a transaction came.
type Phase string

// The phases. Whatever is not attached is to be undone.
const (
	PhaseAdding   Phase = "adding"
	PhaseAttached Phase = "attached"
	PhaseRemoving Phase = "removing" // a DEL that could not undo everything
)

// Entry is one attachment: the network as planned, and what the built-in
// delegates of its chain will need for DEL.
type Entry struct {
	conf.Network
	// Phase is "" when it is that of the transaction. An attachment that comes or
	// goes while the pod runs has its own.
	Phase  Phase                      `json:"phase,omitempty"`
	State  map[string]json.RawMessage `json:"state,omitempty"` // by delegate
	Result json.RawMessage            `json:"result,omitempty"`
	// Displaced are its default routes that gave way to the attachment which was
	// asked for the default route.
	Displaced []*types.Route `json:"displaced,omitempty"`
	// Executed: another meta-plugin made it, by executables alone, and so it is
	// undone, built-in or not.
	Executed bool `json:"executed,omitempty"`
	// Origin is what that meta-plugin itself has recorded of it.
	Origin json.RawMessage `json:"origin,omitempty"`

	// endpoints are allowed to it beside those of the engine's bounds.
	endpoints []string

	read  *readList    // of the transaction under way, which reads it once
	cache func() error // see Transaction.cache
}

// DamagedError is a journal file that cannot be used.
type DamagedError struct {
	File string
	Why  string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("journal file %s is not usable: %s", e.File, e.Why)
}

// OpenJournal names the journal below a data folder. Nothing is read or made
// before it is needed.
func OpenJournal(dataDir string) *Journal { return &Journal{dir: dataDir} }

// DataDir is the folder that the journal was opened with.
func (j *Journal) DataDir() string { return j.dir }

func (j *Journal) file(sandbox string) string {
	return filepath.Join(j.dir, "sandboxes", sandbox+".json")
}

// checkSandbox refuses a container ID that CNI refuses, or that is too long.
func checkSandbox(sandbox string) error {
	if err := utils.ValidateContainerID(sandbox); err != nil {
		return err
	}
	if len(sandbox) > maxSandbox {
		return fmt.Errorf("container ID of %d bytes, at most %d are allowed", len(sandbox), maxSandbox)
	}
	return nil
}

type header struct {
	Version int    `json:"plexusJournal"`
	SHA256  string `json:"sha256"`
}

// rereads is how often a damaged file is read: whoever does not hold the lock may
// read while Commit writes.
const rereads = 3

// Read returns the record of a sandbox, nil when there is none, a
// *DamagedError when its file is truncated, empty, foreign or of a version
// that is not known.
func (j *Journal) Read(sandbox string) (*Record, error) {
	name := j.file(sandbox)
	for read := 1; ; read++ {
		data, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil && !errors.Is(err, unix.EISDIR):
			return nil, fmt.Errorf("read journal: %w", err)
		}
		rec, why := decodeRecord(sandbox, data)
		if why == "" {
			return rec, nil
		}
		if read == rereads {
			return nil, &DamagedError{name, why}
		}
		time.Sleep(time.Millisecond)
	}
}

func decodeRecord(sandbox string, data []byte) (rec *Record, why string) {
	if len(data) == 0 {
		return nil, "it is empty"
	}
	body, later, why := cutRecord(data)
	for why == "" && len(later) > 0 {
		if body, later, why = cutRecord(later); why != "" {
			why = "in what follows its first record: " + why
		}
	}
	if why != "" {
		return nil, why
	}
	rec = &Record{}
	if err := json.Unmarshal(body, rec); err != nil {
		return nil, err.Error()
	}
	if rec.Sandbox != sandbox {
		return nil, fmt.Sprintf("it is about sandbox %.80q", rec.Sandbox)
	}
	for _, tx := range rec.Transactions {
		if tx == nil || slices.Contains(tx.Attachments, nil) {
			return nil, "it has an empty transaction or attachment"
		}
	}
	return rec, ""
}

// cutRecord cuts the first record off what a file holds.
func cutRecord(data []byte) (body, later []byte, why string) {
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	var h header
	if err := json.Unmarshal(first, &h); err != nil || h.Version == 0 {
		return nil, nil, "it has no plexus header: truncated, or written by something else"
	}
	if h.Version != journalVersion {
		return nil, nil, fmt.Sprintf("its format is version %d, this plexus knows version %d", h.Version, journalVersion)
	}
	body, later, _ = bytes.Cut(rest, []byte("\n"))
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != h.SHA256 {
		return nil, nil, "its checksum does not match: truncated or changed"
	}
	return body, later, ""
}

func encodeRecord(rec *Record) ([]byte, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	head, err := json.Marshal(header{journalVersion, hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, err
	}
	return slices.Concat(head, []byte("\n"), body, []byte("\n")), nil
}

// announce says that a record is written.
func announce(ctx context.Context, rec *Record) error {
	return conf.Step(ctx, "journal: write sandbox %s", rec.Sandbox)
}

// Begin replaces the record of a sandbox in one atomic step. Whatever ends this
// process, the next one reads it. With durable it also outlasts the node's power, when
// onDisk has returned; a file that is new is on its way there meanwhile.
func (j *Journal) Begin(ctx context.Context, rec *Record, durable bool) (onDisk func() error, err error) {
	if err := announce(ctx, rec); err != nil {
		return nil, err
	}
	data, err := encodeRecord(rec)
	name := j.file(rec.Sandbox)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("write journal: %w", err)
	}
	f, err := linkNew(name, data)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, errors.ErrUnsupported) {
		f, err = nil, replaceFile(name, data, durable)
	}
	if err == nil && f != nil && !durable {
		f, err = nil, f.Close()
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("write journal: %w", err)
	case f == nil:
		return func() error { return nil }, nil
	}
	synced := make(chan error, 1)
	go func() { synced <- errors.Join(f.Sync(), f.Close()) }()
	return sync.OnceValue(func() error {
		if err := <-synced; err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
		return nil
	}), nil
}

// Write replaces the record of a sandbox in one atomic step. durable makes it
// reach the disk before Write returns.
func (j *Journal) Write(ctx context.Context, rec *Record, durable bool) error {
	onDisk, err := j.Begin(ctx, rec, durable)
	if err != nil {
		return err
	}
	return onDisk()
}

// Commit puts the form of a record in force that follows what Begin has written; data is
// what encodeRecord makes of it. It is one write to the end of the file, which takes the
// kernel a tenth of the time that it needs to put another file into its place, and does
// not wait for the disk.
func (j *Journal) Commit(ctx context.Context, rec *Record, data []byte) error {
	if err := announce(ctx, rec); err != nil {
		return err
	}
	f, err := openFile(j.file(rec.Sandbox), unix.O_WRONLY|unix.O_APPEND, 0)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Remove forgets a sandbox.
func (j *Journal) Remove(ctx context.Context, sandbox string) error {
	if err := conf.Step(ctx, "journal: remove sandbox %s", sandbox); err != nil {
		return err
	}
	for _, name := range []string{j.file(sandbox) + beside, j.file(sandbox)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove journal: %w", err)
		}
	}
	return nil
}

// SetAside keeps a damaged file where nothing will read it, and says where.
func (j *Journal) SetAside(ctx context.Context, sandbox string) (string, error) {
	if err := conf.Step(ctx, "journal: set aside sandbox %s", sandbox); err != nil {
		return "", err
	}
	dir := filepath.Join(j.dir, "damaged")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	to := filepath.Join(dir, sandbox+".json")
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(dir, fmt.Sprintf("%s.%d.json", sandbox, n))
	}
	return to, os.Rename(j.file(sandbox), to)
}

// Damaged lists the files that were set aside.
func (j *Journal) Damaged() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(j.dir, "damaged", "*.json"))
	slices.Sort(names)
	return names, err
}

// Sandboxes lists the sandboxes that have a file, sorted.
func (j *Journal) Sandboxes() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(j.dir, "sandboxes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var sandboxes []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && checkSandbox(id) == nil {
			sandboxes = append(sandboxes, id)
		}
	}
	return sandboxes, nil
}

// Lock makes this process the only one that works on a sandbox. It waits no longer than
// lockWait, or than the context lets it (Skipping); the error is a lock.HeldError then.
func (j *Journal) Lock(ctx context.Context, sandbox string) (*lock.Lock, error) {
	object, what := "sandbox "+filepath.Clean(j.dir)+"\x00"+sandbox, "sandbox "+sandbox
	if budget, ok := ctx.Value(budgetKey{}).(*lock.Budget); ok {
		return budget.Take(ctx, object, what)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, errLockWait)
	defer cancel()
	return lock.Node.Take(ctx, object, what)
}

// find returns the transaction of a request, nil when there is none.
func (r *Record) find(ifName string) *Transaction {
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

func (r *Record) remove(tx *Transaction) {
	r.Transactions = slices.DeleteFunc(r.Transactions, func(t *Transaction) bool { return t == tx })
}

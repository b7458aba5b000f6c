// Package journal records the sandboxes of a node: the types, the format of the files, and
// their durability. The types hold nothing live.
package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/utils"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/lock"
)

// Journal has the records that DEL needs, one file a sandbox. A record in a file is two lines
// of JSON: a header with the format's version and the checksum of the second line, and the
// Record. Newer versions of the record may follow: the last whole one is in force.
type Journal struct {
	Locks lock.Table // of sandboxes: lock.Node

	dir   string
	files FileSystem
}

// maxSandbox bounds a container ID, in bytes: it becomes a file name.
const maxSandbox = 200

// DamagedError is a journal file that cannot be used.
type DamagedError struct {
	File string
	Why  string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("journal file %s is not usable: %s", e.File, e.Why)
}

// Open returns the journal below a data folder. It neither reads nor makes a file.
func Open(dataDir string) *Journal { return OpenOn(dataDir, osFiles{}) }

// OpenOn is Open on another file system.
func OpenOn(dataDir string, files FileSystem) *Journal {
	return &Journal{Locks: lock.Node, dir: dataDir, files: files}
}

// DataDir is the folder that the journal was opened with.
func (j *Journal) DataDir() string { return j.dir }

// File is the file of a sandbox.
func (j *Journal) File(sandbox string) string {
	return filepath.Join(j.dir, "sandboxes", sandbox+".json")
}

// CheckSandbox refuses a container ID that CNI refuses, or that is too long for the name
// of a file.
func CheckSandbox(sandbox string) error {
	if err := utils.ValidateContainerID(sandbox); err != nil {
		return err
	}
	if len(sandbox) > maxSandbox {
		return fmt.Errorf("container ID of %d bytes, at most %d are allowed", len(sandbox), maxSandbox)
	}
	return nil
}

// rereads is how often a damaged file is read again: a reader without the lock may read while
// Commit writes.
const rereads = 3

// Read returns the record of a sandbox, nil when there is none. Record.Damage describes damage
// behind the last whole record. A file without a whole record of this sandbox, in a known
// version, is a *DamagedError.
func (j *Journal) Read(sandbox string) (*Record, error) {
	name := j.File(sandbox)
	for read := 1; ; read++ {
		data, err := j.files.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil && !isDamage(err):
			return nil, fmt.Errorf("read journal: %w", err)
		}
		rec, why := Decode(sandbox, data)
		switch {
		case rec != nil && rec.Damage == "":
			return rec, nil
		case read < rereads:
			time.Sleep(time.Millisecond)
			continue
		case rec != nil:
			rec.Damage = fmt.Sprintf("journal file %s is damaged behind its last whole record: %s", name, rec.Damage)
			return rec, nil
		case err != nil:
			why = err.Error()
		}
		return nil, &DamagedError{name, why}
	}
}

// Changed is when the record of a sandbox was last written, now when that is not known.
func (j *Journal) Changed(sandbox string) time.Time {
	st, err := os.Stat(j.File(sandbox))
	if err != nil {
		return time.Now()
	}
	return st.ModTime()
}

// isDamage reports whether a read failed because the file or its disk is damaged: the same
// read would fail again.
func isDamage(err error) bool {
	damage := []error{unix.EISDIR, unix.EIO, unix.EUCLEAN, unix.EBADMSG}
	return slices.ContainsFunc(damage, func(one error) bool { return errors.Is(err, one) })
}

// Pending is a record that is in force, while it is written to the disk.
type Pending struct{ durable func() error }

// Durable returns when the record outlasts a loss of the node's power. It may be called
// more than once.
func (p *Pending) Durable() error { return p.durable() }

// Begin replaces the record of a sandbox in one atomic step: the next process reads it,
// however this one ends. With sync the record is also written to the disk: Pending.Durable
// waits for that. For a new file the write goes on in the background.
func (j *Journal) Begin(ctx context.Context, rec *Record, sync bool) (*Pending, error) {
	data, err := encode(ctx, rec)
	if err != nil {
		return nil, err
	}
	name := j.File(rec.Sandbox)
	folder := filepath.Dir(name)
	if err := file.MakeFolder(j.files, folder, 0o700); err != nil {
		return nil, failure(err)
	}
	j.forgetUndone(rec.Sandbox)
	f, err := linkNew(j.files, name, data)
	switch {
	case errors.Is(err, fs.ErrExist), errors.Is(err, errors.ErrUnsupported):
		err = file.Replacement{Path: name, Mode: 0o600, Disk: j.files}.Write(bytes.NewReader(data))
	case err == nil && sync:
		return pending(func() error { return errors.Join(f.Sync(), f.Close(), j.files.SyncFolder(folder)) }), nil
	case err == nil:
		err = f.Close()
	}
	return &Pending{func() error { return nil }}, failure(err)
}

// pending is a record while write writes it to the disk, in the background.
func pending(write func() error) *Pending {
	synced := make(chan error, 1)
	go func() { synced <- write() }()
	return &Pending{sync.OnceValue(func() error { return failure(<-synced) })}
}

// encode announces the step of writing a record, and returns the record's text.
func encode(ctx context.Context, rec *Record) ([]byte, error) {
	if err := delegates.Step(ctx, "journal: write sandbox %s", rec.Sandbox); err != nil {
		return nil, err
	}
	data, err := Encode(rec)
	return data, failure(err)
}

// failure names the step in an error of writing a record; nil stays nil.
func failure(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write journal: %w", err)
}

// Write replaces the record of a sandbox in one atomic step. It is on the disk when
// Write returns.
func (j *Journal) Write(ctx context.Context, rec *Record) error {
	pending, err := j.Begin(ctx, rec, true)
	if err != nil {
		return err
	}
	return pending.Durable()
}

// Commit appends a newer version of the record that Begin has written, and puts it in force.
// One write to the end of a file takes a tenth of the time of a rename. Commit does not wait
// for the disk.
func (j *Journal) Commit(ctx context.Context, rec *Record) error {
	data, err := encode(ctx, rec)
	if err != nil {
		return err
	}
	f, err := j.files.Append(j.File(rec.Sandbox))
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	return failure(err)
}

// Remove removes the record of a sandbox that is not plexus' any more.
func (j *Journal) Remove(ctx context.Context, sandbox string) error {
	if err := delegates.Step(ctx, "journal: remove sandbox %s", sandbox); err != nil {
		return err
	}
	for _, name := range []string{j.File(sandbox) + file.Ending, j.File(sandbox)} {
		if err := j.files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove journal: %w", err)
		}
	}
	return nil
}

// SetAside moves a damaged file out of the journal and returns its new path.
func (j *Journal) SetAside(ctx context.Context, sandbox string) (string, error) {
	if err := delegates.Step(ctx, "journal: set aside sandbox %s", sandbox); err != nil {
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
	return to, os.Rename(j.File(sandbox), to)
}

// Damaged lists the files that SetAside has moved.
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
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && CheckSandbox(id) == nil {
			sandboxes = append(sandboxes, id)
		}
	}
	return sandboxes, nil
}

// Transactions are the transactions of all sandboxes whose record can be used.
func (j *Journal) Transactions() (all []*Transaction, err error) {
	sandboxes, err := j.Sandboxes()
	for _, sandbox := range sandboxes {
		if rec, err := j.Read(sandbox); err == nil && rec != nil {
			all = append(all, rec.Transactions...)
		}
	}
	return all, err
}

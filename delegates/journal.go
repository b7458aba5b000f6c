package delegates

import (
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

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/lock"
)

// Journal is where plexus writes what DEL will need, one file a sandbox. A
// Record in it is two lines of JSON: a header with the format's version and the
// checksum of the second line, and the record. Later forms of it may follow: the last
// one that is whole is in force.
type Journal struct {
	dir   string
	files fileSystem
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

// OpenJournal names the journal below a data folder. Nothing is read or made
// before it is needed.
func OpenJournal(dataDir string) *Journal { return &Journal{dir: dataDir, files: osFiles{}} }

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

// rereads is how often a damaged file is read: a reader without the lock may come while
// Commit writes.
const rereads = 3

// Read returns the record of a sandbox, nil when there is none. What is damaged behind
// the last whole record is told by Record.Damage; a file without a whole record, of
// this sandbox and of a version that is known, is a *DamagedError.
func (j *Journal) Read(sandbox string) (*Record, error) {
	name := j.file(sandbox)
	for read := 1; ; read++ {
		data, err := j.files.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil && !isDamage(err):
			return nil, fmt.Errorf("read journal: %w", err)
		}
		rec, why := decodeRecord(sandbox, data)
		if err != nil && why != "" {
			why = err.Error()
		}
		switch {
		case why == "" && rec.Damage == "":
			return rec, nil
		case why == "" && read == rereads:
			rec.Damage = fmt.Sprintf("journal file %s is damaged behind its last whole record: %s", name, rec.Damage)
			return rec, nil
		case read == rereads:
			return nil, &DamagedError{name, why}
		}
		time.Sleep(time.Millisecond)
	}
}

// isDamage reports whether an error of reading says that a file, or the disk below it, is
// not as it should be; to try again helps nobody.
func isDamage(err error) bool {
	return errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG)
}

// announce says that a record is written.
func announce(ctx context.Context, rec *Record) error {
	return conf.Step(ctx, "journal: write sandbox %s", rec.Sandbox)
}

// Begin replaces the record of a sandbox in one atomic step: the next process reads it,
// however this one ends. With durable it also outlasts a loss of the node's power, when
// onDisk has returned; a file that is new is on its way to the disk meanwhile.
func (j *Journal) Begin(ctx context.Context, rec *Record, durable bool) (onDisk func() error, err error) {
	if err := announce(ctx, rec); err != nil {
		return nil, err
	}
	data, err := encodeRecord(rec)
	name := j.file(rec.Sandbox)
	if err == nil {
		err = makeFolder(j.files, filepath.Dir(name))
	}
	if err != nil {
		return nil, fmt.Errorf("write journal: %w", err)
	}
	f, err := linkNew(j.files, name, data)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, errors.ErrUnsupported) {
		f, err = nil, replaceFile(j.files, name, data)
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
	go func() {
		synced <- errors.Join(f.Sync(), f.Close(), j.files.SyncFolder(filepath.Dir(name)))
	}()
	return sync.OnceValue(func() error {
		if err := <-synced; err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
		return nil
	}), nil
}

// Write replaces the record of a sandbox in one atomic step. It is on the disk when
// Write returns.
func (j *Journal) Write(ctx context.Context, rec *Record) error {
	onDisk, err := j.Begin(ctx, rec, true)
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
	f, err := j.files.Append(j.file(rec.Sandbox))
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
		if err := j.files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

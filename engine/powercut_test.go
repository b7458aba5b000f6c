package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/journal"
)

// cutDisk is a journal.FileSystem in memory that logs each change and each fsync, so that a test
// can cut the power behind any of them.
type cutDisk struct {
	mu   sync.Mutex
	now  *diskState
	log  []diskOp
	next int // inode
}

// diskOp is one entry of the log. It changes data of an inode or a name in a folder, or
// has all such changes of before on the disk, or is a note of the test's.
type diskOp struct {
	inode   int    // data, or its fsync
	folder  string // names, or their fsync
	sync    bool
	data    func(old []byte, how damage) []byte
	names   func(*diskState)
	empties bool            // data: it writes nothing
	note    map[string]bool // attachments of which something may be there from now on
}

// diskState is what a file system has.
type diskState struct {
	folders map[string]bool
	names   map[string]int
	data    map[int][]byte
}

func (s *diskState) ReadFile(name string) ([]byte, error) {
	inode, ok := s.names[name]
	if !ok || !s.folders[filepath.Dir(name)] {
		return nil, fs.ErrNotExist
	}
	return s.data[inode], nil
}

// damage is what a loss of power does to one change that was not synced.
type damage int

const (
	lost damage = iota
	whole
	cutShort
	zeroed
	zeroTail
	flippedBit
	damages
)

func (d *cutDisk) do(op diskOp) {
	d.log = append(d.log, op)
	if op.names != nil {
		op.names(d.now)
	}
	if op.data != nil {
		d.now.data[op.inode] = op.data(d.now.data[op.inode], whole)
	}
}

func (d *cutDisk) note(begun map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, diskOp{note: maps.Clone(begun)})
}

func (d *cutDisk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, err := d.now.ReadFile(name)
	return bytes.Clone(data), err
}

func (d *cutDisk) Mkdir(name string, _ fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.now.folders[name]:
		return fs.ErrExist
	case !d.now.folders[filepath.Dir(name)]:
		return fs.ErrNotExist
	}
	d.do(diskOp{folder: filepath.Dir(name), names: func(s *diskState) { s.folders[name] = true }})
	return nil
}

func (d *cutDisk) Unnamed(string) (file.Handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	return &cutFile{d, d.next}, nil
}

func (d *cutDisk) Create(name string, _ fs.FileMode) (file.Handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.now.names[name]; ok {
		return nil, fs.ErrExist
	}
	d.next++
	inode := d.next
	d.do(diskOp{folder: filepath.Dir(name), names: func(s *diskState) { s.names[name] = inode }})
	d.do(diskOp{inode: inode, empties: true, data: func(old []byte, how damage) []byte {
		if how == lost {
			return old
		}
		return nil
	}})
	return &cutFile{d, inode}, nil
}

func (d *cutDisk) Append(name string) (file.Handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	inode, ok := d.now.names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &cutFile{d, inode}, nil
}

func (d *cutDisk) Link(f file.Handle, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.now.names[name]; ok {
		return fs.ErrExist
	}
	inode := f.(*cutFile).inode
	d.do(diskOp{folder: filepath.Dir(name), names: func(s *diskState) { s.names[name] = inode }})
	return nil
}

func (d *cutDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	inode, ok := d.now.names[from]
	if !ok {
		return fs.ErrNotExist
	}
	d.do(diskOp{folder: filepath.Dir(to), names: func(s *diskState) {
		delete(s.names, from)
		s.names[to] = inode
	}})
	return nil
}

func (d *cutDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.now.names[name]; !ok {
		return fs.ErrNotExist
	}
	d.do(diskOp{folder: filepath.Dir(name), names: func(s *diskState) { delete(s.names, name) }})
	return nil
}

func (d *cutDisk) SyncFolder(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.do(diskOp{folder: dir, sync: true})
	return nil
}

type cutFile struct {
	disk  *cutDisk
	inode int
}

func (f *cutFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	at, p := len(f.disk.now.data[f.inode]), bytes.Clone(p)
	f.disk.do(diskOp{inode: f.inode, data: func(old []byte, how damage) []byte {
		some := bytes.Clone(p)
		switch how {
		case lost:
			return old
		case cutShort:
			some = some[:len(some)/2]
		case zeroed:
			clear(some)
		case zeroTail:
			clear(some[len(some)/3:])
		case flippedBit:
			some[len(some)*2/3] ^= 4
		}
		all := make([]byte, max(len(old), at+len(some)))
		copy(all, old)
		copy(all[at:], some)
		return all
	}})
	return len(p), nil
}

func (f *cutFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.do(diskOp{inode: f.inode, sync: true})
	return nil
}

func (*cutFile) Close() error { return nil }

// crashes calls do with each state that a loss of power may leave behind the first n
// entries of the log, and with what the test has noted last. What was not synced is lost,
// or there, or there in part, each apart from the others.
func (d *cutDisk) crashes(base string, n int, do func(s *diskState, begun map[string]bool)) {
	var begun map[string]bool
	var kept []diskOp
	var pending []int // places in kept
	for _, op := range d.log[:n] {
		switch {
		case op.note != nil:
			begun = op.note
		case op.sync:
			pending = slices.DeleteFunc(pending, func(at int) bool {
				return kept[at].folder == op.folder && kept[at].inode == op.inode
			})
		default:
			pending = append(pending, len(kept))
			kept = append(kept, op)
		}
	}
	pending = matters(base, kept, pending)
	how := map[int]damage{}
	var each func(rest []int)
	each = func(rest []int) {
		if len(rest) > 0 {
			variants := damages
			if kept[rest[0]].names != nil || kept[rest[0]].empties {
				variants = whole + 1
			}
			for h := range variants {
				how[rest[0]] = h
				each(rest[1:])
			}
			return
		}
		s := &diskState{map[string]bool{base: true}, map[string]int{}, map[int][]byte{}}
		for at, op := range kept {
			h, ok := how[at]
			if !ok {
				h = whole
			}
			switch {
			case op.data != nil:
				s.data[op.inode] = op.data(s.data[op.inode], h)
			case h == whole:
				op.names(s)
			}
		}
		do(s, begun)
	}
	each(pending)
}

// matters are those of the pending changes that can be seen: data of an inode that no name
// can stand for any more is not.
func matters(base string, kept []diskOp, pending []int) []int {
	s := &diskState{map[string]bool{base: true}, map[string]int{}, map[int][]byte{}}
	seen := map[int]bool{}
	first := slices.IndexFunc(pending, func(at int) bool { return kept[at].names != nil })
	look := func() {
		for _, inode := range s.names {
			seen[inode] = true
		}
	}
	for at, op := range kept {
		if first >= 0 && at >= pending[first] {
			look()
		}
		if op.names != nil {
			op.names(s)
		}
	}
	look()
	return slices.DeleteFunc(pending, func(at int) bool { return kept[at].data != nil && !seen[kept[at].inode] })
}

// crashed is the file system after a loss of power: it is read.
type crashed struct {
	*cutDisk
	state *diskState
}

func (c *crashed) ReadFile(name string) ([]byte, error) { return c.state.ReadFile(name) }

// marking is a delegate that notes on a disk what of it may be there.
type marking struct {
	delegates.Base
	disk  *cutDisk
	mu    sync.Mutex
	begun map[string]bool
}

func (m *marking) set(ifName string, there bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.begun[ifName] = there; !there {
		delete(m.begun, ifName)
	}
	m.disk.note(m.begun)
}

// Parse is delegates.Delegate.
func (m *marking) Parse(string, []byte) (delegates.Network, []string, error) {
	return markingNetwork{}, nil, nil
}

// Attach is delegates.Delegate.
func (m *marking) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		m.set(a.IfName, true)
		a.Result = &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns, SocketPath: "/s"}}}
	}
	return nil
}

// Detach is delegates.Delegate.
func (m *marking) Detach(_ context.Context, all []*delegates.Attachment) []error {
	errs := make([]error, len(all))
	for i, a := range all {
		if a.IfName == "net2" && m.begun["stuck"] {
			errs[i] = errors.New("told to fail")
			continue
		}
		m.set(a.IfName, false)
	}
	return errs
}

type markingNetwork struct{ delegates.BaseNetwork }

// Prepare is delegates.Network.
func (markingNetwork) Prepare(_ context.Context, a *delegates.Attachment) (json.RawMessage, error) {
	return json.Marshal("state of " + a.IfName)
}

// silent is a Source that knows nothing and takes everything.
type silent struct{}

func (silent) Pod(context.Context, string, string, string) (*conf.Pod, error)    { return nil, nil }
func (silent) Recall(context.Context, string, string, string) (*conf.Pod, error) { return nil, nil }
func (silent) Network(context.Context, conf.Reference) (*conf.Definition, error) { return nil, nil }
func (silent) StatusPlace(*conf.Pod) string                                      { return "" }
func (silent) Retract(context.Context, string, string) error                     { return nil }
func (silent) Publish(context.Context, *conf.Pod, string, map[string]string) error {
	return nil
}

// The node loses its power behind any write, fsync, link, rename or unlink of the journal,
// and what was not synced is there or not, in any order: the record that DEL needs is
// read. When nothing but the cluster network is begun, whose DEL needs none, there may be
// none.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(t *testing.T, e *Engine, r *Request){
		"ADD": func(*testing.T, *Engine, *Request) {},
		"ADD and DEL": func(t *testing.T, e *Engine, r *Request) {
			if err := e.Del(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		},
		"ADD and a DEL that fails": func(t *testing.T, e *Engine, r *Request) {
			m := e.Delegates["marking"].(*marking)
			m.begun["stuck"] = true
			if err := e.Del(t.Context(), r); err == nil {
				t.Fatal("DEL succeeded")
			}
			delete(m.begun, "stuck")
			if err := e.Del(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		},
		"ADD twice": func(t *testing.T, e *Engine, r *Request) {
			other := *r
			other.IfName = "eth1"
			if _, err := e.Add(t.Context(), &other); err != nil {
				t.Fatal(err)
			}
			if err := e.Del(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		},
		"ADD and update": func(t *testing.T, e *Engine, r *Request) {
			rec, err := e.Journal.Read(r.Sandbox)
			if err != nil {
				t.Fatal(err)
			}
			tx := rec.Transactions[0]
			tx.Pod = &conf.Pod{Namespace: "default", Name: "a"}
			u := &hotplug{e: e, r: r, rec: rec, tx: tx, pod: tx.Pod}
			more := tx.Attachments[1].Network
			more.IfName = "net9"
			all, err := u.attach(t.Context(), []conf.Network{more})
			if err != nil {
				t.Fatal(err)
			}
			if err := u.commit(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			tx.Attachments[1].Phase = journal.PhaseRemoving
			if err := u.detachUnfinished(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { cutPower(t, name, then) })
	}
}

func cutPower(t *testing.T, name string, then func(t *testing.T, e *Engine, r *Request)) {
	dir := t.TempDir()
	script(t, dir, "cluster", `cat > /dev/null; echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]}'`)
	disk := &cutDisk{now: &diskState{map[string]bool{dir: true}, map[string]int{}, map[int][]byte{}}}
	m := &marking{disk: disk, begun: map[string]bool{}}
	e := &Engine{
		Delegates: map[string]delegates.Delegate{"marking": m}, Source: silent{}, Log: slog.New(slog.DiscardHandler),
		Journal: withLocks(journal.OpenOn(dir, disk)), Stderr: t.Output(),
	}
	network := func(name, typ string) string {
		return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "type": %q}`, name, typ)
	}
	c, err := conf.Parse([]byte(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": %q, "delegates": [%s, %s, %s]}`,
		dir, network("cluster", "cluster"), network("one", "marking"), network("two", "marking"))))
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{Conf: c, Network: "node", Sandbox: "abc", Netns: "/proc/self/ns/net", IfName: "eth0", Path: []string{dir}}
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(m.begun) != 2 {
		t.Fatalf("begun: %v", m.begun)
	}
	then(t, e, r)
	states, found := 0, map[string]int{}
	for n := range len(disk.log) + 1 {
		disk.crashes(dir, n, func(s *diskState, begun map[string]bool) {
			states++
			rec, err := journal.OpenOn(dir, &crashed{disk, s}).Read("abc")
			var damaged *journal.DamagedError
			switch {
			case errors.As(err, &damaged):
				found["a damaged file"]++
			case err != nil:
				t.Fatal(err)
			case rec == nil:
				found["nothing"]++
			case rec.Damage != "":
				found["a record with damage behind it"]++
			default:
				found["a record"]++
			}
			have := map[string]string{}
			if rec != nil {
				for _, tx := range rec.Transactions {
					for _, entry := range tx.Attachments {
						have[entry.IfName] = string(entry.State["marking"])
					}
				}
			}
			for ifName := range begun {
				if want := fmt.Sprintf("%q", "state of "+ifName); ifName != "stuck" && have[ifName] != want {
					t.Errorf("behind entry %d of %d: begun is %v, the record has %v, %v", n, len(disk.log), begun, have, err)
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%s: power cut behind each of %d writes, syncs and marks: %d states, of which %v", name, len(disk.log), states, found)
	if states < 20 || found["a record with damage behind it"] == 0 {
		t.Error("the power is cut nowhere")
	}
}

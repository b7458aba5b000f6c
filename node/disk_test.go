package node

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/plexus-cni/plexus/file"
)

// stoppedDisk is this machine's disk of which call number stop fails, counted from 1. dead:
// those behind it fail too, as for a process that was killed there.
type stoppedDisk struct {
	file.Local
	calls, stop int
	dead        bool

	unsynced map[string]bool // files and folders that a loss of power would change
	moves    func(path string)
}

var errStopped = errors.New("stopped")

func (d *stoppedDisk) call() error {
	d.calls++
	if d.stop > 0 && (d.calls == d.stop || d.dead && d.calls > d.stop) {
		return errStopped
	}
	return nil
}

// changes notes that a loss of power would change a path.
func (d *stoppedDisk) changes(path string) {
	if d.unsynced == nil {
		d.unsynced = map[string]bool{}
	}
	d.unsynced[path] = true
}

// before tells the test of a call that takes something away.
func (d *stoppedDisk) before(path string) {
	if d.moves != nil {
		d.moves(path)
	}
}

func (d *stoppedDisk) Mkdir(name string, mode fs.FileMode) error {
	if err := d.call(); err != nil {
		return err
	}
	err := d.Local.Mkdir(name, mode)
	if err == nil {
		d.changes(filepath.Dir(name))
	}
	return err
}

func (d *stoppedDisk) Create(name string, mode fs.FileMode) (file.Handle, error) {
	if err := d.call(); err != nil {
		return nil, err
	}
	f, err := d.Local.Create(name, mode)
	if err != nil {
		return nil, err
	}
	d.changes(filepath.Dir(name))
	return &stoppedHandle{f, d, name}, nil
}

func (d *stoppedDisk) Rename(from, to string) error {
	d.before(from)
	if err := d.call(); err != nil {
		return err
	}
	d.changes(filepath.Dir(to))
	return d.Local.Rename(from, to)
}

func (d *stoppedDisk) Remove(name string) error {
	d.before(name)
	if err := d.call(); err != nil {
		return err
	}
	d.changes(filepath.Dir(name))
	return d.Local.Remove(name)
}

func (d *stoppedDisk) SyncFolder(dir string) error {
	if err := d.call(); err != nil {
		return err
	}
	delete(d.unsynced, dir)
	return d.Local.SyncFolder(dir)
}

type stoppedHandle struct {
	file.Handle
	disk *stoppedDisk
	name string
}

func (h *stoppedHandle) Write(data []byte) (int, error) {
	if err := h.disk.call(); err != nil {
		n, _ := h.Handle.Write(data[:len(data)/2])
		return n, err
	}
	h.disk.changes(h.name)
	return h.Handle.Write(data)
}

func (h *stoppedHandle) Sync() error {
	if err := h.disk.call(); err != nil {
		return err
	}
	delete(h.disk.unsynced, h.name)
	return h.Handle.Sync()
}

package file

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// brokenDisk is this machine's disk of which one call fails, counted from 1. dead: those
// behind it fail too, as for a process that was killed there.
type brokenDisk struct {
	Local
	fails int
	dead  bool
	calls []string // what was called, with the last element of each path
}

var errBroken = errors.New("broken")

func (d *brokenDisk) call(what string, paths ...string) error {
	for _, path := range paths {
		what += " " + filepath.Base(path)
	}
	d.calls = append(d.calls, what)
	if n := len(d.calls); n == d.fails || d.dead && d.fails > 0 && n > d.fails {
		return errBroken
	}
	return nil
}

func (d *brokenDisk) Mkdir(name string, mode fs.FileMode) error {
	if err := d.call("mkdir", name); err != nil {
		return err
	}
	return d.Local.Mkdir(name, mode)
}

func (d *brokenDisk) Create(name string, mode fs.FileMode) (Handle, error) {
	if err := d.call("create", name); err != nil {
		return nil, err
	}
	f, err := d.Local.Create(name, mode)
	return &brokenHandle{f, d}, err
}

func (d *brokenDisk) Rename(from, to string) error {
	if err := d.call("rename", from, to); err != nil {
		return err
	}
	return d.Local.Rename(from, to)
}

func (d *brokenDisk) Remove(name string) error {
	if err := d.call("remove", name); err != nil {
		return err
	}
	return d.Local.Remove(name)
}

func (d *brokenDisk) SyncFolder(dir string) error {
	if err := d.call("sync folder", dir); err != nil {
		return err
	}
	return d.Local.SyncFolder(dir)
}

type brokenHandle struct {
	Handle
	disk *brokenDisk
}

// Write writes half of the data before it fails.
func (h *brokenHandle) Write(data []byte) (int, error) {
	if err := h.disk.call("write"); err != nil {
		n, _ := h.Handle.Write(data[:len(data)/2])
		return n, err
	}
	return h.Handle.Write(data)
}

func (h *brokenHandle) Sync() error {
	if err := h.disk.call("sync"); err != nil {
		return err
	}
	return h.Handle.Sync()
}

func (h *brokenHandle) Close() error {
	return errors.Join(h.disk.call("close"), h.Handle.Close())
}

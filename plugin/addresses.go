package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/lock"
)

// Names in a folder of addresses that are no addresses (host-local's backend/disk).
const (
	addressLock  = "lock"
	lastReserved = "last_reserved_ip."
)

// maxOwner bounds the content of an address' file, in bytes.
const maxOwner = 4096

// addressFolder is a network's folder of addresses, one file each: its name is the
// address, its content the owner. It is locked from openAddresses to Close. No
// symbolic link in it is followed: a link there is no address.
type addressFolder struct {
	name string // for people
	dir  *os.File
	lock int
}

// openAddresses opens the folder at the path below the folder base, and locks it. base
// is the node's and may be a link; below it no link is followed. It returns nil for a missing
// folder when create is false.
func openAddresses(ctx context.Context, base string, below []string, create bool) (*addressFolder, error) {
	if create {
		if err := os.MkdirAll(base, 0o755); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	name := base
	for at := 0; err == nil && at < len(below); at++ {
		above := fd
		name = filepath.Join(name, below[at])
		const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(above, below[at], flags, 0)
		if create && errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(above, below[at], 0o755); err == nil || errors.Is(err, unix.EEXIST) {
				fd, err = unix.Openat(above, below[at], flags, 0)
			}
		}
		_ = unix.Close(above)
	}
	switch {
	case errors.Is(err, unix.ENOENT) && !create:
		return nil, nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("folder of addresses %s: it is no folder, or a symbolic link, which is not followed", name)
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := &addressFolder{name, os.NewFile(uintptr(fd), name), -1}
	f.lock, err = f.openAt(addressLock, unix.O_RDONLY|unix.O_CREAT, 0o750)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EINVAL) { // no lock of host-local's
		if err = f.remove(addressLock); err == nil {
			f.lock, err = f.openAt(addressLock, unix.O_RDONLY|unix.O_CREAT, 0o750)
		}
	}
	if err == nil {
		err = flock(ctx, f.lock)
	}
	if err != nil {
		_ = f.dir.Close()
		return nil, fmt.Errorf("lock the folder of addresses %s: %w", name, err)
	}
	return f, nil
}

// Close ends the lock. flock(2) ends with the last descriptor of the file.
func (f *addressFolder) Close() { _, _ = unix.Close(f.lock), f.dir.Close() }

// addressWait bounds the wait for a folder of addresses that another process has locked, so
// that a verb ends with code 11 within ten seconds.
const addressWait = 6 * time.Second

// flock takes the lock of a file that host-local's executable holds at times. The
// descriptor is closed when there is no lock.
func flock(ctx context.Context, fd int) error {
	ctx, cancel := context.WithTimeout(ctx, addressWait)
	defer cancel()
	had, err := lock.Poll(ctx, func() (bool, error) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return err == nil, err
	})
	if had {
		return nil
	}
	_ = unix.Close(fd)
	if err == nil {
		err = delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("another process, host-local perhaps, holds its file %q: %w", addressLock, ctx.Err()))
	}
	return err
}

// openAt opens a regular file of the folder. It fails with unix.ELOOP for a link and with
// unix.EINVAL for any other kind.
func (f *addressFolder) openAt(name string, flags int, perm uint32) (int, error) {
	fd, err := -1, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat(int(f.dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, perm)
	}
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = unix.EINVAL
		}
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: filepath.Join(f.name, name), Err: err}
	}
	return fd, nil
}

func (f *addressFolder) read(name string) (string, error) {
	fd, err := f.openAt(name, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	file := os.NewFile(uintptr(fd), filepath.Join(f.name, name))
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxOwner))
	return strings.TrimSpace(string(data)), err
}

func (f *addressFolder) remove(name string) error {
	if err := unix.Unlinkat(int(f.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: filepath.Join(f.name, name), Err: err}
	}
	return nil
}

// each calls do with each file that may be an address, and its owner. A file that cannot be
// read is an error, and the others are still visited.
func (f *addressFolder) each(do func(name, owner string) error) error {
	if _, err := f.dir.Seek(0, io.SeekStart); err != nil {
		return err
	}
	entries, err := f.dir.ReadDir(-1)
	errs := []error{err}
	for _, entry := range entries {
		name := entry.Name()
		if !entry.Type().IsRegular() || name == addressLock || strings.HasPrefix(name, lastReserved) {
			continue
		}
		owner, err := f.read(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EINVAL):
			continue // another process has replaced it
		case err == nil:
			err = do(name, owner)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// owned are the files of an attachment. Those without the interface's name, which
// host-local wrote once, count where there are no others, as they do for host-local.
func (f *addressFolder) owned(id, ifName string) ([]string, error) {
	id = strings.TrimSpace(id)
	var mine, old []string
	err := f.each(func(name, owner string) error {
		switch owner {
		case id + disk.LineBreak + ifName:
			mine = append(mine, name)
		case id:
			old = append(old, name)
		}
		return nil
	})
	if len(mine) == 0 {
		mine = old
	}
	return mine, err
}

// release removes the files of an attachment. A file that cannot be read or removed is an
// error, as an address may stay reserved.
func (f *addressFolder) release(id, ifName string) error {
	mine, err := f.owned(id, ifName)
	errs := []error{err}
	for _, name := range mine {
		errs = append(errs, f.remove(name))
	}
	return errors.Join(errs...)
}

// collect releases the addresses of sandboxes that keep does not keep. An empty file belongs
// to a process that was killed during the reservation, as a live process would have the lock.
// A file whose content has no interface may be an operator's note, and stays.
func (f *addressFolder) collect(ctx context.Context, network string, keep func(sandbox string) bool) error {
	return f.each(func(name, owner string) error {
		if net.ParseIP(name) == nil {
			return nil
		}
		sandbox, ifName, whole := strings.Cut(owner, disk.LineBreak)
		if owner != "" && (!whole || journal.CheckSandbox(sandbox) != nil || conf.CheckIfName(ifName) != nil || keep(sandbox)) {
			return nil
		}
		if err := delegates.Step(ctx, "network %s: release address %s of %s, sandbox %.200s", network, name, ifName, sandbox); err != nil {
			return err
		}
		return f.remove(name)
	})
}

// addressStore is the folder as a backend.Store of host-local's allocator. The folder stays
// locked, and is closed by its opener.
type addressStore struct {
	*addressFolder
	mine []string // addresses of the requesting attachment
}

func (*addressStore) Lock() error                           { return nil }
func (*addressStore) Unlock() error                         { return nil }
func (*addressStore) Close() error                          { return nil }
func (s *addressStore) ReleaseByID(id, ifName string) error { return s.release(id, ifName) }

// GetByID is backend.Store.
func (s *addressStore) GetByID(string, string) (ips []net.IP) {
	for _, name := range s.mine {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

// LastReservedIP is backend.Store. An unreadable address counts as none:
// the search then begins at the first address.
func (s *addressStore) LastReservedIP(rangeID string) (net.IP, error) {
	text, err := s.read(lastReserved + rangeID)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	return net.ParseIP(text), nil
}

// Reserve is backend.Store: false when the address has a file. A file is made and then written:
// an empty one belongs to a process that was killed in between.
func (s *addressStore) Reserve(id, ifName string, ip net.IP, rangeID string) (bool, error) {
	name := ip.String()
	var st unix.Stat_t
	if unix.Fstatat(int(s.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Size == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		if err := s.remove(name); err != nil {
			return false, err
		}
	}
	err := s.create(name, strings.TrimSpace(id)+disk.LineBreak+ifName)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		return false, err
	}
	// A former file of any kind is removed; a link is not followed.
	last := lastReserved + rangeID
	if err = s.remove(last); err == nil {
		err = s.create(last, name)
	}
	if err != nil {
		return false, errors.Join(err, s.remove(name))
	}
	return true, nil
}

// create makes a file with its content, fs.ErrExist when there is one.
func (f *addressFolder) create(name, content string) error {
	fd, err := f.openAt(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), filepath.Join(f.name, name))
	_, err = file.WriteString(content)
	if err = errors.Join(err, file.Close()); err != nil {
		err = errors.Join(err, f.remove(name))
	}
	return err
}

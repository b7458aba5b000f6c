// Package lock makes one process, and one goroutine in it, the only one that works on
// a shared object: a sandbox, a bridge domain, the agent's socket.
//
// A Table is a file of which one byte stands for each object: the lock is an open file
// description lock on that byte (fcntl(2), F_OFD_SETLK). It needs no file of its own,
// so it can be taken although the file system has no inode left. A child that inherits
// Lock.File holds the lock too: when its parent is killed, the object stays locked until
// the last of the children has ended. Release frees it even while a child still runs.
package lock

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/file"
)

// Table is the path of a file whose bytes are locks. The file is made when it is missing
// and never removed, so all processes lock the same one.
type Table string

// Node is the table of this node's objects, in a file system that a reboot empties.
const Node = Table("/run/plexus/locks/objects")

// Lock is a lock that this process holds.
type Lock struct {
	file *os.File
	at   int64
}

// Take takes the lock of an object of this node. It waits until ctx is done; what names
// the object in the error, a *HeldError when others held it for all that time.
func Take(ctx context.Context, object, what string) (release func(), err error) {
	l, err := Node.Take(ctx, object, what)
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// Take is like the function Take, in this table.
func (t Table) Take(ctx context.Context, object, what string) (*Lock, error) {
	l, err := t.wait(ctx, object, what)
	if err == nil && l == nil {
		err = &HeldError{What: what, Holders: t.search().of(object), Cause: context.Cause(ctx)}
	}
	return l, err
}

// wait takes the lock, nil when ctx is done before others have released it. It takes a free
// lock even if ctx is done.
func (t Table) wait(ctx context.Context, object, what string) (*Lock, error) {
	table, err := t.open()
	if err == nil {
		l := &Lock{table, offset(object)}
		var had bool
		if had, err = Poll(ctx, func() (bool, error) { return l.set(unix.F_WRLCK) }); had {
			return l, nil
		}
		_ = table.Close()
	}
	if err != nil {
		err = fmt.Errorf("lock %s: %w", what, err)
	}
	return nil, err
}

func (t Table) open() (*os.File, error) {
	table, err := file.Open(string(t), unix.O_RDWR|unix.O_CREAT, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		// Sockets of pods are beside it: their users have to pass the folder.
		if err = os.MkdirAll(filepath.Dir(string(t)), 0o755); err == nil {
			table, err = file.Open(string(t), unix.O_RDWR|unix.O_CREAT, 0o600)
		}
	}
	return table, err
}

// offset is the byte of an object: 62 bits of a hash of its name.
func offset(object string) int64 {
	sum := sha256.Sum256([]byte(object))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2)
}

// set locks or unlocks the byte; false when another description has it locked.
func (l *Lock) set(typ int16) (bool, error) {
	of := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: l.at, Len: 1}
	err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &of)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINTR):
		return false, nil
	}
	return false, fmt.Errorf("byte %d of %s: %w", l.at, l.file.Name(), err)
}

// File is what a child inherits to hold the lock too.
func (l *Lock) File() *os.File { return l.file }

// Release frees the object, even if another process has the file open.
func (l *Lock) Release() {
	_, _ = l.set(unix.F_UNLCK)
	_ = l.file.Close()
}

type contextKey struct{}

// With returns a context for work under a lock. Processes executed for it inherit the lock (Of).
func With(ctx context.Context, l *Lock) context.Context {
	return context.WithValue(ctx, contextKey{}, l)
}

// Of is the lock of a context (With), nil for none.
func Of(ctx context.Context) *Lock {
	l, _ := ctx.Value(contextKey{}).(*Lock)
	return l
}

// Poll calls try until it takes the lock or fails, or ctx is done, at least once. had is false
// when ctx was done first. It polls because a wait in the kernel could not be cancelled.
func Poll(ctx context.Context, try func() (bool, error)) (had bool, err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if had, err = try(); had || err != nil {
			return had, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(pause):
		}
	}
}

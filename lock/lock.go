// Package lock makes one process, and one goroutine in it, the only one that
// works on a shared object: a sandbox, a bridge domain. A lock is a file with
// flock(2) on it: it is the kernel's and ends with the process, and the file is
// removed by whoever holds it, so that none is left.
package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is where the locks of this node are: a file system in memory, which makes and
// removes a file without waiting for a disk.
const Dir = "/run/plexus/locks"

// Take takes the lock that a file stands for, in a folder that is made when it
// is missing. It waits until ctx is done. what names the object in errors.
func Take(ctx context.Context, file, what string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		f, err := try(file)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", what, err)
		}
		if f != nil {
			return func() { _ = os.Remove(file); _ = f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: another operation on it is under way: %w", what, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// try returns nil when somebody else holds the lock, or has just removed the
// file that was locked.
func try(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		mine, errMine := f.Stat()
		there, errThere := os.Stat(file)
		if errMine == nil && errThere == nil && os.SameFile(mine, there) {
			return f, nil
		}
		err = unix.EWOULDBLOCK
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return nil, err
}

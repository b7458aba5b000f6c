// Package lock makes one process, and one goroutine in it, the only one that
// works on a shared object: a sandbox, a bridge domain. A lock is a file with
// flock(2) on it: it is the kernel's and ends with the process, and the file is
// removed by whoever holds it, so that none is left.
package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		fd, err := try(file)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
				fd, err = try(file)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", what, err)
		}
		if fd >= 0 {
			return func() { _ = unix.Unlink(file); _ = unix.Close(fd) }, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: another operation on it is under way: %w", what, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// try opens and locks the file. It returns -1 when somebody else holds the lock, or has
// just removed the file that was locked. It asks the kernel only for what it needs:
// os.OpenFile finds out, by five calls more, whether a file can be polled.
func try(file string) (int, error) {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.EINTR):
		return -1, nil
	case err != nil:
		return -1, &fs.PathError{Op: "open", Path: file, Err: err}
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		var mine, there unix.Stat_t
		if unix.Fstat(fd, &mine) == nil && unix.Stat(file, &there) == nil && mine.Dev == there.Dev && mine.Ino == there.Ino {
			return fd, nil
		}
		err = unix.EWOULDBLOCK
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return -1, nil
	}
	return -1, fmt.Errorf("lock %s: %w", file, err)
}

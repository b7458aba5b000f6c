package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/file"
)

// TakeFile takes a lock that has a file of its own: flock(2) on it. Releasing the lock removes
// the file. It is used for the agent's socket and the installer, as former versions of plexus
// use it and exclude this one during an upgrade. It waits until ctx is done; what names the
// object in errors.
func TakeFile(ctx context.Context, path, what string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", what, err)
	}
	var f *os.File
	had, err := Poll(ctx, func() (had bool, err error) {
		f, err = tryFile(path)
		return f != nil, err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", what, err)
	case !had:
		return nil, &HeldError{What: what, Cause: context.Cause(ctx)}
	}
	return func() { _ = os.Remove(path); _ = f.Close() }, nil
}

// tryFile opens and locks the file. It returns nil when another process holds the lock,
// or has just removed the file that was locked.
func tryFile(path string) (*os.File, error) {
	f, err := file.Open(path, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		mine, errMine := f.Stat()
		there, errThere := os.Stat(path)
		if errMine == nil && errThere == nil && os.SameFile(mine, there) {
			return f, nil
		}
		err = unix.EWOULDBLOCK
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
}

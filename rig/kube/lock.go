package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is held by the cluster that runs. It holds the path of the cluster's
// folder, if that is to go with the cluster.
const lockFile = "/run/lock/plexus-kube"

// lockLimit is how long the cluster before may take.
const lockLimit = 10 * time.Minute

// acquire waits for the cluster before to end. If that was killed, its folder is
// removed.
func acquire(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(lockFile), 0o755); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	var f *os.File
	err := poll(ctx, "no other cluster runs on this machine", func(context.Context) (bool, error, error) {
		var err error
		if f, err = os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return false, nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			owner, _ := os.ReadFile(lockFile)
			f.Close()
			return false, fmt.Errorf("one runs in %s", strings.TrimSpace(string(owner))), nil
		}
		if err != nil {
			f.Close()
			return false, nil, err
		}
		// The one before may have removed the file between the two calls.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(lockFile)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			f.Close()
			return false, nil, nil
		}
		return true, nil, nil
	})
	if err != nil {
		return nil, err
	}
	if left, err := os.ReadFile(lockFile); err == nil && strings.HasPrefix(filepath.Base(string(left)), folderPrefix) {
		if err := os.RemoveAll(string(left)); err != nil {
			f.Close()
			return nil, fmt.Errorf("remove what a killed cluster left: %w", err)
		}
	}
	return f, f.Truncate(0)
}

// release lets the next cluster start.
func release(f *os.File) error {
	defer f.Close()
	if err := os.Remove(lockFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

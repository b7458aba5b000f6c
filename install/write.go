package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the name of a file that is being written. It has no
// extension that a runtime looks for.
const tempPrefix = ".plexus-install-"

// maxFile bounds what is read of a configuration or a credential, in bytes.
const maxFile = 1 << 20

// replace writes a file beside its place, makes it durable and renames it over
// the place.
func replace(dir, name string, mode fs.FileMode, content io.Reader) error {
	temp, err := writeTemp(dir, content)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	err = finish(temp, mode)
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	return syncPath(dir)
}

// writeTemp holds back forks of this process while the file is open for
// writing: a child would have it open too until it executes something, and
// whoever executes the file then would be told "text file busy".
func writeTemp(dir string, content io.Reader) (string, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func finish(file string, mode fs.FileMode) error {
	if err := os.Chmod(file, mode); err != nil {
		return err
	}
	return syncPath(file)
}

// syncPath makes a file or a folder durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// write replaces a file when its content or its mode is another one.
func write(dir, name string, mode fs.FileMode, data []byte) (changed bool, err error) {
	path := filepath.Join(dir, name)
	if st, err := os.Lstat(path); err == nil && st.Mode() == mode {
		if have, err := readRegular(path); err == nil && bytes.Equal(have, data) {
			return false, nil
		}
	}
	return true, replace(dir, name, mode, bytes.NewReader(data))
}

// readRegular reads a file that may be anything: a FIFO does not block it, and
// a huge one is refused.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return data, err
}

// clearTemps removes what a killed installer has left. The caller has the lock,
// so nobody is writing one.
func clearTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clear away unfinished files: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			errs = append(errs, removeFile(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeFile removes a file; absent is success.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/file"
)

// tempPrefix begins the name of a file that is being written. It has no
// extension that a runtime looks for.
const tempPrefix = ".plexus-install-"

// maxFile bounds what is read of a configuration or a credential, in bytes.
const maxFile = 1 << 20

// replace writes a file in place. It calls the temporary file by a name of the
// installer's own: NAME.new may be somebody else's.
func replace(dir, name string, mode fs.FileMode, content io.Reader) error {
	path := filepath.Join(dir, name)
	err := file.Replacement{Path: path, Mode: mode, Temp: tempPrefix + name}.Write(content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
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
func readRegular(path string) ([]byte, error) { return file.ReadRegular(path, maxFile) }

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

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Tree lists the files below the given folders, a line for each with its mode,
// its size in bytes (of plain files only) and its path, in the order of the
// paths. A folder that does not exist gets a line that says so. Compared before
// and after, it shows the files that were left behind.
func Tree(dirs ...string) (string, error) {
	var text strings.Builder
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				if path == dir {
					fmt.Fprintf(&text, "absent %s\n", path)
				}
				return nil // gone since its folder was read
			}
			if err != nil {
				return err
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			line := fmt.Sprintf("%s %s", info.Mode(), path)
			switch {
			case info.Mode().IsRegular():
				line = fmt.Sprintf("%s %d %s", info.Mode(), info.Size(), path)
			case info.Mode()&fs.ModeSymlink != 0:
				to, err := os.Readlink(path)
				if err != nil {
					return err
				}
				line += " -> " + to
			}
			fmt.Fprintln(&text, line)
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("list files below %s: %w", dir, err)
		}
	}
	return text.String(), nil
}

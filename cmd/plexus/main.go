// Command plexus is what the container runtime executes. It links the standard
// library alone, so that it starts fast, and becomes `plexusd cni`, which does
// the work. Linked under the name of a built-in delegate (ovsdpdk, userspace,
// ...) it is that CNI plugin, alone. VERSION it answers itself.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// supported are the versions of the CNI specification that plexus speaks.
var supported = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// codeIO is CNI's error code for a failure of I/O.
const codeIO = 5

func main() {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		print(map[string]any{"cniVersion": supported[len(supported)-1], "supportedVersions": supported})
		return
	}
	err := become(filepath.Base(os.Args[0]))
	print(map[string]any{"code": codeIO, "msg": err.Error()})
	os.Exit(1)
}

// become replaces this process by plexusd. It returns only if it cannot.
func become(as string) error {
	path, err := find()
	if err != nil {
		return err
	}
	err = syscall.Exec(path, []string{"plexusd", "cni", as}, os.Environ())
	return fmt.Errorf("execute %s: %w", path, err)
}

// find looks for plexusd beside this executable, then in CNI_PATH.
func find() (string, error) {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("CNI_PATH"))...)
	for _, dir := range dirs {
		path := filepath.Join(dir, "plexusd")
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("plexusd is neither beside plexus nor in CNI_PATH (%s): install it there", os.Getenv("CNI_PATH"))
}

func print(v any) {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "    ")
	if err := enc.Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "plexus: write answer:", err)
		os.Exit(1)
	}
}

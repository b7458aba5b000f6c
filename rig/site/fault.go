package site

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/plexus-cni/plexus/rig/fault"
	"github.com/plexus-cni/plexus/rig/node"
)

// Faulty makes a request with a fault. It returns the steps that were begun,
// none if the process was killed.
func (s *Site) Faulty(r Request, kind string, at int) ([]string, error) {
	s.T.Helper()
	if r.IfName == "" {
		r.IfName = "eth0"
	}
	file := filepath.Join(node.Dir(), "steps")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(s.Environ(r), fault.Env(kind, at, file)...)
	cmd.Stdin = bytes.NewReader(s.Conf)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil, err
	}
	data, errRead := os.ReadFile(file)
	if errRead != nil {
		s.T.Fatalf("%v: %s", errRead, out.String())
	}
	if err != nil {
		failed := &Error{}
		if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
			s.T.Fatalf("no CNI error but %q", out.String())
		}
		err = failed
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), err
}

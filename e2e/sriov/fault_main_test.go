package sriov

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
)

// errKilled is a request whose process was killed.
var errKilled = errors.New("killed")

// faulty makes a request with a fault. It returns the steps that were begun,
// none if the process was killed.
func (s *site) faulty(verb, sandbox, netns string, conf []byte, kind string, at int) ([]string, error) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "steps")
	cmd := exec.CommandContext(s.t.Context(), "/proc/self/exe")
	cmd.Env = append(s.command(s.t.Context(), verb, sandbox, netns, asEth0).Env, fault.Env(kind, at, file)...)
	cmd.Stdin = bytes.NewReader(conf)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if killed(err) {
		return nil, errKilled
	}
	data, errRead := os.ReadFile(file)
	if errRead != nil {
		s.t.Fatalf("%v: %s%s", errRead, out.String(), errOut.String())
	}
	if err != nil {
		failed := &cniError{}
		if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
			s.t.Fatalf("no CNI error but %q", out.String())
		}
		err = failed
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), err
}

func killed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

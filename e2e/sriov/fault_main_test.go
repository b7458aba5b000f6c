package sriov

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
)

// A request with a fault is answered by this test's own executable: the same
// code as plexusd cni, with an observer of the transaction's steps that fails
// at the n-th step, or kills the process there.
const (
	faultEnv = "PLEXUS_TEST_FAULT" // fail, kill or none
	faultAt  = "PLEXUS_TEST_FAULT_AT"
	stepsEnv = "PLEXUS_TEST_STEPS" // file that the steps are written to
)

func faultyRequest() int {
	at, err := strconv.Atoi(os.Getenv(faultAt))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	n := 0
	var steps bytes.Buffer
	ctx := conf.WithSteps(context.Background(), func(step string) error {
		fmt.Fprintln(&steps, step)
		if n++; n != at {
			return nil
		}
		if os.Getenv(faultEnv) == "kill" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return fmt.Errorf("injected failure at step %d, %s", n, step)
	})
	status := agent.Answer(ctx, agent.OSCall("plexus"))
	if err := os.WriteFile(os.Getenv(stepsEnv), steps.Bytes(), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return status
}

// errKilled is a request whose process was killed.
var errKilled = errors.New("killed")

// faulty makes a request with a fault. It returns the steps that were begun,
// none if the process was killed.
func (s *site) faulty(verb, sandbox, netns string, conf []byte, fault string, at int) ([]string, error) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "steps")
	cmd := exec.CommandContext(s.t.Context(), "/proc/self/exe")
	cmd.Env = append(s.command(s.t.Context(), verb, sandbox, netns, asEth0).Env, faultEnv+"="+fault, faultAt+"="+strconv.Itoa(at), stepsEnv+"="+file)
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

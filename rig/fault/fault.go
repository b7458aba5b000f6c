// Package fault answers CNI requests that fail, or are killed, at a step: in a
// test's own executable, by the same code as plexusd cni.
package fault

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/delegates"
)

const (
	kindEnv  = "PLEXUS_TEST_FAULT" // fail, kill or none
	atEnv    = "PLEXUS_TEST_FAULT_AT"
	stepsEnv = "PLEXUS_TEST_STEPS" // file that the steps are written to
)

// Env makes the process that gets it answer with a fault of a kind, "fail",
// "kill" or "none", at the n-th step. The steps that were begun are in the file
// afterwards, one a line, unless it was killed.
func Env(kind string, at int, file string) []string {
	return []string{kindEnv + "=" + kind, atEnv + "=" + strconv.Itoa(at), stepsEnv + "=" + file}
}

// Asked reports whether this process is such a one.
func Asked() bool { return os.Getenv(kindEnv) != "" }

// Answer answers the request and returns the exit status.
func Answer() int {
	at, err := strconv.Atoi(os.Getenv(atEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var mu sync.Mutex // steps come from several networks at once under "parallel"
	n := 0
	var steps bytes.Buffer
	ctx := delegates.WithSteps(context.Background(), func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(&steps, step)
		if n++; n != at {
			return nil
		}
		if os.Getenv(kindEnv) == "kill" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return fmt.Errorf("injected failure at step %d, %s", n, step)
	})
	status := agent.Answer(ctx, call.OSCall("plexus"))
	mu.Lock()
	defer mu.Unlock()
	if err := os.WriteFile(os.Getenv(stepsEnv), steps.Bytes(), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return status
}

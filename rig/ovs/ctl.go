package ovs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/plexus-cni/plexus/rig/process"
)

// VSCtl runs ovs-vsctl on the database and returns what it prints, without the
// final newline. It waits for the daemon to act if there is one, for as long as
// ctx allows, or 60 s.
func (s *Switch) VSCtl(ctx context.Context, args ...string) (string, error) {
	argv := []string{"--db=" + s.OVSDB()}
	if s.vswitchd == nil {
		argv = append(argv, "--no-wait")
	}
	return s.run(ctx, "ovs-vsctl", append(argv, args...)...)
}

// AppCtl runs ovs-appctl on the switch daemon and returns what it prints.
func (s *Switch) AppCtl(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, "ovs-appctl", append([]string{"-t", s.path("ovs-vswitchd.ctl")}, args...)...)
}

// Reconfigurations counts how often the daemon has taken over a configuration
// since it was started. Two equal counts around an action show that the action
// did not touch the switch.
func (s *Switch) Reconfigurations(ctx context.Context) (int, error) {
	out, err := s.AppCtl(ctx, "coverage/read-counter", "bridge_reconfigure")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(out)
	if err != nil {
		return 0, fmt.Errorf("read counter bridge_reconfigure of ovs-vswitchd: %w", err)
	}
	return n, nil
}

func (s *Switch) path(name string) string { return filepath.Join(s.dir, name) }

// env makes Open vSwitch and DPDK keep their files in the folder.
func (s *Switch) env() []string {
	return []string{"OVS_RUNDIR=" + s.dir, "OVS_DBDIR=" + s.dir, "OVS_LOGDIR=" + s.dir, "RUNTIME_DIRECTORY=" + s.dir}
}

// run runs a tool and returns what it prints to stdout.
func (s *Switch) run(ctx context.Context, tool string, args ...string) (string, error) {
	ctx, cancel := process.Limited(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), s.env()...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s %s: %w: %s%s", tool, strings.Join(args, " "),
			errors.Join(err, ctx.Err()), strings.TrimSpace(stderr.String()), hint(err))
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

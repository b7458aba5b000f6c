package ovs

import (
	"fmt"
	"io"
	"os"

	"github.com/plexus-cni/plexus/rig/process"
)

// start starts argv in dir with its output going to log. A stdin pipe is made if piped is true.
func start(name string, log io.Writer, dir string, env []string, piped bool, argv ...string) (*process.Process, error) {
	p, err := process.Start(process.Options{Name: name, Out: log, Dir: dir, Env: append(os.Environ(), env...), Piped: piped}, argv...)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, hint(err))
	}
	return p, nil
}

// hint says what to install if a program is missing.
func hint(err error) string {
	if process.Missing(err) {
		return ": install it: apt-get install openvswitch-switch-dpdk dpdk-dev"
	}
	return ""
}

package ovs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/plexus-cni/plexus/rig/process"
)

const (
	schema = "/usr/share/openvswitch/vswitch.ovsschema"
	daemon = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

	// grace is how long a daemon may take to end by itself.
	grace = 5 * time.Second
)

// otherConfig is what makes the daemon start DPDK without hugepages and cards,
// and poll on core 0 alone with pauses of up to 500 µs while there is no
// traffic. DPDK may take up to 1024 MiB and touches what the ports need: about
// 85 MB for each connected port with an MTU of 1500, so that there is room for
// twelve, and nothing for one that never was connected. With one pool for all
// ports instead, Open vSwitch would ask for more memory than there is, and take
// the port out of the datapath if what DPDK can give at last is too small a
// piece.
var otherConfig = []string{
	"other_config:dpdk-init=true",
	`other_config:dpdk-extra="--no-pci --no-huge --legacy-mem --iova-mode=va -m 1024"`,
	"other_config:pmd-maxsleep=500",
	"other_config:per-port-memory=true",
	"other_config:pmd-cpu-mask=0x1",
}

// Switch is a running Open vSwitch. Its methods are for one goroutine, except
// for OVSDB, VSCtl, AppCtl, Transact and Dump.
type Switch struct {
	dir      string
	log      io.Writer
	user     string // of the daemons: NAME:GROUP, "" for root
	db       *process.Process
	vswitchd *process.Process // nil in light mode and while it is stopped
}

// Start runs a database server and a switch daemon with all their files in dir,
// which has to exist, and returns when DPDK is initialised. What they print
// goes to log, which may be nil.
func Start(ctx context.Context, dir string, log io.Writer) (*Switch, error) {
	return StartAs(ctx, dir, log, "")
}

// StartAs is Start with daemons that run as a user and a group of the node, NAME:GROUP, as
// packages start them. The folder has to be that user's.
func StartAs(ctx context.Context, dir string, log io.Writer, user string) (*Switch, error) {
	s, err := startDB(ctx, dir, log, user)
	if err != nil {
		return nil, err
	}
	if _, err := s.VSCtl(ctx, append([]string{"set", "Open_vSwitch", "."}, otherConfig...)...); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	if err := s.StartVswitchd(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// StartDB runs a database server with an empty switch database and no switch
// daemon: fast, for tests of the OVSDB protocol. Nobody acts on what is written
// to it; StartVswitchd can be called later.
func StartDB(ctx context.Context, dir string, log io.Writer) (*Switch, error) {
	return startDB(ctx, dir, log, "")
}

func startDB(ctx context.Context, dir string, log io.Writer, user string) (*Switch, error) {
	s := &Switch{dir: dir, user: user}
	if log != nil {
		s.log = &process.Buffer{Most: 1, To: log} // several processes write to it
	}
	if _, err := s.run(ctx, "ovsdb-tool", "create", s.path("conf.db"), schema); err != nil {
		return nil, err
	}
	if user != "" {
		if _, err := s.run(ctx, "chown", "-R", user, dir); err != nil {
			return nil, err
		}
	}
	if err := s.StartOVSDB(ctx); err != nil {
		return nil, err
	}
	if _, err := s.VSCtl(ctx, "init"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Dir is the folder of the files of the switch.
func (s *Switch) Dir() string { return s.dir }

// OVSDB is the address of the database as Open vSwitch writes it,
// unix:<absolute path>.
func (s *Switch) OVSDB() string { return "unix:" + s.path("db.sock") }

// PID is the process id of the switch daemon, 0 while it is stopped.
func (s *Switch) PID() int {
	if s.vswitchd == nil {
		return 0
	}
	return s.vswitchd.PID()
}

// StartVswitchd starts the daemon and returns when it answers and has taken
// over the configuration, DPDK included where it is configured.
func (s *Switch) StartVswitchd(ctx context.Context) error {
	if s.vswitchd != nil {
		return errors.New("start ovs-vswitchd: it runs already")
	}
	// The daemon has to take over this one: no earlier run can have done so.
	next, err := s.nextConfig(ctx)
	if err != nil {
		return err
	}
	p, err := start("ovs-vswitchd", s.log, s.dir, s.env(), false, s.argv(daemon, s.OVSDB(),
		"--unixctl="+s.path("ovs-vswitchd.ctl"), "--pidfile="+s.path("ovs-vswitchd.pid"),
		"-vconsole:info", "-vsyslog:off")...)
	if err != nil {
		return err
	}
	s.vswitchd = p
	if err := s.waitVswitchd(ctx, next); err != nil {
		if p.Ended() == nil {
			err = p.Explain(err)
		}
		s.killVswitchd()
		return fmt.Errorf("start ovs-vswitchd: %w", err)
	}
	return nil
}

// argv adds the user of a daemon to its arguments.
func (s *Switch) argv(argv ...string) []string {
	if s.user == "" {
		return argv
	}
	return append(argv, "--user="+s.user)
}

// nextConfig asks for a takeover of the configuration and returns its number.
func (s *Switch) nextConfig(ctx context.Context) (string, error) {
	everywhere := []any{}
	results, err := s.Transact(ctx,
		map[string]any{"op": "mutate", "table": "Open_vSwitch", "where": everywhere, "mutations": []any{[]any{"next_cfg", "+=", 1}}},
		map[string]any{"op": "select", "table": "Open_vSwitch", "where": everywhere, "columns": []string{"next_cfg"}})
	if err != nil {
		return "", fmt.Errorf("count up next_cfg: %w", err)
	}
	return fmt.Sprint(results[1].Rows[0]["next_cfg"]), nil
}

// waitVswitchd returns when the daemon has taken over a configuration.
func (s *Switch) waitVswitchd(ctx context.Context, number string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := s.vswitchd
	go func() {
		select {
		case <-p.Done(): // nobody to wait for any more
			cancel()
		case <-ctx.Done():
		}
	}()
	condition := []string{"wait-until", "Open_vSwitch", ".", "cur_cfg>=" + number}
	dpdk, err := s.VSCtl(ctx, "--if-exists", "get", "Open_vSwitch", ".", "other_config:dpdk-init")
	if strings.Trim(dpdk, `"`) == "true" {
		condition = append(condition, "dpdk_initialized=true")
	}
	if err == nil {
		_, err = s.VSCtl(ctx, condition...)
	}
	return errors.Join(p.Ended(), err)
}

// StopVswitchd kills the daemon as a crash would (SIGKILL) and returns when it
// is gone. The database keeps running. The network devices of the daemon
// (ovs-netdev and one for each bridge) stay for the next one to take over, and its files stay.
func (s *Switch) StopVswitchd() error {
	if s.vswitchd == nil {
		return errors.New("stop ovs-vswitchd: it does not run")
	}
	s.killVswitchd()
	return nil
}

func (s *Switch) killVswitchd() {
	s.vswitchd.Kill()
	s.vswitchd = nil
}

// PauseVswitchd makes the daemon hang (SIGSTOP) until ResumeVswitchd.
func (s *Switch) PauseVswitchd() error { return s.signalVswitchd(syscall.SIGSTOP) }

// ResumeVswitchd lets a paused daemon run on.
func (s *Switch) ResumeVswitchd() error { return s.signalVswitchd(syscall.SIGCONT) }

func (s *Switch) signalVswitchd(sig syscall.Signal) error {
	if s.vswitchd == nil {
		return fmt.Errorf("send %s to ovs-vswitchd: it does not run", sig)
	}
	return s.vswitchd.Signal(sig)
}

// PauseOVSDB makes the database server hang (SIGSTOP) until ResumeOVSDB.
func (s *Switch) PauseOVSDB() error { return s.signalOVSDB(syscall.SIGSTOP) }

// ResumeOVSDB lets a paused database server run on.
func (s *Switch) ResumeOVSDB() error { return s.signalOVSDB(syscall.SIGCONT) }

func (s *Switch) signalOVSDB(sig syscall.Signal) error {
	if s.db == nil {
		return fmt.Errorf("send %s to ovsdb-server: it does not run", sig)
	}
	return s.db.Signal(sig)
}

// StartOVSDB starts the database server after StopOVSDB, with what was stored.
func (s *Switch) StartOVSDB(ctx context.Context) error {
	if s.db != nil {
		return errors.New("start ovsdb-server: it runs already")
	}
	sock := s.path("db.sock")
	p, err := start("ovsdb-server", s.log, s.dir, s.env(), false, s.argv("ovsdb-server", s.path("conf.db"),
		"--remote=p"+s.OVSDB(), "--unixctl="+s.path("ovsdb-server.ctl"),
		"--pidfile="+s.path("ovsdb-server.pid"), "-vconsole:warn", "-vsyslog:off")...)
	if err != nil {
		return err
	}
	err = process.Poll(ctx, "ovsdb-server accepts connections at "+sock, func() (bool, error) {
		conn, err := net.Dial("unix", sock)
		if err != nil {
			return false, p.Ended()
		}
		return true, conn.Close()
	})
	if err != nil {
		p.Kill()
		return err
	}
	s.db = p
	return nil
}

// StopOVSDB kills the database server as a crash would (SIGKILL).
func (s *Switch) StopOVSDB() error {
	if s.db == nil {
		return errors.New("stop ovsdb-server: it does not run")
	}
	s.db.Kill()
	s.db = nil
	for _, f := range []string{"db.sock", "ovsdb-server.ctl", "ovsdb-server.pid"} {
		os.Remove(s.path(f))
	}
	return nil
}

// Stop ends the daemon, with its network devices, and the database server. The
// files stay in the folder. Stopping twice is no error.
func (s *Switch) Stop() error {
	if s.vswitchd != nil {
		_ = s.vswitchd.Signal(syscall.SIGCONT)
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		// A daemon that is merely told to end leaves its devices for the next.
		if _, err := s.AppCtl(ctx, "exit", "--cleanup"); err == nil {
			s.vswitchd.Wait(ctx)
		}
		s.killVswitchd()
	}
	if s.db != nil {
		s.db.Stop()
		s.db = nil
	}
	return nil
}

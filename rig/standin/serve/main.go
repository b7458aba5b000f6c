// Command serve runs the stand-in of package rig/standin as a process, so that a
// test can kill it. It prints "ready" once its API socket takes connections, and
// runs until it gets SIGTERM or SIGINT. Faults need the package: see there.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/plexus-cni/plexus/rig/standin"
)

func main() {
	socket := flag.String("socket", "/run/vpp/api.sock", "path of the API socket")
	runtimeDir := flag.String("runtime-dir", "/run/vpp", "folder of memif sockets with relative names")
	version := flag.String("version", "", "version to show")
	startup := flag.String("startup", "", "file with commands that are executed two seconds after the start")
	state := flag.String("state", "", "path of a unix socket that answers each connection with the state")
	crc := map[string]string{}
	flag.Func("crc", "MESSAGE=CRC gives a message another CRC, MESSAGE= removes it; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("no = in %q", s)
		}
		crc[name] = value
		return nil
	})
	flag.Parse()
	if err := run(*socket, *state, standin.Options{Version: *version, RuntimeDir: *runtimeDir, CRC: crc, Startup: *startup}); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(socket, state string, o standin.Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := standin.StartAt(ctx, socket, o)
	if err != nil {
		return err
	}
	defer s.Close()
	if state != "" {
		l, err := showState(state, s)
		if err != nil {
			return err
		}
		defer l.Close()
	}
	fmt.Println("ready")
	<-s.Done()
	return nil
}

// showState answers every connection to a socket with the state.
func showState(path string, s *standin.Server) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove stale state socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen at state socket: %w", err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, s.State())
			conn.Close()
		}
	}()
	return l, nil
}

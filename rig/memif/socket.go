package memif

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
)

// MaxPath is the longest path of a socket, in bytes: sun_path without its NUL.
const MaxPath = 107

const (
	abstractPrefix = "abstract:"
	netnsOption    = "netns_name="
	netnsDir       = "/var/run/netns"
)

// address is where a socket is: a path, or an abstract name in a network
// namespace (the one of the caller if netns is empty).
type address struct {
	path  string
	name  string
	netns string
}

// parseAddress takes the file names VPP takes: a path, or
// abstract:NAME[,netns_name=PATH], where a PATH that is not absolute is below
// /var/run/netns.
func parseAddress(s string) (address, error) {
	rest, abstract := strings.CutPrefix(s, abstractPrefix)
	if !abstract {
		if len(s) == 0 || len(s) > MaxPath {
			return address{}, fmt.Errorf("socket %q: a path has 1 to %d bytes, this has %d", s, MaxPath, len(s))
		}
		return address{path: s}, nil
	}
	name, option, more := strings.Cut(rest, ",")
	a := address{name: name}
	if name == "" || len(name) > MaxPath-1 {
		return a, fmt.Errorf("socket %q: an abstract name has 1 to %d bytes", s, MaxPath-1)
	}
	if more {
		netns, ok := strings.CutPrefix(option, netnsOption)
		if !ok || netns == "" {
			return a, fmt.Errorf("socket %q: unknown option %q", s, option)
		}
		if !filepath.IsAbs(netns) {
			netns = filepath.Join(netnsDir, netns)
		}
		a.netns = netns
	}
	return a, nil
}

// Netns is the path of the network namespace that the name of an abstract socket names, "" for
// none.
func Netns(socket string) string {
	a, err := parseAddress(socket)
	if err != nil {
		return ""
	}
	return a.netns
}

// unixAddr is the address as package net has it.
func (a address) unixAddr() *net.UnixAddr {
	if a.path != "" {
		return &net.UnixAddr{Net: "unixpacket", Name: a.path}
	}
	return &net.UnixAddr{Net: "unixpacket", Name: "@" + a.name}
}

// within runs f in the network namespace of the address.
func (a address) within(f func() error) error {
	if a.netns == "" {
		return f()
	}
	return ns.WithNetNSPath(a.netns, func(ns.NetNS) error { return f() })
}

// listen opens the socket. A socket file nobody listens at is replaced; the
// file stays when the listener is closed.
func (a address) listen() (*net.UnixListener, error) {
	if err := a.clear(); err != nil {
		return nil, err
	}
	var l *net.UnixListener
	err := a.within(func() (err error) {
		l, err = net.ListenUnix("unixpacket", a.unixAddr())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at memif socket %s: %w", a, err)
	}
	l.SetUnlinkOnClose(false)
	if a.path != "" {
		// As VPP has it: the group may connect too.
		if err := os.Chmod(a.path, 0o775); err != nil {
			return nil, errors.Join(fmt.Errorf("let the group use memif socket %s: %w", a, err), l.Close())
		}
	}
	return l, nil
}

// clear removes a stale socket file.
func (a address) clear() error {
	if a.path == "" {
		return nil
	}
	info, err := os.Stat(a.path)
	if err != nil {
		return nil // also a missing folder: listening tells
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("listen at memif socket %s: a file that is no socket is in its place", a)
	}
	// A connection of another type tells whether somebody listens, without
	// being one.
	conn, err := net.Dial("unix", a.path)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen at memif socket %s: somebody listens there already", a)
	}
	if err := os.Remove(a.path); err != nil {
		return fmt.Errorf("remove stale memif socket %s: %w", a, err)
	}
	return nil
}

// dial connects to the socket.
func (a address) dial() (*net.UnixConn, error) {
	var conn *net.UnixConn
	err := a.within(func() (err error) {
		conn, err = net.DialUnix("unixpacket", nil, a.unixAddr())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to memif socket %s: %w", a, err)
	}
	return conn, nil
}

func (a address) String() string {
	switch {
	case a.path != "":
		return a.path
	case a.netns != "":
		return abstractPrefix + a.name + "," + netnsOption + a.netns
	default:
		return abstractPrefix + a.name
	}
}

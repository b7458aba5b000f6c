package vppmemif

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"go.fd.io/govpp/binapi/memclnt"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/delegates/userspace"
)

// FuzzConfig feeds configurations and records: nothing panics, and accepted values are
// within their ranges.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"role": "client", "mode": "ip", "socket": {"dir": "/x/", "file": "f", "group": "g", "permissions": "0770"}, "vrf": 1}`,
		`{"socket": {"abstract": true, "file": "a"}, "bridgeDomain": {"name": "b", "learn": null}, "vlan": 4094, "ringSize": 1024}`,
		`{"addresses": ["10.0.0.1/24"], "routes": [{"dst": "::/0", "gw": "fe80::1"}], "queues": {"rx": 1}, "mac": "02-00-00-00-00-01"}`,
		`{"api":"/x","tag":"plexus/4c0770/0123456789abcdef01234567/net1","role":"server","socket":"/s/0123456789ab/f","dir":"/s/0123456789ab","own":true,"gid":-1,"file":"f"}`,
		`{"api":"/x","tag":"plexus/4c0770/0123456789abcdef01234567/net1","socket":"abstract:a,netns_name=/x","abstract":"a","gid":0,"file":""}`,
		`null`, ``, `{"a`, `{"socket": null, "bridgeDomain": {"id": 0}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := New(slog.New(slog.DiscardHandler))
		for _, parser := range []delegates.Delegate{d, userspace.New(userspace.EngineVPP, d)} {
			if n, _, err := parser.Parse("n", data); err == nil {
				inRange(t, configOf(&delegates.Attachment{Network: n}))
			}
		}
		s, err := decodeState(&delegates.Attachment{Sandbox: sandboxA, Netns: "/run/netns/x", IfName: "net1", Name: "n", Owner: testOwner, State: data})
		if err != nil {
			return
		}
		for _, name := range []string{s.File, s.Config} {
			if s.Abstract == "" && (strings.Contains(name, "/") || name == ".." || name == ".") {
				t.Errorf("file %q is accepted", name)
			}
		}
		if s.Abstract == "" && (!filepath.IsAbs(s.Dir) || filepath.Clean(s.Dir) == "/") || s.Tag == "" || !filepath.IsAbs(s.API) {
			t.Errorf("state %+v is accepted", s)
		}
	})
}

func inRange(t *testing.T, c *Config) {
	t.Helper()
	if c.Role != "server" && c.Role != "client" || c.Mode != "ethernet" && c.Mode != "ip" {
		t.Errorf("role %q mode %q", c.Role, c.Mode)
	}
	if !filepath.IsAbs(c.APISocket) || c.Socket.Dir != "" && !filepath.IsAbs(c.Socket.Dir) {
		t.Errorf("apiSocket %q dir %q", c.APISocket, c.Socket.Dir)
	}
	if f := c.Socket.File; strings.ContainsAny(f, "/\x00\n") || f == ".." || f == "." || len(f) > 250 || c.Socket.Abstract && strings.ContainsAny(f, ",=") {
		t.Errorf("file %q", f)
	}
	if c.RingSize&(c.RingSize-1) != 0 || c.RingSize > maxRingSize || len(c.Secret) > maxSecret || c.VLAN < 0 || c.VLAN > 4094 ||
		c.MTU != 0 && (c.MTU < 68 || c.MTU > 9216) || c.VLAN != 0 && c.BridgeDomain == nil {
		t.Errorf("%+v", c)
	}
	if b := c.BridgeDomain; b != nil {
		if (b.ID == 0) == (b.Name == "") || b.ID > maxBridgeDomain || len(domainTag(testOwner, b, c.VLAN)) > maxTag || len(c.Addresses) > 0 || c.Mode == "ip" {
			t.Errorf("%+v", b)
		}
	}
}

// FuzzConnection has arbitrary bytes from the other end of the API socket: an introduction
// or an error, then messages or an end.
func FuzzConnection(f *testing.F) {
	reply := make([]byte, 6)
	data, err := (&memclnt.SockclntCreateReply{Count: 1, MessageTable: []memclnt.MessageTableEntry{{Index: 7, Name: "show_version_51077d14"}}}).Marshal(nil)
	if err != nil {
		f.Fatal(err)
	}
	framed := append(make([]byte, headerSize), append(reply, data...)...)
	binary.BigEndian.PutUint32(framed[8:], uint32(len(framed)-headerSize))
	f.Add(framed)
	f.Add(append(framed, framed...))
	f.Add(framed[:headerSize+8])
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // to the end of ours
		w := &connection{conn: ours, in: bufio.NewReader(bytes.NewReader(data))}
		w.done, w.stop = context.WithCancelCause(t.Context())
		if err := w.introduce(); err == nil && w.ids == nil {
			t.Error("introduced without messages")
		}
		for {
			m, err := w.next()
			if err != nil {
				return
			}
			if len(m) < 6 || len(m) > maxMessage {
				t.Fatalf("a message of %d bytes", len(m))
			}
		}
	})
}

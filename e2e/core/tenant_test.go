package core

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// A tenant's configuration names a vswitch of its own, or a folder of the node's.
// ADD refuses it by name, before anybody is asked.
func TestEndpointOfATenant(t *testing.T) {
	s := site.New(t, nil)
	theirs := filepath.Join(s.Dir, "deep", "below", "all", "of", "the", "patterns")
	must.Do(t, os.MkdirAll(theirs, 0o755))
	socket := filepath.Join(theirs, "s")
	l, err := net.Listen("unix", socket)
	must.Do(t, err)
	t.Cleanup(func() { _ = l.Close() })
	asked := make(chan struct{}, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}()
	for name, c := range map[string]struct {
		as    string
		keys  map[string]any
		words []string
	}{
		"an OVSDB":        {"ovsdpdk", map[string]any{"ovsdb": "unix:" + socket, "bridge": "br"}, []string{`"ovsdb"`, socket, `"endpoints"`}},
		"an OVSDB by tcp": {"ovsdpdk", map[string]any{"ovsdb": "tcp:127.0.0.1:1", "bridge": "br"}, []string{`"ovsdb"`, "tcp:127.0.0.1:1", `"endpoints"`}},
		"a VPP":           {"vppmemif", map[string]any{"apiSocket": socket}, []string{`"apiSocket"`, socket, `"endpoints"`}},
		"a folder of sockets": {"ovsdpdk", map[string]any{"bridge": "br", "vhost": map[string]any{"socketDir": "/var/lib"}},
			[]string{`"vhost.socketDir"`, "/var/lib", `"socketDirs"`}},
		"a folder of memifs": {"vppmemif", map[string]any{"socket": map[string]any{"dir": "/etc"}}, []string{`"socket.dir"`, "/etc", `"socketDirs"`}},
		"userspace-cni's folder": {"userspace", map[string]any{"sharedDir": "/var/lib/kubelet", "host": map[string]any{"engine": "vpp", "iftype": "memif", "netType": "none", "memif": map[string]any{"role": "master"}}},
			[]string{`"sharedDir"`, "/var/lib/kubelet", `"socketDirs"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := site.New(t, nil)
			p := site.NewPod(t, "tenant")
			s.As = c.as
			c.keys["cniVersion"], c.keys["name"], c.keys["type"] = "1.0.0", "theirs", c.as
			s.Conf = must.JSON(t, c.keys)
			before := s.World(nil)
			_, err := s.Add(site.SandboxID(870), p, "")
			var refused *site.Error
			if !errors.As(err, &refused) || refused.Code != 7 {
				t.Fatalf("%v, want code 7", err)
			}
			for _, w := range append(c.words, "/etc/plexus/node.json") {
				if !strings.Contains(refused.Msg, w) {
					t.Errorf("%q does not say %s", refused.Msg, w)
				}
			}
			s.MustDel(site.SandboxID(870), p, "")
			if after := s.World(nil); after != before {
				t.Errorf("the node has changed\nbefore:\n%s\nafter:\n%s", before, after)
			}
		})
	}
	select {
	case <-asked:
		t.Error("the tenant's server was asked")
	default:
	}
}

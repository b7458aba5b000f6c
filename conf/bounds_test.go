package conf

import (
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	const key = "ovsdb"
	defaults := []string{"unix:/run/openvswitch/db.sock"}
	b := Bounds{Endpoints: []string{"tcp:[::1]:6640", "tcp:10.0.0.*:6640", "ssl:10.1.0.*:6640", "unix:/run/ovs-*/db.sock", "/run/vpp/api.sock"}}
	for address, allowed := range map[string]bool{
		"unix:/run/openvswitch/db.sock":       true,
		"unix:/var/run/openvswitch/db.sock":   true, // a link to /run
		"unix:/run/openvswitch/db.sock2":      false,
		"unix:/run/ovs-blue/db.sock":          true,
		"unix:/run/ovs-blue/x/db.sock":        false, // * is no /
		"unix:/run/ovs-../db.sock":            true,  // a folder of that name, not the one above
		"unix:/run/ovs-a/../tenant/db.sock":   false,
		"unix:/var/lib/kubelet/pods/x/db":     false,
		"tcp:10.0.0.7:6640":                   true,
		"tcp:10.0.1.7:6640":                   false,
		"tcp:10.0.0.1.evil.example:6640":      false,
		"tcp:1:6640":                          false,
		"tcp:[::1]:6640":                      true,
		"unix:/run/ovs-x/../ovs-y/db.sock":    false,
		"tcp:evil.example:6640":               false,
		"/run/vpp/api.sock":                   true,
		"/var/run/vpp/api.sock":               true,
		"/run/vpp/../tenant/api.sock":         false,
		"":                                    false,
		"ssl:10.0.0.7:6640":                   false, // each scheme by itself
		"ssl:10.1.0.7:6640":                   true,
		"ssl:10.1.0.1.evil.example:6640":      false,
		"tcp:10.0.0.7:6640,tcp:10.0.0.8:6640": true,
		"tcp:10.0.0.7:6640,unix:/run/tenant":  false,
		"unix:/run/tenant,tcp:10.0.0.7:6640":  false,
		"unix:/run/ovs-a,tcp:evil:1/db.sock":  false,
		"unix:/run/vpp/api.sock":              false, // of the other kind
		"unix:/var/run/ovs-blue/db.sock":      true,
		"unix:/var/run/../run/ovs-b/db.sock":  false,
	} {
		err := b.Endpoint(key, address, defaults...)
		if allowed != (err == nil) {
			t.Errorf("%q: %v, want allowed %v", address, err, allowed)
		}
		if err == nil {
			continue
		}
		for _, word := range []string{`"ovsdb"`, defaults[0], "tcp:10.0.0.*:6640", `"endpoints"`, NodeFile} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q: the error %q does not say %s", address, err, word)
			}
		}
		if err := b.ForOwn().Endpoint(key, address); err != nil {
			t.Errorf("a network of the node's own: %v", err)
		}
	}
}

func TestSocketDir(t *testing.T) {
	b := Bounds{SocketDirs: []string{"/srv/sockets/", "/srv/teams/*"}}
	for dir, allowed := range map[string]bool{
		"/run/plexus/vhost":              true,
		"/run/plexus/vhost/":             true,
		"/var/run/plexus/vhost":          true,
		"/run/plexus/vhost/team-a":       false, // a link may stand there
		"/run/plexus/vhosts":             false,
		"/run/plexus":                    false,
		"/srv/sockets":                   true,
		"/srv/sockets/x":                 false,
		"/srv/teams/a":                   true,
		"/srv/teams/a/b":                 false,
		"/srv/teams/..":                  false,
		"/srv/sockets/../kubelet":        false,
		"/var/lib":                       false,
		"/":                              false,
		"/run/plexus/vhost/0123456789ab": false, // another sandbox's
	} {
		err := b.SocketDir("vhost.socketDir", dir, "/run/plexus/vhost")
		if allowed != (err == nil) {
			t.Errorf("%q: %v, want allowed %v", dir, err, allowed)
		}
		if err != nil && !strings.Contains(err.Error(), `"vhost.socketDir"`) {
			t.Errorf("%q: the error %q does not name the key", dir, err)
		}
	}
}

func TestIPAMPaths(t *testing.T) {
	b := Bounds{IPAMDirs: []string{"/srv/addresses"}, ResolvConfs: []string{"/etc/plexus/resolv.conf"}}
	for path, allowed := range map[string]bool{
		"/var/lib/cni/networks": true, "/var/lib/cni/networks/team": true, "/srv/addresses": true,
		"/var/lib/kubelet/pods/x": false, "/var/lib/cni": false, "/var/lib/cni/networks/../../kubelet": false,
	} {
		if err := b.IPAMDir("ipam.dataDir", path); allowed != (err == nil) {
			t.Errorf("%q: %v, want allowed %v", path, err, allowed)
		}
	}
	for path, allowed := range map[string]bool{"/etc/resolv.conf": true, "/etc/plexus/resolv.conf": true, "/etc/shadow": false, "/etc/resolv.conf/../shadow": false} {
		if err := b.ResolvConf("ipam.resolvConf", path); allowed != (err == nil) {
			t.Errorf("%q: %v, want allowed %v", path, err, allowed)
		}
	}
}

func TestIPAMBase(t *testing.T) {
	b := Bounds{IPAMDirs: []string{"/a", "/a/b", "/run/addr"}}
	for dir, want := range map[string]string{
		"/a/b/c/d": "/a/b c/d", "/a": "/a ", "/a/x": "/a x", "/ab": "/ab ", "/var/lib/cni/networks/team": "/var/lib/cni/networks team", "/a/../c": "/c ", "/var/run/addr/x": "/run/addr x",
	} {
		base, below := b.IPAMBase(dir)
		if got := base + " " + strings.Join(below, "/"); got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
}

func TestBoundsAreRead(t *testing.T) {
	b, err := ParseBounds([]byte(`{"endpoints": ["tcp:[::1]:6640", "/run/vpp-*/api.sock"], "socketDirs": ["/srv/s"], "ipamDirs": ["/srv/a"], "resolvConfs": ["/srv/r"]}`))
	if err != nil || len(b.Endpoints) != 2 || b.SocketDirs[0] != "/srv/s" || b.IPAMDirs[0] != "/srv/a" || b.ResolvConfs[0] != "/srv/r" {
		t.Errorf("%+v, %v", b, err)
	}
	for text, words := range map[string][]string{
		`{"endpoints": ["run/db.sock"]}`:    {`"endpoints[0]"`, "unix:/path"},
		`{"endpoints": ["unix:db.sock"]}`:   {`"endpoints[0]"`},
		`{"endpoints": ["/run/[a/x"]}`:      {`"endpoints[0]"`},
		`{"endpoints": ["/run/[^a]/x"]}`:    {`"endpoints[0]"`},
		`{"endpoints": ["tcp:[::*]:6640"]}`: {`"endpoints[0]"`},
		`{"endpoints": "/run/x"}`:           {"endpoints", "a list"},
		`{"socketDirs": ["/"]}`:             {`"socketDirs[0]"`, "absolute path"},
		`{"socketDirs": ["/run", "../x"]}`:  {`"socketDirs[1]"`},
		`{"ipamDirs": ["/var/lib/../etc"]}`: {`"ipamDirs[0]"`},
		`{"resolvConfs": [""]}`:             {`"resolvConfs[0]"`},
		`{"socketDir": ["/run"]}`:           {"socketDir", "socketDirs"},
		`[]`:                                {"settings of the node"},
	} {
		if _, err := ParseBounds([]byte(text)); err == nil {
			t.Errorf("%s: no error", text)
		} else {
			for _, w := range words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: the error %q does not say %s", text, err, w)
				}
			}
		}
		if strings.HasPrefix(text, "[") {
			continue
		}
		whole := `{"name": "n", "type": "plexus", ` + text[1:]
		if _, err := Parse([]byte(whole)); err == nil {
			t.Errorf("%s: no error", whole)
		}
	}
}

package conf

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// NodeFile holds the Bounds of the built-in delegates that are executed under
// their own names, below another meta-plugin. Their configuration comes from a
// tenant; this file is the node's.
const NodeFile = "/etc/plexus/node.json"

// Bounds says which addresses and paths of the node a network may name. The
// node's administrator writes them; a NAD that names something outside
// of them is refused. Networks of the node's own files (delegates, clusterNetwork, confDir,
// manifests) have no bounds.
type Bounds struct {
	// Endpoints are patterns, see path.Match, of the vswitches' addresses: OVSDB
	// remotes (unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT) and sockets of VPP's binary API (PATH). The
	// default addresses are always allowed.
	Endpoints []string `json:"endpoints"`
	// SocketDirs are patterns of folders in which sandboxes may have their folders of
	// sockets. The default folders are always allowed.
	SocketDirs []string `json:"socketDirs"`
	// IPAMDirs are folders in which host-local may keep its addresses.
	IPAMDirs []string `json:"ipamDirs"`
	// ResolvConfs are the files that the key resolvConf of host-local may name.
	ResolvConfs []string `json:"resolvConfs"`
	// Uplinks are patterns of the names of VPP's interfaces on which networks may have
	// VLANs. None is allowed by default.
	Uplinks []string `json:"uplinks"`

	unbounded bool // a network of the node's own files: everything is allowed
}

// ParseBounds reads the text of NodeFile.
func ParseBounds(text []byte) (Bounds, error) {
	var b Bounds
	_, err := Decode("settings of the node", text, &b, RefuseUnknown)
	if err == nil {
		if err = joinSome(b.check()); err != nil {
			err = fmt.Errorf("settings of the node: %w", err)
		}
	}
	return b, err
}

// check refuses malformed patterns and paths.
func (b *Bounds) check() (errs []error) {
	bad := func(key string, at int, value, want string) {
		errs = append(errs, fmt.Errorf("key %q: %.200q, want %s", fmt.Sprintf("%s[%d]", key, at), value, want))
	}
	for i, e := range b.Endpoints {
		_, err := path.Match(e, "")
		socket := strings.TrimPrefix(e, "unix:")
		_, isHost := cutHost(e)
		if err != nil || strings.Contains(e, ",") || !isHost && (!path.IsAbs(socket) || strings.ContainsAny(e, `[\`)) ||
			isHost && strings.ContainsAny(e, "*?") && strings.ContainsAny(e, `[\`) {
			bad("endpoints", i, e, "unix:/path/of/db.sock, tcp:host:port or ssl:host:port of OVSDB, or /path/of/api.sock of VPP; * and ? stand for letters other than /")
		}
	}
	for i, u := range b.Uplinks {
		if _, err := path.Match(u, ""); err != nil || u == "" {
			bad("uplinks", i, u, "the name of an interface of VPP; * and ? stand for letters other than /")
		}
	}
	for _, list := range []struct {
		key   string
		paths []string
	}{{"socketDirs", b.SocketDirs}, {"ipamDirs", b.IPAMDirs}, {"resolvConfs", b.ResolvConfs}} {
		for i, p := range list.paths {
			if !path.IsAbs(p) || path.Clean(p) == "/" || path.Clean(p) != strings.TrimSuffix(p, "/") {
				bad(list.key, i, p, "an absolute path below / without \"..\"")
			}
		}
	}
	return errs
}

// ForOwn are the bounds of a network that the node's own files define: none.
func (b Bounds) ForOwn() Bounds {
	b.unbounded = true
	return b
}

// Endpoint refuses an address that is neither a default nor allowed. Of the remotes of an OVSDB,
// with commas between, each has to be. key is what the network calls it.
func (b Bounds) Endpoint(key, address string, defaults ...string) error {
	remotes := []string{address}
	if !path.IsAbs(address) {
		remotes = strings.Split(address, ",")
	}
	for _, remote := range remotes {
		err := b.refuse(key, remote, "endpoint", "endpoints", slices.Concat(defaults, b.Endpoints), func(allowed string) bool {
			return matches(allowed, remote)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Allows reports whether an address is within Endpoints.
func (b Bounds) Allows(address string) bool { return b.Endpoint("", address) == nil }

// matches compares an address as it is written with a pattern. It refuses "..", which a
// wildcard would match and which leads out of the folder.
func matches(pattern, address string) bool {
	pattern, address = noVarRun(pattern), noVarRun(address)
	if !strings.ContainsAny(pattern, "*?") || slices.Contains(strings.Split(address, "/"), "..") {
		return pattern == address
	}
	if rest, ok := cutHost(address); ok { // a wildcard stands for part of an IP address, not of a name
		if _, err := netip.ParseAddrPort(rest); err != nil {
			return false
		}
	}
	ok, err := path.Match(pattern, address)
	return ok && err == nil
}

// cutHost returns the host and port of an OVSDB that is reached over TCP.
func cutHost(address string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(address, "tcp:"); ok {
		return rest, true
	}
	return strings.CutPrefix(address, "ssl:")
}

// noVarRun replaces /var/run by /run, the target of that link (file-hierarchy(7)).
func noVarRun(address string) string {
	scheme := ""
	if rest, ok := strings.CutPrefix(address, "unix:"); ok {
		scheme, address = "unix:", rest
	}
	if rest, ok := strings.CutPrefix(address, "/var/run/"); ok {
		address = "/run/" + rest
	}
	return scheme + address
}

// SocketDir refuses a folder that is neither one of the defaults nor matches
// SocketDirs. key is what the network calls it. A folder below an allowed one is
// refused: a link may lead there.
func (b Bounds) SocketDir(key, dir string, defaults ...string) error {
	return b.refuse(key, dir, "folder", "socketDirs", slices.Concat(defaults, b.SocketDirs), func(allowed string) bool {
		return matches(path.Clean(allowed), path.Clean(dir))
	})
}

// Defaults of host-local's folder of addresses and of resolver configurations.
var (
	defaultIPAMDirs    = []string{"/var/lib/cni/networks"}
	defaultResolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"}
)

// IPAMDir refuses a folder that is neither host-local's default or one of IPAMDirs
// nor below one.
func (b Bounds) IPAMDir(key, dir string) error {
	return b.refuse(key, dir, "folder", "ipamDirs", slices.Concat(defaultIPAMDirs, b.IPAMDirs), isBelow(dir))
}

// IPAMBase cuts a folder of addresses into a base, which is the node's and may be
// reached by links, and the path below it, where no link is to be followed. A folder
// outside of the allowed ones is its own base: it was allowed when it was recorded.
func (b Bounds) IPAMBase(dir string) (base string, below []string) {
	dir = noVarRun(path.Clean(dir))
	for _, allowed := range slices.Concat(defaultIPAMDirs, b.IPAMDirs) {
		if allowed = noVarRun(path.Clean(allowed)); isBelow(dir)(allowed) && len(allowed) > len(base) {
			base = allowed
		}
	}
	if base == "" || base == dir {
		return dir, nil
	}
	return base, strings.Split(strings.TrimPrefix(dir, base+"/"), "/")
}

// ResolvConf refuses a file that is neither a resolver configuration of the node
// nor one of ResolvConfs.
func (b Bounds) ResolvConf(key, file string) error {
	return b.refuse(key, file, "file", "resolvConfs", slices.Concat(defaultResolvConfs, b.ResolvConfs), isBelow(file))
}

// Uplink refuses an interface of VPP that is none of Uplinks.
func (b Bounds) Uplink(key, name string) error {
	return b.refuse(key, name, "interface", "uplinks", b.Uplinks, func(allowed string) bool {
		ok, err := path.Match(allowed, name)
		return ok && err == nil
	})
}

// isBelow reports whether a name is an allowed one or below it.
func isBelow(name string) func(allowed string) bool {
	name = noVarRun(path.Clean(name))
	return func(allowed string) bool {
		allowed = noVarRun(path.Clean(allowed))
		return name == allowed || strings.HasPrefix(name, allowed+"/")
	}
}

// refuse is the error of what is not one of the allowed.
func (b Bounds) refuse(key, name, kind, nodeKey string, allowed []string, is func(allowed string) bool) error {
	if b.unbounded || slices.ContainsFunc(allowed, is) {
		return nil
	}
	return fmt.Errorf("key %q: %.200q is no %s that this node allows: allowed are %s; the node's administrator can add it to %q of the plexus configuration (of %s for a delegate that is executed alone)",
		key, name, kind, strings.Join(allowed, ", "), nodeKey, NodeFile)
}

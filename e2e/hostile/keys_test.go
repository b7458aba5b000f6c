package hostile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/shareddir"
)

// outside are values for any key: they point at the node's files, at another
// sandbox's folder, at servers, or are no names at all.
func (h *hostTree) outside(other string) []any {
	return []any{
		h.dir + "/kubelet/config.yaml", h.dir + "/kubelet", "../../../../../../.." + h.dir + "/kubelet/passwd", h.dir + "/link", h.dir + "/filelink",
		"/run/plexus/vhost/../../.." + h.dir + "/kubelet", "/var/lib/cni/networks/../../../.." + h.dir + "/kubelet", "/proc/self/root" + h.dir + "/kubelet",
		"..", ".", "/", "/proc/self/fd/0", "/proc/self/environ", "/dev/null", "/dev/mem", "/dev/stdin",
		"a\x00b", h.dir + "/kubelet\x00.json", strings.Repeat("x", 5000), "/" + strings.Repeat("y/", 3000), other,
		"unix:" + h.dir + "/db.sock", "unix:../db.sock", "unix:@abstract", "tcp:127.0.0.1:1", "ssl:127.0.0.1:6640", "ptcp:6640", "punix:" + h.dir + "/new.sock", "file://" + h.dir + "/kubelet/passwd",
		h.dir + "/db.sock", h.dir + "/kubelet/containerd.sock", "containerd.sock", "--", "-rf", "a\nb", "%s%n", "$(touch " + h.dir + "/x)", "\xff\xfe", "", 7, true, []any{h.dir}, map[string]any{"x": h.dir},
	}
}

// particular are values for keys of one kind.
var particular = map[string][]any{
	"permissions": {"7777", "4755", "-1", "0x1ff", "777777777777777777777"},
	"group":       {"0", "-1", "shadow", "4294967295", "4294967296"},
	"deviceID":    {"0000:00:03.0", "0000:00:00.0/../../..", "ffff:ff:1f.7", "lo", "eth0"},
	"pf":          {"lo", "eth0", "cni0", "../lo", []any{"lo", "../x"}},
	"driver":      {"../../../bin/sh", "ixgbe", "vfio-pci/../x", "KERNEL"},
	"interface":   {"eth0", "lo", "net1/../x", "sixteen-bytes-xy"},
	"mac":         {"ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"},
	"ips":         {"127.0.0.1/8", "0.0.0.0/0", "::1/128", "::ffff:10.0.0.1/96"},
	"secret":      {strings.Repeat("s", 24)},
}

// keySites are the installations that the keys are tried at.
type keySites struct {
	built  *site.Site // executed alone
	plexus *site.Site
	ovsdb  string
	api    string
	tries  int
}

// try is one configuration with a hostile value: who is executed with it, and words one of which the refusal
// has to say.
type try struct {
	as    string
	conf  map[string]any
	words []string
}

// with sets the key at a dotted path.
func with(c map[string]any, path string, value any) map[string]any {
	at := c
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		below, ok := at[name].(map[string]any)
		if !ok {
			below = map[string]any{}
			at[name] = below
		}
		at = below
	}
	at[names[len(names)-1]] = value
	return c
}

// tryOf makes the configuration of a tenant that sets a key of the table; ok is
// false for a key that the suite does not know.
func (k *keySites) tryOf(of, key string, value any) (c try, ok bool) {
	dir := filepath.Join(k.built.Dir, "sockets")
	bases := map[string]map[string]any{
		"ovsdpdk":  {"type": "ovsdpdk", "ovsdb": k.ovsdb, "bridge": "br-hostile", "createBridge": true, "vhost": map[string]any{"socketDir": dir}},
		"vppmemif": {"type": "vppmemif", "apiSocket": k.api, "socket": map[string]any{"dir": dir}},
		"sriov":    {"type": "sriov", "deviceID": absentDevice},
	}
	c.as, c.words = of, []string{key[strings.LastIndex(key, ".")+1:]}
	path := key
	switch of {
	case "ovsdpdk", "vppmemif":
		if list, name, found := strings.Cut(key, "."); found && list == "routes" {
			route := map[string]any{"dst": "10.9.0.0/16"}
			route[name] = value
			path, value = "routes", []any{route}
		} else if key == "bridgeDomain.uplink" {
			bases["vppmemif"]["bridgeDomain"], bases["vppmemif"]["vlan"] = map[string]any{"name": "hostile"}, 7
		} else if key == "addresses" {
			value = []any{value}
		} else if key == "socket.file" || key == "socket.group" || key == "socket.permissions" || key == "secret" || key == "apiSocket" || key == "socket.dir" {
			bases["vppmemif"]["bridgeDomain"] = map[string]any{"name": "hostile"}
		}
	case "sriov":
		c.words = append(c.words, absentDevice)
		if strings.HasPrefix(key, "dpdk.") && key != "dpdk.dpdk_driver" {
			with(bases[of], "dpdk.dpdk_driver", "vfio-pci")
		}
		if key == "deviceID" || key == "pciBusID" || key == "pf" || key == "master" || key == "if0" {
			delete(bases[of], "deviceID")
			c.words = append(c.words, "deviceID", "PF")
		}
	case "userspace":
		engine, iftype := "ovs-dpdk", "vhostuser"
		if strings.Contains(key, "memif") {
			engine, iftype = "vpp", "memif"
		}
		bases[of] = map[string]any{"type": of, "sharedDir": dir, "host": map[string]any{"engine": engine, "iftype": iftype, "netType": "bridge",
			"memif": map[string]any{"role": "master", "mode": "ethernet"}, "vhost": map[string]any{"mode": "client"}, "bridge": map[string]any{"bridgeName": "77"}}}
	case "host-local":
		c.as, path = "ovsdpdk", "ipam."+key
		bases["ovsdpdk"]["ipam"] = k.built.HostLocal("192.168.66.0/24")
	case "": // name of a network
		c.as = "ovsdpdk"
		bases["ovsdpdk"]["ipam"] = k.built.HostLocal("192.168.66.0/24")
	case "runtimeConfig":
		c.as, path = "ovsdpdk", "runtimeConfig."+key
		switch key {
		case "deviceID", "infinibandGUID":
			c.as = "sriov"
			c.words = append(c.words, absentDevice)
			if key == "deviceID" {
				delete(bases["sriov"], "deviceID")
			}
		case "CNIDeviceInfoFile":
			bases["ovsdpdk"]["capabilities"] = map[string]any{key: true}
		case "ips":
			c.words = append(c.words, "IP address") // of the plugin's own reader
			bases["ovsdpdk"]["ipam"] = k.built.HostLocal("192.168.66.0/24")
			if _, list := value.([]any); !list {
				value = []any{value}
			}
		}
	default:
		return c, false
	}
	c.conf = bases[c.as]
	c.conf["cniVersion"], c.conf["name"] = "1.0.0", "theirs"
	with(c.conf, path, value)
	return c, true
}

// absentDevice is a PCI address of no device.
const absentDevice = "fffe:ff:1f.7"

// Each key of the table that a tenant sets gets values that lead outside. It is
// refused by a CNI code and its name, or it stays within its bounds.
func TestHostileKeys(t *testing.T) {
	v := site.OVS(t)
	site.DefaultPlaces(t, v)
	vpp, err := standin.StartAt(t.Context(), "/run/vpp/api.sock", standin.Options{})
	must.Do(t, err)
	t.Cleanup(vpp.Close)
	h := newHostTree(t)
	k := &keySites{built: site.New(t, nil), ovsdb: v.OVSDB(), api: "/run/vpp/api.sock"}
	k.plexus = site.NewVhostSwept(t, v)
	p := site.NewPod(t, "tenant")
	other := "/run/plexus/vhost/" + shareddir.OwnName(site.SandboxID(880))
	must.Do(t, os.MkdirAll(other, 0o750))
	must.WriteFile(t, other+"/file", h.secret)
	neighbour, err := node.Tree(other)
	must.Do(t, err)
	rows := func() string {
		text, err := v.Dump(t.Context())
		must.Do(t, err)
		return text + vpp.State()
	}
	refused := 0
	for n, key := range tenantKeys(t) {
		t.Run(key[0]+" "+key[1], func(t *testing.T) {
			before := rows()
			values := append(h.outside(other), particular[key[1][strings.LastIndex(key[1], ".")+1:]]...)
			for i := range values {
				// Few: the node's folder, and one other value for each key.
				if few := triesOf(1, 0) == 1; few && i != 1 && i != n%len(values) {
					continue
				}
				what := fmt.Sprintf("%s %s = %.60q", key[0], key[1], fmt.Sprint(values[i]))
				if k.attempt(t, key[0], key[1], values[i], p, what) != nil {
					refused++
				}
				if key[0] == "volume" {
					h.passedThrough(t, what)
				} else {
					h.untouched(t, what)
				}
			}
			site.SameWorld(t, before, rows())
		})
	}
	if after, err := node.Tree(other); err != nil || after != neighbour {
		t.Errorf("another sandbox's folder: %v\n%s", err, after)
	}
	h.same(t)
	t.Logf("%d keys, %d tries, %d refused", len(tenantKeys(t)), k.tries, refused)
}

// attempt makes ADD and DEL twice with a hostile value and judges the answer.
func (k *keySites) attempt(t *testing.T, of, key string, value any, p *node.Pod, what string) error {
	t.Helper()
	k.tries++
	sandbox, pod := site.SandboxID(50000+k.tries), ""
	s, words := k.built.On(t), []string{key}
	switch of {
	case "annotation":
		s, pod = k.plexus.On(t), "tenant"
		selection := map[string]any{"name": "fast"}
		if key == "name" {
			words = append(words, "does not exist") // NetworkAttachmentDefinition default/NAME
		}
		selection[key] = value
		if alias, ok := map[string]string{"interfaceRequest": `"interface"`, "cni-args": "args.cni."}[key]; ok {
			words = append(words, alias)
		}
		if key == "cni-args" {
			selection[key] = map[string]any{"vhost": value, "ovsdb": value, "mac": value}
		}
		s.Pod(pod, string(must.JSON(t, []any{selection})))
	case "volume":
		s, pod = k.plexus.On(t), "tenant"
		text, ok := value.(string)
		if !ok || strings.HasPrefix(filepath.Clean(text), filepath.Dir(text)) && strings.HasPrefix(text, "/var/lib/host") && !strings.Contains(text, "link") && !strings.Contains(text, "\x00") {
			return nil // a hostPath itself is for admission to decide about
		}
		words = []string{"shared-dir", "symbolic link"}
		s.PodWithVolume(pod, "fast", text)
	default:
		c, ok := k.tryOf(of, key, value)
		if !ok {
			t.Errorf("%s %s of docs/security.md has no values in this suite", of, key)
			return nil
		}
		s.As, s.Conf, words = c.as, must.JSON(t, c.conf), c.words
	}
	out, stderr, err := s.Call(site.Request{Verb: "ADD", Sandbox: sandbox, Netns: p.Path(), Pod: pod})
	site.NoPanic(t, stderr)
	if strings.Contains(string(out)+stderr, "the-node's-own-secret") {
		t.Errorf("%s: the answer has the content of a file of the node", what)
	}
	if err != nil {
		judge(t, what, err, words)
	}
	for range 2 {
		var unreadable *site.Error
		err := s.Del(sandbox, p, pod)
		if errors.As(err, &unreadable) && unreadable.Code == 7 && strings.HasPrefix(unreadable.Msg, "network configuration: ") {
			continue // it is none, by CNI's own reader: nothing was made
		}
		if err != nil {
			t.Errorf("%s: DEL: %v", what, err)
		}
	}
	return err
}

// judge wants an error with a CNI code for a configuration, which names the key.
func judge(t *testing.T, what string, err error, words []string) {
	t.Helper()
	var refused *site.Error
	switch {
	case !errors.As(err, &refused):
		t.Errorf("%s: no CNI error: %v", what, err)
		return
	case strings.Contains(refused.Msg, "the-node's-own-secret"):
		t.Errorf("%s: the error has the content of a file of the node", what)
	case refused.Code == 999 || refused.Code == 0 || refused.Code == 100:
		t.Errorf("%s: code %d: %.300s", what, refused.Code, refused.Msg)
	}
	for _, word := range words {
		if strings.Contains(refused.Msg, word) {
			return
		}
	}
	t.Errorf("%s: the error says none of %.100q: %.300s", what, words, refused.Msg)
}

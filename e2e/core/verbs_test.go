package core

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
)

// codeNotReady is STATUS' answer when ADD could not be served (CNI
// specification 1.1.0, section 5).
const codeNotReady = 50

// newStatusSite has a configuration that itself names a vhost-user network, on
// a switch of its own choice.
func newStatusSite(t *testing.T, v *ovs.Switch, ovsdb string, keys map[string]any) *site.Site {
	t.Helper()
	s := site.New(t, nil)
	fast := site.Vhost(v, s, keys)
	fast["ovsdb"], fast["name"] = ovsdb, "fast"
	return s.With(map[string]any{"delegates": []any{site.ClusterBridge(filepath.Join(s.Dir, "ipam")), fast}})
}

// STATUS says whether ADD could be served, and if not what is to be done.
func TestStatus(t *testing.T) {
	v := site.OVS(t)
	must.Do(t, newStatusSite(t, v, v.OVSDB(), nil).Status())

	for _, test := range []struct {
		name string
		site func(t *testing.T) *site.Site
		says []string
	}{
		{"OVSDB is not there", func(t *testing.T) *site.Site {
			return newStatusSite(t, v, "unix:/run/nowhere/db.sock", nil)
		}, []string{"network fast is not ready", "OVSDB at unix:/run/nowhere/db.sock is unreachable", "is ovsdb-server running"}},
		{"DPDK is not initialised", func(t *testing.T) *site.Site {
			dir := t.TempDir()
			db, err := ovs.StartDB(must.Deadline(t), dir, nil)
			must.Do(t, err)
			t.Cleanup(func() { must.Do(t, db.Stop()) })
			return newStatusSite(t, v, db.OVSDB(), nil)
		}, []string{"network fast is not ready", "has not initialised DPDK", "other_config:dpdk-init=true"}},
		{"the bridge is of another datapath", func(t *testing.T) *site.Site {
			db := fakeSwitch(t)
			site.Vsctl(t, db, "add-br br-system -- set bridge br-system datapath_type=system")
			return newStatusSite(t, v, db.OVSDB(), map[string]any{"bridge": "br-system"})
		}, []string{"network fast is not ready", `"bridge"`, "br-system", `datapath_type "system"`, "netdev"}},
		{"the bridge is missing and not to be made", func(t *testing.T) *site.Site {
			return newStatusSite(t, v, v.OVSDB(), map[string]any{"bridge": "br-none", "createBridge": nil})
		}, []string{"network fast is not ready", `"bridge"`, "has no bridge br-none", `"createBridge": true`}},
		{"the cluster network has not said that it is ready", func(t *testing.T) *site.Site {
			return newStatusSite(t, v, v.OVSDB(), nil).With(map[string]any{"readinessindicatorfile": "/run/not-ready"})
		}, []string{"cluster network is not ready", "readinessindicatorfile /run/not-ready"}},
		{"a plugin is missing", func(t *testing.T) *site.Site {
			s := newStatusSite(t, v, v.OVSDB(), nil)
			return s.With(map[string]any{"delegates": []any{map[string]any{"name": "none", "type": "nonesuch"}}})
		}, []string{"network none is not ready", `plugin "nonesuch"`, site.BinDir(t)}},
		{"the cluster network is not defined", func(t *testing.T) *site.Site {
			return site.New(t, map[string]any{"clusterNetwork": "nonesuch"})
		}, []string{`network "nonesuch"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.site(t).On(t).Status()
			site.Says(t, err, test.says...)
			if test.name != "a plugin is missing" { // that is the configuration's fault
				site.HasCode(t, err, codeNotReady)
			}
		})
	}
}

// fakeSwitch is a database that says of DPDK that it is initialised.
func fakeSwitch(t *testing.T) *ovs.Switch {
	t.Helper()
	db, err := ovs.StartDB(must.Deadline(t), t.TempDir(), nil)
	must.Do(t, err)
	t.Cleanup(func() { must.Do(t, db.Stop()) })
	site.Vsctl(t, db, "set Open_vSwitch . dpdk_initialized=true")
	return db
}

// STATUS is passed on to executables that know it, and their answer is given.
func TestStatusOfExecutables(t *testing.T) {
	s := site.New(t, nil)
	s.InstallRecorder()
	fail := filepath.Join(s.Dir, "fail")
	s = s.With(map[string]any{"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "told", "type": site.Recorder, "log": filepath.Join(s.Dir, "log"), "fail": fail}}})
	must.Do(t, s.Status())
	must.WriteFile(t, fail, "STATUS")
	site.Says(t, s.Status(), "network told is not ready", "told to fail")
	if got := site.Recorded(t, filepath.Join(s.Dir, "log")); len(got) != 2 || !strings.HasPrefix(got[0], "STATUS") {
		t.Errorf("the recorder got %q, want STATUS twice", got)
	}
}

// VERSION is answered by plexus alone; every other verb says what is missing.
func TestVersionWithoutPlexusd(t *testing.T) {
	s := site.New(t, map[string]any{"delegates": []any{site.ClusterBridge("/nowhere")}})
	alone := filepath.Join(s.Dir, "alone")
	must.Do(t, os.Mkdir(alone, 0o755))
	data := must.ReadFile(t, filepath.Join(site.BinDir(t), "plexus"))
	must.Do(t, os.WriteFile(filepath.Join(alone, "plexus"), []byte(data), 0o755))
	relative, err := filepath.Rel(site.BinDir(t), filepath.Join(alone, "plexus"))
	must.Do(t, err)
	s.As, s.Path = relative, alone

	out, _, err := s.Call(site.Request{Verb: "VERSION"})
	must.Do(t, err)
	var answer struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
	must.Decode(t, out, &answer)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if !slices.Contains(answer.SupportedVersions, version) {
			t.Errorf("VERSION: %s: want %s among them", out, version)
		}
	}
	p := site.NewPod(t, "alone")
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		_, _, err := s.Call(site.Request{Verb: verb, Sandbox: site.SandboxID(400), Netns: p.Path()})
		site.Says(t, err, "plexusd", "CNI_PATH", alone)
	}
	// What is found in CNI_PATH will do.
	s.Path = alone + ":" + site.BinDir(t)
	if err := s.Del(site.SandboxID(400), p, ""); err != nil {
		t.Errorf("DEL with plexusd in CNI_PATH: %v", err)
	}
	// With it, VERSION is the same.
	s.As = "plexus"
	whole, _, err := s.Call(site.Request{Verb: "VERSION"})
	must.Do(t, err)
	if string(whole) != string(out) {
		t.Errorf("VERSION is %s, without plexusd %s", whole, out)
	}
}

// GC undoes the attachments of this configuration that are not valid any more,
// and nothing else.
func TestGC(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.InstallRecorder()
	log := filepath.Join(s.Dir, "log")
	s.NAD("told", map[string]any{"cniVersion": "1.1.0", "name": "told", "plugins": []any{site.Vhost(v, s, map[string]any{"ipam": s.HostLocal("192.168.3.0/24")}), map[string]any{"type": site.Recorder, "log": log}}})
	pods := map[string]*node.Pod{}
	for _, name := range []string{"stale", "valid", "theirs"} {
		pods[name] = site.NewPod(t, name)
		s.Pod(name, "fast, told")
	}
	stale, valid, theirs := site.SandboxID(410), site.SandboxID(411), site.SandboxID(412)
	s.MustAdd(site.SandboxID(413), pods["stale"], "stale") // for the folders that stay
	s.MustDel(site.SandboxID(413), pods["stale"], "stale")
	fresh := site.Links(t, pods["stale"])
	other := s.With(map[string]any{"name": "another"})
	s.MustAdd(valid, pods["valid"], "valid")
	other.MustAdd(theirs, pods["theirs"], "theirs")
	before := noSizes(s.World(v))
	s.MustAdd(stale, pods["stale"], "stale")

	_, _, err := s.Call(site.Request{Verb: "GC"})
	site.Says(t, err, "cni.dev/valid-attachments", "missing")
	s.MustCheck(stale, pods["stale"], "stale")

	must.Do(t, s.GC(site.AttachmentID{ContainerID: valid, IfName: "eth0"}, site.AttachmentID{ContainerID: stale, IfName: "eth0"}))
	s.MustCheck(stale, pods["stale"], "stale")

	must.Do(t, os.Remove(log))
	must.Do(t, s.GC(site.AttachmentID{ContainerID: valid, IfName: "eth0"}, site.AttachmentID{ContainerID: stale, IfName: "eth7"}))
	if got := site.Recorded(t, log); len(got) != 2 || got[0] != "DEL net2" || !strings.HasPrefix(got[1], "GC ") {
		t.Errorf("the recorder got %q, want DEL net2, GC", got)
	}
	if got, want := toldValid(t, log), fmt.Sprint([]site.AttachmentID{{ContainerID: valid, IfName: "net2"}, {ContainerID: theirs, IfName: "net2"}}); got != want {
		t.Errorf("the recorder was told that %v are valid, want %s", got, want)
	}
	site.SameWorld(t, site.Without(before, log), site.Without(noSizes(s.World(v)), log))
	site.SameWorld(t, fresh, site.Links(t, pods["stale"]))
	s.MustCheck(valid, pods["valid"], "valid")
	other.MustCheck(theirs, pods["theirs"], "theirs")

	must.Do(t, s.GC())
	if err := s.Check(valid, pods["valid"], "valid"); err == nil {
		t.Error("CHECK succeeds on what GC has undone")
	}
	other.MustCheck(theirs, pods["theirs"], "theirs")
	must.Do(t, other.GC())
}

// toldValid are the attachments that a recorder was told at GC are valid.
func toldValid(t testing.TB, log string) string {
	t.Helper()
	var told struct {
		Valid []site.AttachmentID `json:"cni.dev/valid-attachments"`
	}
	for line := range strings.Lines(must.ReadFile(t, log)) {
		if text, ok := strings.CutPrefix(line, "GC  "); ok {
			must.Do(t, json.Unmarshal([]byte(text), &told))
		}
	}
	slices.SortFunc(told.Valid, func(a, b site.AttachmentID) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	return fmt.Sprint(told.Valid)
}

// GC removes what has plexus' mark and is in no journal any more, but nothing
// of another plexus' on the same node.
func TestGCSweepsOrphans(t *testing.T) {
	v := site.OVS(t)
	s, other := site.NewVhostSwept(t, v), site.NewVhost(t, v)
	s.Pod("orphan", "fast")
	other.Pod("neighbour", "fast")
	p, q := site.NewPod(t, "orphan"), site.NewPod(t, "neighbour")
	orphan, neighbour := site.SandboxID(420), site.SandboxID(421)
	other.MustAdd(neighbour, q, "neighbour")
	theirs := other.World(v)
	before := s.World(v)
	s.MustAdd(orphan, p, "orphan")
	must.Do(t, os.Remove(s.JournalFile(orphan)))
	if rows := other.World(v); !strings.Contains(rows, "plexus-sandbox:"+orphan) {
		t.Fatal("the orphan has no rows")
	}
	must.Do(t, p.Close())
	must.Do(t, s.GC())
	after := s.World(v)
	if strings.Contains(after, "plexus-sandbox:"+orphan) {
		t.Errorf("the orphan's rows are left behind:\n%s", after)
	}
	other.MustCheck(neighbour, q, "neighbour")
	// DEL, should it still come, finds the rest.
	s.MustDel(orphan, nil, "orphan")
	s.BecomesWorld(v, site.Without(before, "netns orphan\n"))
	site.SameWorld(t, site.Without(theirs, "netns orphan\n"), other.World(v))
	other.MustDel(neighbour, q, "neighbour")
}

// A journal file that cannot be read, or is lost, is no reason to take a
// running pod's addresses and ports away from it: the runtime says that it is
// valid. Executables are not told the contrary either.
func TestGCKeepsARunningPod(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.InstallRecorder()
	log, clusterLog := filepath.Join(s.Dir, "log"), filepath.Join(s.Dir, "log-cluster")
	cluster := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
	s = s.With(map[string]any{"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{cluster, map[string]any{"type": site.Recorder, "log": clusterLog}}}}})
	s.NAD("told", map[string]any{"cniVersion": "1.1.0", "name": "told", "plugins": []any{site.Vhost(v, s, nil), map[string]any{"type": site.Recorder, "log": log}}})
	s.Pod("running", "fast, told")
	p := site.NewPod(t, "running")
	for n, test := range []struct {
		name   string
		damage func(file string)
	}{
		{"damaged journal", func(file string) { must.WriteFile(t, file, "nothing of plexus") }},
		{"lost journal", func(file string) { must.Do(t, os.Remove(file)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := s.On(t)
			running := site.SandboxID(430 + n)
			s.MustAdd(running, p, "running")
			file := s.JournalFile(running)
			good := must.ReadFile(t, file)
			test.damage(file)
			must.Do(t, os.Remove(log))
			must.Do(t, os.Remove(clusterLog))
			before, inside := s.World(v), site.Links(t, p)
			if err := s.GC(site.AttachmentID{ContainerID: running, IfName: "eth0"}); err != nil {
				site.Says(t, err, file)
			}
			for file, ifName := range map[string]string{log: "net2", clusterLog: "eth0"} {
				if _, err := os.Stat(file); err != nil {
					continue // it was asked to collect nothing
				}
				if got, want := toldValid(t, file), fmt.Sprint([]site.AttachmentID{{ContainerID: running, IfName: ifName}}); got != want {
					t.Errorf("the recorder was told that %v are valid, want %s", got, want)
				}
			}
			site.SameWorld(t, site.Without(before, log), site.Without(s.World(v), log)) // and log-cluster
			site.SameWorld(t, inside, site.Links(t, p))
			must.Do(t, os.WriteFile(file, []byte(good), 0o600))
			if err := s.Check(running, p, "running"); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.MustDel(running, p, "running")
		})
	}
}

// A result is in the version that the configuration asks for, and says what
// that version can say.
func TestResultOfEveryVersion(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.Pod("versions", "fast")
	p := site.NewPod(t, "versions")
	for n, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			s := s.On(t).With(map[string]any{"cniVersion": version})
			id := site.SandboxID(440 + n)
			out, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: id, Netns: p.Path(), Pod: "versions"})
			must.Do(t, err)
			var r struct {
				CNIVersion string           `json:"cniVersion"`
				Interfaces []map[string]any `json:"interfaces"`
				IPs        []map[string]any `json:"ips"`
			}
			must.Decode(t, out, &r)
			if r.CNIVersion != version || len(r.Interfaces) != 4 || len(r.IPs) != 2 {
				t.Fatalf("result %s: want version %s, four interfaces, two addresses", out, version)
			}
			net1 := r.Interfaces[3]
			newest := version == "1.1.0"
			if _, said := net1["socketPath"]; net1["name"] != "net1" || said != newest {
				t.Errorf("net1 is %v: socketPath stands in 1.1.0 alone", net1)
			}
			if mtu, said := net1["mtu"]; said != newest || newest && mtu != 1500.0 {
				t.Errorf("net1 is %v: mtu stands in 1.1.0 alone", net1)
			}
			for i, want := range []float64{2, 3} {
				if r.IPs[i]["interface"] != want {
					t.Errorf("address %v: want interface %v", r.IPs[i], want)
				}
				if number, said := r.IPs[i]["version"]; said != strings.HasPrefix(version, "0.") || said && number != "4" {
					t.Errorf("address %v: its version stands in results below 1.0.0 alone", r.IPs[i])
				}
			}
			s.MustCheck(id, p, "versions")
			s.MustDel(id, p, "versions")
		})
	}
	unknown := s.With(map[string]any{"cniVersion": "9.9.9"})
	_, err := unknown.Add(site.SandboxID(445), p, "versions")
	site.Says(t, err, `"cniVersion"`, "9.9.9", "1.1.0")
}

// stdins are the configurations that a recorder got, by "VERB ifname".
func stdins(t testing.TB, file string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for line := range strings.Lines(must.ReadFile(t, file)) {
		words := strings.SplitN(line, " ", 3)
		config := map[string]any{}
		must.Decode(t, []byte(words[2]), &config)
		all[words[0]+" "+words[1]] = config
	}
	return all
}

// What the pod and the runtime ask of a capability is repeated to CHECK and to
// DEL, to those plugins that declare it.
func TestCapabilityArgs(t *testing.T) {
	s := site.New(t, nil)
	s.InstallRecorder()
	log := filepath.Join(s.Dir, "log")
	s = s.With(map[string]any{
		"capabilities": map[string]bool{"portMappings": true, "mac": true},
		"runtimeConfig": map[string]any{
			"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		},
		"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{
			map[string]any{"type": site.Recorder, "log": log, "capabilities": map[string]bool{"portMappings": true}},
		}}},
	})
	s.NAD("asked", map[string]any{"cniVersion": "1.1.0", "name": "asked", "plugins": []any{
		map[string]any{"type": site.Recorder, "log": log, "capabilities": map[string]bool{"mac": true, "ips": true}},
	}})
	s.Pod("asking", `[{"name": "asked", "mac": "02:00:00:00:00:07", "ips": ["10.1.1.7/24"], "cni-args": {"colour": "red"}}]`)
	p := site.NewPod(t, "asking")
	id := site.SandboxID(450)
	s.MustAdd(id, p, "asking")
	s.MustCheck(id, p, "asking")
	// DEL repeats what ADD was asked, whatever is asked now.
	s.Pod("asking", "asked")
	s.With(map[string]any{"runtimeConfig": nil}).MustDel(id, p, "asking")
	got := stdins(t, log)
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		for ifName, want := range map[string]string{
			"eth0": `{"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]}`,
			"net1": `{"ips":["10.1.1.7/24"],"mac":"02:00:00:00:00:07"}`,
		} {
			if have := string(must.JSON(t, got[verb+" "+ifName]["runtimeConfig"])); have != want {
				t.Errorf("%s %s got runtimeConfig %s, want %s", verb, ifName, have, want)
			}
		}
		if have := string(must.JSON(t, got[verb+" net1"]["args"])); have != `{"cni":{"colour":"red"}}` {
			t.Errorf("%s net1 got args %s", verb, have)
		}
		if _, said := got[verb+" net1"]["prevResult"]; said != (verb != "ADD") {
			t.Errorf("%s net1: prevResult given: %v", verb, said)
		}
	}
}

// tinyIPAM is an address management that knows one address, logs what it is
// asked and refuses what CNI 0.3.1 does not have, as the reference ones do.
const tinyIPAM = `#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" >> "$(dirname "$0")/ipam.log"
case "$CNI_COMMAND$config" in
ADD*) echo '{"cniVersion": "VERSION", "ips": [{IP4 "address": "10.77.0.7/24", "gateway": "10.77.0.1"}], "routes": [{"dst": "10.78.0.0/16"}], "dns": {"domain": "tiny"}}' ;;
CHECK*0.3.1*) echo '{"code": 1, "msg": "config version does not allow CHECK"}'; exit 1 ;;
esac
`

// A built-in delegate gets its addresses from a plugin below CNI_PATH as well
// as from those that are built in, with the same answer to the same question.
func TestIPAM(t *testing.T) {
	v := site.OVS(t)
	for n, version := range []string{"0.3.1", "1.1.0"} {
		t.Run("executed, CNI "+version, func(t *testing.T) {
			s := site.NewVhostSwept(t, v)
			plugins := filepath.Join(s.Dir, "plugins")
			must.Do(t, os.Mkdir(plugins, 0o755))
			s.Path += ":" + plugins
			ip4 := ""
			if version == "0.3.1" {
				ip4 = `"version": "4",`
			}
			script := strings.NewReplacer("VERSION", version, "IP4", ip4).Replace(tinyIPAM)
			must.Do(t, os.WriteFile(filepath.Join(plugins, "tiny"), []byte(script), 0o755))
			s.NAD("executed", site.Vhost(v, s, map[string]any{"cniVersion": version, "ipam": map[string]any{"type": "tiny"}}))
			s.Pod("executed", "executed")
			p := site.NewPod(t, "executed")
			id := site.SandboxID(460 + n)
			r := s.MustAdd(id, p, "executed")
			if len(r.IPs) != 2 || r.IPs[1].Address.String() != "10.77.0.7/24" || *r.IPs[1].Interface != 3 {
				t.Errorf("addresses %v, want 10.77.0.7/24 on interface 3 for the second", r.IPs)
			}
			s.MustCheck(id, p, "executed")
			s.MustDel(id, p, "executed")
			var want []string
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				if verb == "CHECK" && version == "0.3.1" {
					continue // that version has none
				}
				want = append(want, fmt.Sprintf("%s %s net1 %s\n", verb, id, p.Path()))
			}
			if got := must.ReadFile(t, filepath.Join(plugins, "ipam.log")); got != strings.Join(want, "") {
				t.Errorf("the plugin was asked\n%swant\n%s", got, strings.Join(want, ""))
			}
		})
	}
	for _, test := range []struct {
		name string
		ipam map[string]any
		want []string
	}{
		{"host-local", map[string]any{"type": "host-local", "ranges": []any{
			[]any{map[string]any{"subnet": "192.168.40.0/24", "rangeStart": "192.168.40.50"}},
			[]any{map[string]any{"subnet": "fd00:40::/64", "rangeStart": "fd00:40::50"}},
		}}, []string{"192.168.40.50/24", "fd00:40::50/64"}},
		{"static", map[string]any{"type": "static", "addresses": []any{
			map[string]any{"address": "192.168.41.7/24", "gateway": "192.168.41.1"}, map[string]any{"address": "fd00:41::7/64"},
		}}, []string{"192.168.41.7/24", "fd00:41::7/64"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := site.NewVhostSwept(t, v)
			if test.name == "host-local" {
				test.ipam["dataDir"] = filepath.Join(s.Dir, "ipam")
			}
			s.NAD("built", site.Vhost(v, s, map[string]any{"ipam": test.ipam}))
			s.Pod("built", "built")
			p := site.NewPod(t, "built")
			r := s.MustAdd(site.SandboxID(465), p, "built")
			var got []string
			for _, ip := range r.IPs[1:] {
				got = append(got, ip.Address.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("addresses %q, want %q", got, test.want)
			}
			s.MustCheck(site.SandboxID(465), p, "built")
			s.MustDel(site.SandboxID(465), p, "built")
		})
	}
	t.Run("missing", func(t *testing.T) {
		s := site.NewVhostSwept(t, v)
		s.NAD("missing", site.Vhost(v, s, map[string]any{"ipam": map[string]any{"type": "nonesuch"}}))
		s.Pod("missing", "missing")
		p := site.NewPod(t, "missing")
		before := s.World(v)
		_, err := s.Add(site.SandboxID(466), p, "missing")
		site.Says(t, err, "net1", "default/missing", "ipam nonesuch")
		site.SameWorld(t, before, s.World(v))
	})
	t.Run("exhausted", func(t *testing.T) {
		s := site.NewVhostSwept(t, v)
		s.NAD("small", site.Vhost(v, s, map[string]any{"ipam": s.HostLocal("192.168.42.0/30")}))
		s.Pod("first", "small")
		s.Pod("second", "small")
		p, q := site.NewPod(t, "first"), site.NewPod(t, "second")
		s.MustAdd(site.SandboxID(467), p, "first")
		before := s.World(v)
		_, err := s.Add(site.SandboxID(468), q, "second")
		site.Says(t, err, "net1", "default/small", "ipam host-local", "range 192.168.42.1-192.168.42.2")
		site.SameWorld(t, before, s.World(v))
		s.MustDel(site.SandboxID(467), p, "first")
		s.MustAdd(site.SandboxID(468), q, "second") // the address is free again
		s.MustDel(site.SandboxID(468), q, "second")
	})
}

// DEL goes through a chain backwards. A plugin that fails stops none of the
// others, is reported, and is asked again by the next DEL, with what it needs.
func TestDelOfAChain(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s.InstallRecorder()
	log, fail := filepath.Join(s.Dir, "log"), filepath.Join(s.Dir, "fail")
	tell := func(place string) map[string]any {
		return map[string]any{"type": site.Recorder, "log": log, "place": place, "fail": fail + place}
	}
	s.NAD("chain", map[string]any{"cniVersion": "1.1.0", "name": "chain", "plugins": []any{
		tell("first"), site.Vhost(v, s, map[string]any{"bridge": "br-chain", "ipam": s.HostLocal("192.168.43.0/24")}), tell("last"),
	}})
	s.Pod("chain", "chain")
	p := site.NewPod(t, "chain")
	id := site.SandboxID(470)
	s.MustAdd(id, p, "chain")
	s.MustDel(id, p, "chain")
	must.Do(t, os.Remove(log))
	before, inside := s.World(v), site.Links(t, p)

	s.MustAdd(id, p, "chain")
	must.WriteFile(t, fail+"last", "DEL")
	must.Do(t, os.Remove(log))
	_, stderr, err := s.Call(site.Request{Verb: "DEL", Sandbox: id, Netns: p.Path(), Pod: "chain"})
	site.NoPanic(t, stderr)
	site.Says(t, err, "net1", "default/chain", site.Recorder, "told to fail")
	places := func() (all []string) {
		for line := range strings.Lines(must.ReadFile(t, log)) {
			var c struct {
				Place      string
				PrevResult types100.Result
			}
			words := strings.SplitN(line, " ", 3)
			must.Decode(t, []byte(words[2]), &c)
			if len(c.PrevResult.Interfaces) != 1 || c.PrevResult.Interfaces[0].SocketPath == "" {
				t.Errorf("%s %s got prevResult %v, want the interface with its socket", words[0], c.Place, c.PrevResult)
			}
			all = append(all, words[0]+" "+c.Place)
		}
		return all
	}
	if got := places(); !slices.Equal(got, []string{"DEL last", "DEL first"}) {
		t.Errorf("the recorders got %q, want DEL last, DEL first", got)
	}
	if rows := s.World(v); strings.Contains(rows, "br-chain") || strings.Contains(site.Links(t, p), "eth0") {
		t.Errorf("the failing plugin kept others from being undone:\n%s", rows)
	}
	site.Says(t, s.Check(id, p, "chain"), "cut short", "DEL")

	must.Do(t, os.Remove(fail+"last"))
	must.Do(t, os.Remove(log))
	s.MustDel(id, p, "chain")
	if got := places(); !slices.Contains(got, "DEL last") {
		t.Errorf("the second DEL asked %q, want the one that failed among them", got)
	}
	must.Do(t, os.Remove(log))
	site.SameWorld(t, before, s.World(v))
	site.SameWorld(t, inside, site.Links(t, p))
	s.MustDel(id, p, "chain")
	if _, err := os.Stat(log); err == nil {
		t.Errorf("the third DEL asked %q, want none", places())
	}
}

// "result": "default-network" answers with the cluster network alone;
// everything else is as ever.
func TestResultDefaultNetwork(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	s = s.With(map[string]any{"result": "default-network"})
	s.Pod("alone", "fast")
	p := site.NewPod(t, "alone")
	id := site.SandboxID(480)
	before := s.World(v)
	r := s.MustAdd(id, p, "alone")
	if len(r.Interfaces) != 3 || r.Interfaces[2].Name != "eth0" || len(r.IPs) != 1 || !inSubnet(r.IPs[0].Address.IP, "10.244.0.0/16") || len(r.Routes) != 1 {
		t.Errorf("result %v: want the cluster network's alone", r)
	}
	site.PortOf(t, v, id, "net1")
	if !strings.Contains(annotations(s, "alone")["k8s.v1.cni.cncf.io/network-status"], "default/fast") {
		t.Error("network-status does not name default/fast")
	}
	s.MustCheck(id, p, "alone")
	s.MustDel(id, p, "alone")
	site.SameWorld(t, before, s.World(v))
}

// With "parallel" a pod of many networks gets the same result and the same
// network-status as without.
func TestParallel(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	var networks []string
	for n := range 5 {
		name := fmt.Sprintf("n%d", n)
		s.NAD(name, site.Vhost(v, s, map[string]any{"vlan": 10 + n, "mac": fmt.Sprintf("02:00:00:00:01:%02x", n), "ipam": map[string]any{
			"type": "static", "addresses": []any{map[string]any{"address": fmt.Sprintf("192.168.%d.2/24", 50+n)}},
		}}))
		networks = append(networks, name)
	}
	s.Pod("many", strings.Join(networks, ","))
	p := site.NewPod(t, "many")
	before := s.World(v)
	shape := func(parallel bool) string {
		s := s.With(map[string]any{"parallel": parallel})
		id := site.SandboxID(490)
		r := s.MustAdd(id, p, "many")
		status := annotations(s, "many")["k8s.v1.cni.cncf.io/network-status"]
		s.MustCheck(id, p, "many")
		s.MustDel(id, p, "many")
		site.SameWorld(t, before, s.World(v))
		// What differs by nature: the cluster network's address and MACs.
		for _, random := range []string{r.IPs[0].Address.IP.String(), r.Interfaces[0].Mac, r.Interfaces[1].Mac, r.Interfaces[2].Mac, r.Interfaces[1].Name} {
			status = strings.ReplaceAll(status, random, "?")
		}
		text := ""
		for _, i := range r.Interfaces[3:] {
			text += fmt.Sprintln(i.Name, i.Mac, i.SocketPath)
		}
		for _, ip := range r.IPs[1:] {
			text += fmt.Sprintln(ip.Address.String(), *ip.Interface)
		}
		return text + status + "\n"
	}
	one := shape(false)
	if !strings.Contains(one, "net5 02:00:00:00:01:04") || strings.Count(one, "\n") != 11 {
		t.Errorf("five networks give\n%s", one)
	}
	for range 3 {
		site.SameWorld(t, one, shape(true))
	}
}

// default-route on a network other than the cluster's moves the pod's default
// route to it, in the pod, in the result and in network-status.
func TestDefaultRoute(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	extra := site.ClusterBridge(filepath.Join(s.Dir, "ipam"))
	extra["name"], extra["bridge"], extra["isDefaultGateway"], extra["isGateway"] = "extra", "cni-r", false, true
	extra["ipam"].(map[string]any)["subnet"] = "10.247.0.0/16"
	s.NAD("extra", extra)
	s.Pod("plain", "extra")
	s.Pod("moved", `[{"name": "extra", "default-route": ["10.247.0.1"]}]`)
	p := site.NewPod(t, "moved")
	for n, pod := range []string{"plain", "moved"} {
		t.Run(pod, func(t *testing.T) {
			s := s.On(t)
			id := site.SandboxID(500 + n)
			r := s.MustAdd(id, p, pod)
			want, gone, dev := "10.244.0.1", "10.247.0.1", "eth0"
			if pod == "moved" {
				want, gone, dev = gone, want, "net1"
			}
			inside := site.Links(t, p)
			if !strings.Contains(inside, "route4 default via "+want+" dev "+dev) || strings.Count(inside, "route4 default") != 1 {
				t.Errorf("want one default route, via %s dev %s, in the pod:\n%s", want, dev, inside)
			}
			if len(r.Routes) != 1 || r.Routes[0].GW.String() != want {
				t.Errorf("routes of the result: %v, want the default one via %s", r.Routes, want)
			}
			var status []struct {
				Interface string
				Gateway   []string
			}
			must.Decode(t, []byte(annotations(s, pod)["k8s.v1.cni.cncf.io/network-status"]), &status)
			for _, each := range status {
				if each.Interface == dev && !slices.Equal(each.Gateway, []string{want}) || each.Interface == "net1" && pod == "plain" && len(each.Gateway) > 0 {
					t.Errorf("network-status: %v, want the gateway %s with %s", status, want, dev)
				}
			}
			s.MustCheck(id, p, pod)
			site.InPod(t, p, "ip route replace default via "+gone)
			if pod == "moved" {
				site.Says(t, s.Check(id, p, pod), "net1", "default route via 10.247.0.1 is gone")
			}
			s.MustDel(id, p, pod)
		})
	}
}

// A network that would lead back to plexus is refused before anything is changed.
func TestRecursionRefused(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	nested := map[string]any{}
	must.Decode(t, s.Conf, &nested)
	s.NAD("nested", nested)
	s.NAD("path", map[string]any{"cniVersion": "1.1.0", "type": "../bin/plexus"})
	p := site.NewPod(t, "nested")
	for network, parts := range map[string][]string{
		"nested": {"NetworkAttachmentDefinition default/nested", "plexus cannot be a delegate of itself"},
		"path":   {"NetworkAttachmentDefinition default/path", `"type"`, "no plugin name"},
	} {
		t.Run(network, func(t *testing.T) {
			s := s.On(t)
			s.Pod("nested", "fast, "+network)
			before, inside := s.World(v), site.Links(t, p)
			_, stderr, err := s.Call(site.Request{Verb: "ADD", Sandbox: site.SandboxID(510), Netns: p.Path(), Pod: "nested"})
			site.NoPanic(t, stderr)
			site.Says(t, err, parts...)
			site.HasCode(t, err, 7)
			site.SameWorld(t, before, s.World(v))
			site.SameWorld(t, inside, site.Links(t, p))
		})
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// codeNotReady is STATUS' answer when ADD could not be served (CNI
// specification 1.1.0, section 5).
const codeNotReady = 50

func (s *site) status() error {
	_, _, err := s.call(request{verb: "STATUS"})
	return err
}

// hostLocal is an ipam of the site.
func (s *site) hostLocal(subnet string) map[string]any {
	return map[string]any{"type": "host-local", "subnet": subnet, "dataDir": filepath.Join(s.dir, "ipam")}
}

// newStatusSite has a configuration that itself names a vhost-user network, on
// a switch of its own choice.
func newStatusSite(t *testing.T, v *ovs.Switch, ovsdb string, keys map[string]any) *site {
	t.Helper()
	s := newSite(t, nil)
	fast := vhost(v, s, keys)
	fast["ovsdb"], fast["name"] = ovsdb, "fast"
	return s.withConf(map[string]any{"delegates": []any{clusterBridge(filepath.Join(s.dir, "ipam")), fast}})
}

// STATUS says whether ADD could be served, and if not what is to be done.
func TestStatus(t *testing.T) {
	v := startOVS(t)
	must(t, newStatusSite(t, v, v.OVSDB(), nil).status())

	for _, test := range []struct {
		name string
		site func(t *testing.T) *site
		says []string
	}{
		{"OVSDB is not there", func(t *testing.T) *site {
			return newStatusSite(t, v, "unix:/run/nowhere/db.sock", nil)
		}, []string{"network fast is not ready", "OVSDB at unix:/run/nowhere/db.sock is unreachable", "is ovsdb-server running"}},
		{"DPDK is not initialised", func(t *testing.T) *site {
			dir := t.TempDir()
			db, err := ovs.StartDB(deadline(t), dir, nil)
			must(t, err)
			t.Cleanup(func() { must(t, db.Stop()) })
			return newStatusSite(t, v, db.OVSDB(), nil)
		}, []string{"network fast is not ready", "has not initialised DPDK", "other_config:dpdk-init=true"}},
		{"the bridge is of another datapath", func(t *testing.T) *site {
			db := fakeSwitch(t)
			vsctl(t, db, "add-br br-system -- set bridge br-system datapath_type=system")
			return newStatusSite(t, v, db.OVSDB(), map[string]any{"bridge": "br-system"})
		}, []string{"network fast is not ready", `"bridge"`, "br-system", `datapath_type "system"`, "netdev"}},
		{"the bridge is missing and not to be made", func(t *testing.T) *site {
			return newStatusSite(t, v, v.OVSDB(), map[string]any{"bridge": "br-none", "createBridge": nil})
		}, []string{"network fast is not ready", `"bridge"`, "has no bridge br-none", `"createBridge": true`}},
		{"the cluster network has not said that it is ready", func(t *testing.T) *site {
			return newStatusSite(t, v, v.OVSDB(), nil).withConf(map[string]any{"readinessindicatorfile": "/run/not-ready"})
		}, []string{"cluster network is not ready", "readinessindicatorfile /run/not-ready"}},
		{"a plugin is missing", func(t *testing.T) *site {
			s := newStatusSite(t, v, v.OVSDB(), nil)
			return s.withConf(map[string]any{"delegates": []any{map[string]any{"name": "none", "type": "nonesuch"}}})
		}, []string{"network none is not ready", `plugin "nonesuch"`, binDir(t)}},
		{"the cluster network is not defined", func(t *testing.T) *site {
			return newSite(t, map[string]any{"clusterNetwork": "nonesuch"})
		}, []string{`network "nonesuch"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.site(t).on(t).status()
			says(t, err, test.says...)
			if test.name != "a plugin is missing" { // that is the configuration's fault
				hasCode(t, err, codeNotReady)
			}
		})
	}
}

// fakeSwitch is a database that says of DPDK that it is initialised.
func fakeSwitch(t *testing.T) *ovs.Switch {
	t.Helper()
	db, err := ovs.StartDB(deadline(t), t.TempDir(), nil)
	must(t, err)
	t.Cleanup(func() { must(t, db.Stop()) })
	vsctl(t, db, "set Open_vSwitch . dpdk_initialized=true")
	return db
}

// STATUS is passed on to executables that know it, and their answer is given.
func TestStatusOfExecutables(t *testing.T) {
	s := newSite(t, nil)
	s.installRecorder()
	fail := filepath.Join(s.dir, "fail")
	s = s.withConf(map[string]any{"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "told", "type": recorder, "log": filepath.Join(s.dir, "log"), "fail": fail}}})
	must(t, s.status())
	writeFile(t, fail, "STATUS")
	says(t, s.status(), "network told is not ready", "told to fail")
	if got := recorded(t, filepath.Join(s.dir, "log")); len(got) != 2 || !strings.HasPrefix(got[0], "STATUS") {
		t.Errorf("the recorder got %q, want STATUS twice", got)
	}
}

// VERSION is answered by plexus alone; every other verb says what is missing.
func TestVersionWithoutPlexusd(t *testing.T) {
	s := newSite(t, map[string]any{"delegates": []any{clusterBridge("/nowhere")}})
	alone := filepath.Join(s.dir, "alone")
	must(t, os.Mkdir(alone, 0o755))
	data := readFile(t, filepath.Join(binDir(t), "plexus"))
	must(t, os.WriteFile(filepath.Join(alone, "plexus"), []byte(data), 0o755))
	relative, err := filepath.Rel(binDir(t), filepath.Join(alone, "plexus"))
	must(t, err)
	s.as, s.path = relative, alone

	out, _, err := s.call(request{verb: "VERSION"})
	must(t, err)
	var answer struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}
	decode(t, out, &answer)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		if !slices.Contains(answer.SupportedVersions, version) {
			t.Errorf("VERSION: %s: want %s among them", out, version)
		}
	}
	p := newPod(t, "alone")
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		_, _, err := s.call(request{verb: verb, sandbox: sandboxID(400), netns: p.Path()})
		says(t, err, "plexusd", "CNI_PATH", alone)
	}
	// What is found in CNI_PATH will do.
	s.path = alone + ":" + binDir(t)
	if err := s.del(sandboxID(400), p, ""); err != nil {
		t.Errorf("DEL with plexusd in CNI_PATH: %v", err)
	}
	// With it, VERSION is the same.
	s.as = "plexus"
	whole, _, err := s.call(request{verb: "VERSION"})
	must(t, err)
	if string(whole) != string(out) {
		t.Errorf("VERSION is %s, without plexusd %s", whole, out)
	}
}

// attachmentID is an element of cni.dev/valid-attachments.
type attachmentID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// gc asks for a garbage collection with the attachments that are valid.
func (s *site) gc(valid ...attachmentID) error {
	s.t.Helper()
	if valid == nil {
		valid = []attachmentID{}
	}
	_, stderr, err := s.call(request{verb: "GC", conf: changed(s.t, s.conf, map[string]any{"cni.dev/valid-attachments": valid})})
	noPanic(s.t, stderr)
	return err
}

// GC undoes the attachments of this configuration that are not valid any more,
// and nothing else.
func TestGC(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.installRecorder()
	log := filepath.Join(s.dir, "log")
	s.nad("told", map[string]any{"cniVersion": "1.1.0", "name": "told", "plugins": []any{vhost(v, s, map[string]any{"ipam": s.hostLocal("192.168.3.0/24")}), map[string]any{"type": recorder, "log": log}}})
	pods := map[string]*node.Pod{}
	for _, name := range []string{"stale", "valid", "theirs"} {
		pods[name] = newPod(t, name)
		s.pod(name, "fast, told")
	}
	stale, valid, theirs := sandboxID(410), sandboxID(411), sandboxID(412)
	s.mustAdd(sandboxID(413), pods["stale"], "stale") // for the folders that stay
	s.mustDel(sandboxID(413), pods["stale"], "stale")
	fresh := links(t, pods["stale"])
	other := s.withConf(map[string]any{"name": "another"})
	s.mustAdd(valid, pods["valid"], "valid")
	other.mustAdd(theirs, pods["theirs"], "theirs")
	before := noSizes(s.world(v))
	s.mustAdd(stale, pods["stale"], "stale")

	_, _, err := s.call(request{verb: "GC"})
	says(t, err, "cni.dev/valid-attachments", "missing")
	s.mustCheck(stale, pods["stale"], "stale")

	must(t, s.gc(attachmentID{valid, "eth0"}, attachmentID{stale, "eth0"}))
	s.mustCheck(stale, pods["stale"], "stale")

	must(t, os.Remove(log))
	must(t, s.gc(attachmentID{valid, "eth0"}, attachmentID{stale, "eth7"}))
	if got := recorded(t, log); len(got) != 2 || got[0] != "DEL net2" || !strings.HasPrefix(got[1], "GC ") {
		t.Errorf("the recorder got %q, want DEL net2, GC", got)
	}
	if got, want := toldValid(t, log), fmt.Sprint([]attachmentID{{valid, "net2"}, {theirs, "net2"}}); got != want {
		t.Errorf("the recorder was told that %v are valid, want %s", got, want)
	}
	sameWorld(t, without(before, log), without(noSizes(s.world(v)), log))
	sameWorld(t, fresh, links(t, pods["stale"]))
	s.mustCheck(valid, pods["valid"], "valid")
	other.mustCheck(theirs, pods["theirs"], "theirs")

	must(t, s.gc())
	if err := s.check(valid, pods["valid"], "valid"); err == nil {
		t.Error("CHECK succeeds on what GC has undone")
	}
	other.mustCheck(theirs, pods["theirs"], "theirs")
	must(t, other.gc())
}

// toldValid are the attachments that a recorder was told at GC are valid.
func toldValid(t testing.TB, log string) string {
	t.Helper()
	var told struct {
		Valid []attachmentID `json:"cni.dev/valid-attachments"`
	}
	for line := range strings.Lines(readFile(t, log)) {
		if text, ok := strings.CutPrefix(line, "GC  "); ok {
			must(t, json.Unmarshal([]byte(text), &told))
		}
	}
	slices.SortFunc(told.Valid, func(a, b attachmentID) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	return fmt.Sprint(told.Valid)
}

// GC removes what has plexus' mark and is in no journal any more, but nothing
// of another plexus' on the same node.
func TestGCSweepsOrphans(t *testing.T) {
	v := startOVS(t)
	s, other := vhostSite(t, v), newVhostSite(t, v)
	s.pod("orphan", "fast")
	other.pod("neighbour", "fast")
	p, q := newPod(t, "orphan"), newPod(t, "neighbour")
	orphan, neighbour := sandboxID(420), sandboxID(421)
	other.mustAdd(neighbour, q, "neighbour")
	theirs := other.world(v)
	before := s.world(v)
	s.mustAdd(orphan, p, "orphan")
	must(t, os.Remove(s.journalFile(orphan)))
	if rows := other.world(v); !strings.Contains(rows, "plexus-sandbox:"+orphan) {
		t.Fatal("the orphan has no rows")
	}
	must(t, p.Close())
	must(t, s.gc())
	after := s.world(v)
	if strings.Contains(after, "plexus-sandbox:"+orphan) {
		t.Errorf("the orphan's rows are left behind:\n%s", after)
	}
	other.mustCheck(neighbour, q, "neighbour")
	// DEL, should it still come, finds the rest.
	s.mustDel(orphan, nil, "orphan")
	s.becomesWorld(v, without(before, "netns orphan\n"))
	sameWorld(t, without(theirs, "netns orphan\n"), other.world(v))
	other.mustDel(neighbour, q, "neighbour")
}

// A journal file that cannot be read, or is lost, is no reason to take a
// running pod's addresses and ports away from it: the runtime says that it is
// valid. Executables are not told the contrary either.
func TestGCKeepsARunningPod(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.installRecorder()
	log, clusterLog := filepath.Join(s.dir, "log"), filepath.Join(s.dir, "log-cluster")
	cluster := clusterBridge(filepath.Join(s.dir, "ipam"))
	s = s.withConf(map[string]any{"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{cluster, map[string]any{"type": recorder, "log": clusterLog}}}}})
	s.nad("told", map[string]any{"cniVersion": "1.1.0", "name": "told", "plugins": []any{vhost(v, s, nil), map[string]any{"type": recorder, "log": log}}})
	s.pod("running", "fast, told")
	p := newPod(t, "running")
	for n, test := range []struct {
		name   string
		damage func(file string)
	}{
		{"damaged journal", func(file string) { writeFile(t, file, "nothing of plexus") }},
		{"lost journal", func(file string) { must(t, os.Remove(file)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := s.on(t)
			running := sandboxID(430 + n)
			s.mustAdd(running, p, "running")
			file := s.journalFile(running)
			good := readFile(t, file)
			test.damage(file)
			must(t, os.Remove(log))
			must(t, os.Remove(clusterLog))
			before, inside := s.world(v), links(t, p)
			if err := s.gc(attachmentID{running, "eth0"}); err != nil {
				says(t, err, file)
			}
			for file, ifName := range map[string]string{log: "net2", clusterLog: "eth0"} {
				if _, err := os.Stat(file); err != nil {
					continue // it was asked to collect nothing
				}
				if got, want := toldValid(t, file), fmt.Sprint([]attachmentID{{running, ifName}}); got != want {
					t.Errorf("the recorder was told that %v are valid, want %s", got, want)
				}
			}
			sameWorld(t, without(before, log), without(s.world(v), log)) // and log-cluster
			sameWorld(t, inside, links(t, p))
			must(t, os.WriteFile(file, []byte(good), 0o600))
			if err := s.check(running, p, "running"); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.mustDel(running, p, "running")
		})
	}
}

// A result is in the version that the configuration asks for, and says what
// that version can say.
func TestResultOfEveryVersion(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.pod("versions", "fast")
	p := newPod(t, "versions")
	for n, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			s := s.on(t).withConf(map[string]any{"cniVersion": version})
			id := sandboxID(440 + n)
			out, _, err := s.call(request{verb: "ADD", sandbox: id, netns: p.Path(), pod: "versions"})
			must(t, err)
			var r struct {
				CNIVersion string           `json:"cniVersion"`
				Interfaces []map[string]any `json:"interfaces"`
				IPs        []map[string]any `json:"ips"`
			}
			decode(t, out, &r)
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
			s.mustCheck(id, p, "versions")
			s.mustDel(id, p, "versions")
		})
	}
	unknown := s.withConf(map[string]any{"cniVersion": "9.9.9"})
	_, err := unknown.add(sandboxID(445), p, "versions")
	says(t, err, `"cniVersion"`, "9.9.9", "1.1.0")
}

// stdins are the configurations that a recorder got, by "VERB ifname".
func stdins(t testing.TB, file string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for line := range strings.Lines(readFile(t, file)) {
		words := strings.SplitN(line, " ", 3)
		config := map[string]any{}
		decode(t, []byte(words[2]), &config)
		all[words[0]+" "+words[1]] = config
	}
	return all
}

// What the pod and the runtime ask of a capability is repeated to CHECK and to
// DEL, to those plugins that declare it.
func TestCapabilityArgs(t *testing.T) {
	s := newSite(t, nil)
	s.installRecorder()
	log := filepath.Join(s.dir, "log")
	s = s.withConf(map[string]any{
		"capabilities": map[string]bool{"portMappings": true, "mac": true},
		"runtimeConfig": map[string]any{
			"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		},
		"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "plugins": []any{
			map[string]any{"type": recorder, "log": log, "capabilities": map[string]bool{"portMappings": true}},
		}}},
	})
	s.nad("asked", map[string]any{"cniVersion": "1.1.0", "name": "asked", "plugins": []any{
		map[string]any{"type": recorder, "log": log, "capabilities": map[string]bool{"mac": true, "ips": true}},
	}})
	s.pod("asking", `[{"name": "asked", "mac": "02:00:00:00:00:07", "ips": ["10.1.1.7/24"], "cni-args": {"colour": "red"}}]`)
	p := newPod(t, "asking")
	id := sandboxID(450)
	s.mustAdd(id, p, "asking")
	s.mustCheck(id, p, "asking")
	// DEL repeats what ADD was asked, whatever is asked now.
	s.pod("asking", "asked")
	s.withConf(map[string]any{"runtimeConfig": nil}).mustDel(id, p, "asking")
	got := stdins(t, log)
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		for ifName, want := range map[string]string{
			"eth0": `{"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]}`,
			"net1": `{"ips":["10.1.1.7/24"],"mac":"02:00:00:00:00:07"}`,
		} {
			if have := string(jsonOf(t, got[verb+" "+ifName]["runtimeConfig"])); have != want {
				t.Errorf("%s %s got runtimeConfig %s, want %s", verb, ifName, have, want)
			}
		}
		if have := string(jsonOf(t, got[verb+" net1"]["args"])); have != `{"cni":{"colour":"red"}}` {
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
	v := startOVS(t)
	for n, version := range []string{"0.3.1", "1.1.0"} {
		t.Run("executed, CNI "+version, func(t *testing.T) {
			s := vhostSite(t, v)
			plugins := filepath.Join(s.dir, "plugins")
			must(t, os.Mkdir(plugins, 0o755))
			s.path += ":" + plugins
			ip4 := ""
			if version == "0.3.1" {
				ip4 = `"version": "4",`
			}
			script := strings.NewReplacer("VERSION", version, "IP4", ip4).Replace(tinyIPAM)
			must(t, os.WriteFile(filepath.Join(plugins, "tiny"), []byte(script), 0o755))
			s.nad("executed", vhost(v, s, map[string]any{"cniVersion": version, "ipam": map[string]any{"type": "tiny"}}))
			s.pod("executed", "executed")
			p := newPod(t, "executed")
			id := sandboxID(460 + n)
			r := s.mustAdd(id, p, "executed")
			if len(r.IPs) != 2 || r.IPs[1].Address.String() != "10.77.0.7/24" || *r.IPs[1].Interface != 3 {
				t.Errorf("addresses %v, want 10.77.0.7/24 on interface 3 for the second", r.IPs)
			}
			s.mustCheck(id, p, "executed")
			s.mustDel(id, p, "executed")
			var want []string
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				if verb == "CHECK" && version == "0.3.1" {
					continue // that version has none
				}
				want = append(want, fmt.Sprintf("%s %s net1 %s\n", verb, id, p.Path()))
			}
			if got := readFile(t, filepath.Join(plugins, "ipam.log")); got != strings.Join(want, "") {
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
			s := vhostSite(t, v)
			if test.name == "host-local" {
				test.ipam["dataDir"] = filepath.Join(s.dir, "ipam")
			}
			s.nad("built", vhost(v, s, map[string]any{"ipam": test.ipam}))
			s.pod("built", "built")
			p := newPod(t, "built")
			r := s.mustAdd(sandboxID(465), p, "built")
			var got []string
			for _, ip := range r.IPs[1:] {
				got = append(got, ip.Address.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("addresses %q, want %q", got, test.want)
			}
			s.mustCheck(sandboxID(465), p, "built")
			s.mustDel(sandboxID(465), p, "built")
		})
	}
	t.Run("missing", func(t *testing.T) {
		s := vhostSite(t, v)
		s.nad("missing", vhost(v, s, map[string]any{"ipam": map[string]any{"type": "nonesuch"}}))
		s.pod("missing", "missing")
		p := newPod(t, "missing")
		before := s.world(v)
		_, err := s.add(sandboxID(466), p, "missing")
		says(t, err, "net1", "default/missing", "ipam nonesuch")
		sameWorld(t, before, s.world(v))
	})
	t.Run("exhausted", func(t *testing.T) {
		s := vhostSite(t, v)
		s.nad("small", vhost(v, s, map[string]any{"ipam": s.hostLocal("192.168.42.0/30")}))
		s.pod("first", "small")
		s.pod("second", "small")
		p, q := newPod(t, "first"), newPod(t, "second")
		s.mustAdd(sandboxID(467), p, "first")
		before := s.world(v)
		_, err := s.add(sandboxID(468), q, "second")
		says(t, err, "net1", "default/small", "ipam host-local", "range 192.168.42.1-192.168.42.2")
		sameWorld(t, before, s.world(v))
		s.mustDel(sandboxID(467), p, "first")
		s.mustAdd(sandboxID(468), q, "second") // the address is free again
		s.mustDel(sandboxID(468), q, "second")
	})
}

// DEL goes through a chain backwards. A plugin that fails stops none of the
// others, is reported, and is asked again by the next DEL, with what it needs.
func TestDelOfAChain(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s.installRecorder()
	log, fail := filepath.Join(s.dir, "log"), filepath.Join(s.dir, "fail")
	tell := func(place string) map[string]any {
		return map[string]any{"type": recorder, "log": log, "place": place, "fail": fail + place}
	}
	s.nad("chain", map[string]any{"cniVersion": "1.1.0", "name": "chain", "plugins": []any{
		tell("first"), vhost(v, s, map[string]any{"bridge": "br-chain", "ipam": s.hostLocal("192.168.43.0/24")}), tell("last"),
	}})
	s.pod("chain", "chain")
	p := newPod(t, "chain")
	id := sandboxID(470)
	s.mustAdd(id, p, "chain")
	s.mustDel(id, p, "chain")
	must(t, os.Remove(log))
	before, inside := s.world(v), links(t, p)

	s.mustAdd(id, p, "chain")
	writeFile(t, fail+"last", "DEL")
	must(t, os.Remove(log))
	_, stderr, err := s.call(request{verb: "DEL", sandbox: id, netns: p.Path(), pod: "chain"})
	noPanic(t, stderr)
	says(t, err, "net1", "default/chain", recorder, "told to fail")
	places := func() (all []string) {
		for line := range strings.Lines(readFile(t, log)) {
			var c struct {
				Place      string
				PrevResult types100.Result
			}
			words := strings.SplitN(line, " ", 3)
			decode(t, []byte(words[2]), &c)
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
	if rows := s.world(v); strings.Contains(rows, "br-chain") || strings.Contains(links(t, p), "eth0") {
		t.Errorf("the failing plugin kept others from being undone:\n%s", rows)
	}
	says(t, s.check(id, p, "chain"), "cut short", "DEL")

	must(t, os.Remove(fail+"last"))
	must(t, os.Remove(log))
	s.mustDel(id, p, "chain")
	if got := places(); !slices.Contains(got, "DEL last") {
		t.Errorf("the second DEL asked %q, want the one that failed among them", got)
	}
	must(t, os.Remove(log))
	sameWorld(t, before, s.world(v))
	sameWorld(t, inside, links(t, p))
	s.mustDel(id, p, "chain")
	if _, err := os.Stat(log); err == nil {
		t.Errorf("the third DEL asked %q, want none", places())
	}
}

// "result": "default-network" answers with the cluster network alone;
// everything else is as ever.
func TestResultDefaultNetwork(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	s = s.withConf(map[string]any{"result": "default-network"})
	s.pod("alone", "fast")
	p := newPod(t, "alone")
	id := sandboxID(480)
	before := s.world(v)
	r := s.mustAdd(id, p, "alone")
	if len(r.Interfaces) != 3 || r.Interfaces[2].Name != "eth0" || len(r.IPs) != 1 || !inSubnet(r.IPs[0].Address.IP, "10.244.0.0/16") || len(r.Routes) != 1 {
		t.Errorf("result %v: want the cluster network's alone", r)
	}
	portOf(t, v, id, "net1")
	if !strings.Contains(s.annotations("alone")["k8s.v1.cni.cncf.io/network-status"], "default/fast") {
		t.Error("network-status does not name default/fast")
	}
	s.mustCheck(id, p, "alone")
	s.mustDel(id, p, "alone")
	sameWorld(t, before, s.world(v))
}

// With "parallel" a pod of many networks gets the same result and the same
// network-status as without.
func TestParallel(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	var networks []string
	for n := range 5 {
		name := fmt.Sprintf("n%d", n)
		s.nad(name, vhost(v, s, map[string]any{"vlan": 10 + n, "mac": fmt.Sprintf("02:00:00:00:01:%02x", n), "ipam": map[string]any{
			"type": "static", "addresses": []any{map[string]any{"address": fmt.Sprintf("192.168.%d.2/24", 50+n)}},
		}}))
		networks = append(networks, name)
	}
	s.pod("many", strings.Join(networks, ","))
	p := newPod(t, "many")
	before := s.world(v)
	shape := func(parallel bool) string {
		s := s.withConf(map[string]any{"parallel": parallel})
		id := sandboxID(490)
		r := s.mustAdd(id, p, "many")
		status := s.annotations("many")["k8s.v1.cni.cncf.io/network-status"]
		s.mustCheck(id, p, "many")
		s.mustDel(id, p, "many")
		sameWorld(t, before, s.world(v))
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
		sameWorld(t, one, shape(true))
	}
}

// default-route on a network other than the cluster's moves the pod's default
// route to it, in the pod, in the result and in network-status.
func TestDefaultRoute(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	extra := clusterBridge(filepath.Join(s.dir, "ipam"))
	extra["name"], extra["bridge"], extra["isDefaultGateway"], extra["isGateway"] = "extra", "cni-r", false, true
	extra["ipam"].(map[string]any)["subnet"] = "10.247.0.0/16"
	s.nad("extra", extra)
	s.pod("plain", "extra")
	s.pod("moved", `[{"name": "extra", "default-route": ["10.247.0.1"]}]`)
	p := newPod(t, "moved")
	for n, pod := range []string{"plain", "moved"} {
		t.Run(pod, func(t *testing.T) {
			s := s.on(t)
			id := sandboxID(500 + n)
			r := s.mustAdd(id, p, pod)
			want, gone, dev := "10.244.0.1", "10.247.0.1", "eth0"
			if pod == "moved" {
				want, gone, dev = gone, want, "net1"
			}
			inside := links(t, p)
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
			decode(t, []byte(s.annotations(pod)["k8s.v1.cni.cncf.io/network-status"]), &status)
			for _, each := range status {
				if each.Interface == dev && !slices.Equal(each.Gateway, []string{want}) || each.Interface == "net1" && pod == "plain" && len(each.Gateway) > 0 {
					t.Errorf("network-status: %v, want the gateway %s with %s", status, want, dev)
				}
			}
			s.mustCheck(id, p, pod)
			inPod(t, p, "ip route replace default via "+gone)
			if pod == "moved" {
				says(t, s.check(id, p, pod), "net1", "default route via 10.247.0.1 is gone")
			}
			s.mustDel(id, p, pod)
		})
	}
}

// A network that would lead back to plexus is refused before anything is changed.
func TestRecursionRefused(t *testing.T) {
	v := startOVS(t)
	s := vhostSite(t, v)
	nested := map[string]any{}
	decode(t, s.conf, &nested)
	s.nad("nested", nested)
	s.nad("path", map[string]any{"cniVersion": "1.1.0", "type": "../bin/plexus"})
	p := newPod(t, "nested")
	for network, parts := range map[string][]string{
		"nested": {"NetworkAttachmentDefinition default/nested", "plexus cannot be a delegate of itself"},
		"path":   {"NetworkAttachmentDefinition default/path", `"type"`, "no plugin name"},
	} {
		t.Run(network, func(t *testing.T) {
			s := s.on(t)
			s.pod("nested", "fast, "+network)
			before, inside := s.world(v), links(t, p)
			_, stderr, err := s.call(request{verb: "ADD", sandbox: sandboxID(510), netns: p.Path(), pod: "nested"})
			noPanic(t, stderr)
			says(t, err, parts...)
			hasCode(t, err, 7)
			sameWorld(t, before, s.world(v))
			sameWorld(t, inside, links(t, p))
		})
	}
}

package hostile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.fd.io/govpp/adapter/socketclient"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// lie is a well-formed row or tag of plexus' own that is about somebody else's place.
type lie struct {
	sandbox, ifName, dir, file string
	state                      map[string]any
}

// lieOf makes one up.
func (h *hostTree) lieOf(r *rand.Rand) lie {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	random := fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	l := lie{
		sandbox: pick("kubelet", "..", ".", "../kubelet", "link", "elsewhere/volume", random[:24], random[:12], random, "empty", strings.Repeat("a", 24), h.dir),
		ifName:  pick("net1", "eth0", "..", "../x", "net1/../..", "containerd.sock", "x"),
		dir:     pick(h.dir, h.dir+"/kubelet", h.dir+"/link", h.dir+"/empty", h.dir+"/elsewhere/volume", h.dir+"/kubelet/..", "/", "..", "", "/proc/self/root"+h.dir+"/kubelet"),
		file:    pick("containerd.sock", "config.yaml", "passwd", "../passwd", "..", "", "x", "filelink"),
	}
	l.state = map[string]any{"dir": l.dir, "file": l.file, "gid": -1}
	for _, key := range []string{"own", "made"} {
		if r.IntN(2) == 0 {
			l.state[key] = true
		}
	}
	for key, values := range map[string][]any{
		"link": {h.dir + "/link", h.dir + "/kubelet/passwd", "../link"}, "config": {"configData-x.json", "../configData-x.json", h.dir + "/x.json"},
		"was": {1000, 0, -1}, "gid": {1000, 0, 65534}, "mode": {"client", "server"}, "socket": {h.dir + "/kubelet/containerd.sock"},
	} {
		if r.IntN(3) == 0 {
			l.state[key] = values[r.IntN(len(values))]
		}
	}
	return l
}

// An OVSDB that the node allows has rows with plexus' marks about the node's files. GC
// and DEL believe them about nothing but themselves.
func TestHostileRows(t *testing.T) {
	v := site.OVS(t)
	s, h, r := site.NewVhostSwept(t, v), newHostTree(t), hostileRandom(t)
	running, p := site.SandboxID(890), site.NewPod(t, "running")
	s.Pod("running", "fast")
	s.MustAdd(running, p, "running")
	port := site.PortOf(t, v, running, "net1")
	owner := site.Vsctl(t, v, "get Interface "+port+" external_ids:plexus-owner")
	owner = strings.Trim(owner, `"`)
	site.Vsctl(t, v, "add-br br-lies -- set Bridge br-lies datapath_type=netdev")
	tries, batch := triesOf(40, 2000), 20
	for made := 0; made < tries; made += batch {
		ops := []any{}
		var ids []any
		seen := map[string]bool{}
		var sandboxes []string
		for i := range batch {
			l := h.lieOf(r)
			sum := sha256.Sum256([]byte(owner + "\x00" + l.sandbox + "\x00" + l.ifName))
			name := "vhu" + hex.EncodeToString(sum[:6])
			if seen[name] {
				continue
			}
			seen[name] = true
			l.state["ovsdb"], l.state["bridge"], l.state["port"] = v.OVSDB(), "br-lies", name
			marks := []any{}
			for key, value := range map[string]string{"plexus-owner": owner, "plexus-format": "1", "plexus-sandbox": l.sandbox, "plexus-ifname": l.ifName,
				"plexus-socket": l.dir + "/" + l.file, "plexus-state": string(must.JSON(t, l.state))} {
				marks = append(marks, []any{key, value})
			}
			iface, row := fmt.Sprintf("i%d", i), fmt.Sprintf("p%d", i)
			ops = append(ops,
				map[string]any{"op": "insert", "table": "Interface", "uuid-name": iface, "row": map[string]any{"name": name, "external_ids": []any{"map", marks}}},
				map[string]any{"op": "insert", "table": "Port", "uuid-name": row, "row": map[string]any{"name": name, "interfaces": []any{"named-uuid", iface}}})
			ids = append(ids, []any{"named-uuid", row})
			sandboxes = append(sandboxes, l.sandbox)
		}
		ops = append(ops, map[string]any{"op": "mutate", "table": "Bridge", "where": []any{[]any{"name", "==", "br-lies"}},
			"mutations": []any{[]any{"ports", "insert", []any{"set", ids}}}})
		_, err := v.Transact(must.Deadline(t), ops...)
		must.Do(t, err)
		for _, sandbox := range sandboxes[:2] {
			if sandboxName.MatchString(sandbox) {
				_ = s.Del(sandbox, nil, "running") // of nobody
				_ = s.Del(sandbox, nil, "running")
			}
		}
		if err := s.GC(site.AttachmentID{ContainerID: running, IfName: "eth0"}); err != nil {
			t.Logf("GC: %.300v", err)
		}
		h.untouched(t, fmt.Sprintf("rows %d to %d", made, made+batch))
		s.MustCheck(running, p, "running")
		if left := site.Vsctl(t, v, "list-ports br-lies"); left != "" {
			t.Errorf("rows that GC does not remove: %q", left)
			site.Vsctl(t, v, "del-br br-lies -- add-br br-lies -- set Bridge br-lies datapath_type=netdev")
		}
	}
	must.Do(t, s.GC()) // nothing is valid: the running pod goes, too
	site.Vsctl(t, v, "--if-exists del-br br-lies")
	h.same(t)
	t.Logf("%d rows", tries)
}

var sandboxName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// A VPP that the node allows has interfaces with plexus' tags on the node's sockets.
func TestMemifHostileTags(t *testing.T) {
	api, state := site.VPP(t)
	s, h, r := site.NewMemif(t, api), newHostTree(t), hostileRandom(t)
	running, p := site.SandboxID(891), site.NewPod(t, "running")
	s.Pod("running", "blue")
	s.MustAdd(running, p, "running")
	owner := regexp.MustCompile(`plexus/[0-9a-f]{6}/`).FindString(state())
	if owner == "" {
		t.Fatalf("no tag of plexus in\n%s", state())
	}
	conn, err := core.Connect(socketclient.NewVppClient(api))
	must.Do(t, err)
	t.Cleanup(conn.Disconnect)
	tries, batch, made, refused := triesOf(40, 2000), 20, 0, 0
	for n := 0; n < tries; n += batch {
		for range batch {
			l := h.lieOf(r)
			tag := owner + l.sandbox + "/" + l.ifName
			place := filepath.Join(h.dir, "kubelet", "containerd.sock")
			if strings.HasPrefix(l.dir, "/") && l.file != "" {
				place = l.dir + "/" + l.file
			}
			if len(tag) > 63 || len(place) > 106 {
				refused++
				continue
			}
			// The vswitch is the client: it makes no socket.
			socket, err := memif.NewServiceClient(conn).MemifSocketFilenameAddDelV2(must.Deadline(t), &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: ^uint32(0), SocketFilename: place})
			if err != nil {
				refused++
				continue
			}
			m, err := memif.NewServiceClient(conn).MemifCreateV2(must.Deadline(t), &memif.MemifCreateV2{Role: memif.MEMIF_ROLE_API_SLAVE, SocketID: socket.SocketID})
			if err != nil {
				refused++
				continue
			}
			_, err = interfaces.NewServiceClient(conn).SwInterfaceTagAddDel(must.Deadline(t), &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: m.SwIfIndex, Tag: tag})
			must.Do(t, err)
			made++
			if sandboxName.MatchString(l.sandbox) && r.IntN(8) == 0 {
				_ = s.Del(l.sandbox, nil, "running")
				_ = s.Del(l.sandbox, nil, "running")
			}
		}
		h.told(t) // the vswitch itself may look at the places
		if err := s.GC(site.AttachmentID{ContainerID: running, IfName: "eth0"}); err != nil {
			t.Logf("GC: %.300v", err)
		}
		h.untouched(t, fmt.Sprintf("tags %d to %d", n, n+batch))
		s.MustCheck(running, p, "running")
	}
	must.Do(t, s.GC())
	h.same(t)
	t.Logf("%d tags, %d that VPP does not take", made, refused)
}

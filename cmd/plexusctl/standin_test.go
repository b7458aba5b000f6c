package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// standIn is a stand-in for the node agent: it has the agent's types and its
// errors, and says what it is told to.
type standIn struct {
	mu      sync.Mutex
	answers map[string]any // by "METHOD PATH" and by "METHOD PATH?QUERY"; a refusal is one too
	asked   []string
}

// refusal is an HTTP error as the agent writes it.
type refusal struct {
	status int
	text   string
}

// ServeHTTP is http.Handler.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Method + " " + r.URL.Path
	full := key
	if r.URL.RawQuery != "" {
		full += "?" + r.URL.RawQuery
	}
	s.asked = append(s.asked, full)
	answer, ok := s.answers[full]
	if !ok {
		answer, ok = s.answers[key]
	}
	switch a := answer.(type) {
	case refusal:
		http.Error(w, a.text, a.status)
	case string:
		_, _ = w.Write([]byte(a))
	default:
		if !ok {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// forget forgets what it was asked.
func (s *standIn) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = nil
}

// start serves at a socket below a folder that stands for a node's root.
func (s *standIn) start(t *testing.T, root string) {
	t.Helper()
	socket := filepath.Join(root, agent.DefaultSocket)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	ended := make(chan struct{})
	go func() { _ = server.Serve(l); close(ended) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
}

// shortDir is a folder whose name leaves place for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serving starts a stand-in and returns the flag that finds it.
func serving(t *testing.T, answers map[string]any) (*standIn, string) {
	t.Helper()
	root := shortDir(t)
	s := &standIn{answers: answers}
	s.start(t, root)
	return s, "--host=" + root
}

// execute runs a command and returns what it wrote and its exit status.
func execute(t *testing.T, name string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(context.Background(), name, args, &out, &errs)
	return out.String(), errs.String(), status
}

var began = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func list(plugins ...string) conf.List {
	l := conf.List{CNIVersion: "1.1.0", Name: "x"}
	for _, p := range plugins {
		l.Plugins = append(l.Plugins, json.RawMessage(p))
	}
	return l
}

func resultText(t *testing.T, i types100.Interface, ip string) json.RawMessage {
	t.Helper()
	r := &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: "cni0", Mac: "02:00:00:00:00:01"}, &i}}
	if ip != "" {
		_, n, err := net.ParseCIDR(ip)
		if err != nil {
			t.Fatal(err)
		}
		n.IP, _, _ = net.ParseCIDR(ip)
		r.IPs = []*types100.IPConfig{{Address: *n}}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

const (
	sandboxA = "a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6"
	sandboxB = "b1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6"
)

// left is a pod with a kernel interface, a vhost-user port and a function.
func left(t *testing.T) *journal.Record {
	return &journal.Record{Sandbox: sandboxA, Transactions: []*journal.Transaction{{
		Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Started: began, Netns: "/run/netns/left",
		Pod: &conf.Pod{Namespace: "default", Name: "left", UID: "u1"},
		Attachments: []*journal.Entry{
			{
				Network: conf.Network{Name: "cluster", IfName: "eth0", Default: true, List: list(`{"type": "bridge", "bridge": "cni0"}`, `{"type": "portmap"}`)},
				Result:  resultText(t, types100.Interface{Name: "eth0", Mac: "02:00:00:00:00:02", Sandbox: "/run/netns/left"}, "10.1.0.2/24"),
			},
			{
				Network: conf.Network{Name: "default/fast", IfName: "net1", List: list(`{"type": "ovsdpdk", "bridge": "br-fast", "vlan": 7, "mtu": 1500}`)},
				Result:  resultText(t, types100.Interface{Name: "net1", Sandbox: "/run/netns/left", SocketPath: "/run/left/net1"}, "192.168.7.2/24"),
			},
			{
				Network: conf.Network{Name: "default/vf", IfName: "net2", DeviceID: "0000:01:10.0", List: list(`{"type": "sriov"}`)},
				Phase:   journal.PhaseRemoving,
			},
		},
	}}}
}

// cut is a pod whose ADD was cut short before anything was attached.
func cut() *journal.Record {
	return &journal.Record{Sandbox: sandboxB, Transactions: []*journal.Transaction{{
		Network: "node", IfName: "eth0", Phase: journal.PhaseAdding, Started: began.Add(time.Hour), Pod: &conf.Pod{Namespace: "prod", Name: "cut"},
	}}}
}

func events() []agent.Event {
	return []agent.Event{
		{Time: began.Add(3 * time.Second), Verb: "DEL", Sandbox: sandboxA, Pod: "default/left", Steps: []agent.Step{}},
		{Time: began.Add(2 * time.Second), Verb: "ADD", Sandbox: sandboxB, Pod: "prod/cut", Took: 12.345, Error: "add net1: no port\nundo: also bad", Left: 3, Steps: []agent.Step{
			{At: 0.1, What: "journal: write sandbox b"}, {At: 1.5, What: "net1: insert port"}, {At: 11, What: "net1: delete port", Undoes: true},
		}},
		{Time: began, Verb: "STATUS", Took: 0.4, Steps: []agent.Step{}},
	}
}

// explanation is of a pod whose annotation has changed since it was wired.
func explanation(t *testing.T) agent.Explanation {
	rec := left(t)
	rec.Transactions[0].Attachments[2].Phase = ""
	return agent.Explanation{
		Node: "n1", Pod: "default/left", Annotation: `[{"name": "fast", "mac": "02:00:00:00:00:99"}, {"name": "shm"}]` + "\n", Warnings: []string{"network default/fast: key \"x\" is not known"},
		Plan: []conf.Network{
			{Name: "cluster", IfName: "eth0", Default: true, List: list(`{"type": "bridge", "bridge": "cni0"}`, `{"type": "portmap"}`)},
			{
				Name: "default/fast", IfName: "net1", CapabilityArgs: map[string]any{"mac": "02:00:00:00:00:99", "ips": []string{"192.168.7.9/24"}},
				List: list(`{"type": "ovsdpdk", "bridge": "br-fast", "vlan": 8, "mtu": 1500}`),
			},
			{Name: "default/shm", IfName: "net3", List: list(`{"type": "vppmemif"}`)},
		},
		Unpublished: "the API server https://api:6443 does not answer as it should",
		Journal:     []*journal.Record{rec},
		Datapath: []engine.Datapath{
			{IfName: "eth0", Network: "cluster", Facts: map[string]map[string]string{"link": {"name": "eth0", "kind": "veth", "mac": "02:00:00:00:00:03", "mtu": "1500", "state": "up", "rx packets": "7"}}},
			{IfName: "net1", Network: "default/fast", Differences: "vlan 9, want 7\nvlan 9, want 7\nport is down", Facts: map[string]map[string]string{"ovsdpdk": {"bridge": "br-fast", "vlan": "9", "mtu": "0", "link_state": "down", "socket": "/run/left/net1", "rx_packets": "1"}}},
			{IfName: "net2", Network: "default/vf"},
		},
		History: events()[:2],
	}
}

func answers(t *testing.T) map[string]any {
	return map[string]any{
		"GET /healthz":                           "ok\n",
		"GET /readyz":                            "ok\n",
		"GET /v1/node":                           agent.NodeInfo{Node: "n1", Version: "v1.2.3", Protocol: 1, Ready: true, Sandboxes: 2, Attachments: 3, Unfinished: 1, Unpublished: 2},
		"GET /v1/attachments":                    agent.Attachments{Node: "n1", Sandboxes: []*journal.Record{cut(), left(t)}, Damaged: []string{"journal file /x is not usable: it is empty"}},
		"GET /v1/history":                        events(),
		"GET /v1/explain?pod=default%2Fleft":     explanation(t),
		"GET /v1/explain":                        agent.Explanation{Node: "n1", Pod: "prod/none", Error: "nothing is recorded of this pod on node n1"},
		"POST /v1/check":                         []agent.Checked{{Sandbox: sandboxA, Pod: "default/left", Error: "check net1: vlan 9, want 7\ncheck net2: gone"}, {Sandbox: sandboxB, Pod: "prod/cut"}},
		"POST /v1/check?about=prod%2Fcut":        []agent.Checked{{Sandbox: sandboxB, Pod: "prod/cut"}},
		"POST /v1/check?about=b1b2":              []agent.Checked{{Sandbox: sandboxB, Pod: "prod/cut"}},
		"POST /v1/check?about=default%2Fb1b2":    []agent.Checked{},
		"POST /v1/check?about=other%2Fb1b2":      []agent.Checked{},
		"POST /v1/check?about=default%2Fnobody":  []agent.Checked{},
		"POST /v1/check?about=nobody":            []agent.Checked{},
		"GET /v1/history?about=default%2Fnobody": []agent.Event{},
		"GET /v1/history?about=nobody":           []agent.Event{},
		"POST /v1/resync": []engine.Finding{
			{Sandbox: sandboxA, Pod: &conf.Pod{Namespace: "default", Name: "left"}, IfName: "net1", Network: "default/fast", Kind: engine.KindMissing, What: "made again: port"},
			{Sandbox: sandboxB, Kind: engine.KindGone, What: "the network namespace /run/netns/cut is gone"},
		},
		"POST /v1/reclaim?force=true&sandbox=a1":                        agent.Reclaimed{Sandbox: sandboxA, Pod: "default/left"},
		"POST /v1/reclaim?abandon=net1&abandon=default%2Fvf&sandbox=a1": agent.Reclaimed{Sandbox: sandboxA, Pod: "default/left", Abandoned: []string{"net1 (network default/fast): abandoned by an operator; left may be link net1: tuning: no", "net2"}},
		"POST /v1/reclaim?sandbox=a1":                                   refusal{http.StatusConflict, "sandbox a1 is alive: force does it"},
	}
}

// with are answers of which some are others.
func with(t *testing.T, others map[string]any) map[string]any {
	all := answers(t)
	maps.Copy(all, others)
	return all
}

func (s *standIn) was(question string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.asked, func(q string) bool { return strings.HasPrefix(q, question) })
}

package engine

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/toy"
)

// Vswitches of the node: two of the backend toy, one of the backend other.
const switchA, switchB, switchC = "/run/toy/a", "/run/toy/b", "/run/toy/c"

// networksOfPod are the networks that cluster has, by name. They mix what is built in with
// plugins that are executed, and every kind of ipam.
func networksOfPod(dir string) map[string]string {
	list := func(name string, plugins ...string) string {
		return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [%s]}`, name, strings.Join(plugins, ", "))
	}
	noGC := func(list string) string { return strings.Replace(list, "{", `{"disableGC": true, `, 1) }
	return map[string]string{
		"probed":   noGC(list("probed", `{"type": "toy", "endpoint": "/run/toy/a", "ipam": {"type": "host-local", "dataDir": "`+dir+`/ipam", "subnet": "10.9.0.0/24"}}`, `{"type": "probe"}`)),
		"hosted":   list("hosted", `{"type": "toy", "endpoint": "/run/toy/a", "ipam": {"type": "host-local", "dataDir": "`+dir+`/ipam", "subnet": "10.9.1.0/24"}}`),
		"static":   list("static", `{"type": "toy", "endpoint": "/run/toy/a", "describe": true, "ipam": {"type": "static", "addresses": [{"address": "10.8.0.7/24"}]}}`),
		"script":   noGC(list("script", `{"type": "toy", "endpoint": "/run/toy/b", "ipam": {"type": "addresses"}}`)),
		"late":     noGC(list("late", `{"type": "toy", "endpoint": "/run/toy/b", "interfaceFirst": true, "ipam": {"type": "addresses"}}`)),
		"bare":     list("bare", `{"type": "toy", "endpoint": "/run/toy/a"}`),
		"other":    list("other", `{"type": "other", "endpoint": "/run/toy/c"}`),
		"between":  list("between", `{"type": "first"}`, `{"type": "toy", "endpoint": "/run/toy/a"}`, `{"type": "last"}`),
		"pair":     list("pair", `{"type": "toy", "endpoint": "/run/toy/b"}`, `{"type": "other", "endpoint": "/run/toy/c"}`),
		"executed": list("executed", `{"type": "first"}`, `{"type": "last"}`),
		"foreign":  list("foreign", `{"type": "toy", "endpoint": "/run/elsewhere"}`),
		"old":      list("old", `{"type": "toy", "old": 1}`),
		"missing":  list("missing", `{"type": "nowhere"}`),
		"ipamless": list("ipamless", `{"type": "first", "ipam": {"type": "nowhere"}}`),
		"second":   list("second", `{"type": "first"}`, `{"type": "last", "ipam": {"type": "host-local"}}`),
		"lacking":  list("lacking", `{"type": "toy", "endpoint": "/run/toy/a", "ipam": {"type": "nowhere"}}`),
		"own":      list("own", `{"type": "azure-vnet", "ipam": {"type": "azure-cns"}}`),
	}
}

// node is what outlives an engine: the data folder, plugins, vswitches, and the cluster
// with one pod.
type node struct {
	*Engine // the one that works
	t       testing.TB
	dir     string
	world   *toy.World
	other   *toy.World
	toys    *toy.Backend
	api     *cluster
	conf    *conf.Conf
	text    string // of conf
}

func newNode(t testing.TB) *node {
	n := &node{t: t, dir: t.TempDir()}
	for _, folder := range []string{"bin/made", "ports", "ipam"} {
		if err := os.MkdirAll(filepath.Join(n.dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("testdata/plugin.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cluster", "probe", "addresses", "first", "last", "azure-vnet"} {
		if err := os.Symlink(script, filepath.Join(n.dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	n.world = toy.NewWorld(filepath.Join(n.dir, "ports"), switchA, switchB)
	n.other = toy.NewWorld(filepath.Join(n.dir, "ports"), switchC)
	n.api = newCluster(networksOfPod(n.dir))
	n.configure("")
	n.start()
	return n
}

// configure gives the configuration more keys: `"parallel": true, `.
func (n *node) configure(keys string) { n.configureCluster("cluster", keys) }

// configureCluster is configure with a plugin of the cluster network.
func (n *node) configureCluster(plugin, keys string) {
	n.text = fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "node", "type": "plexus", %s"dataDir": %q, "binDir": "%s/bin", "ipamDirs": ["%s/ipam"],
		"endpoints": [%q, %q, %q], "delegates": [{"cniVersion": "1.1.0", "name": "cluster", "type": %q}]}`, keys, n.dir, n.dir, n.dir, switchA, switchB, switchC, plugin)
	c, err := conf.Parse([]byte(n.text))
	if err != nil {
		n.t.Fatal(err)
	}
	n.conf = c
}

// start makes a new engine on what there is, as a process that starts.
func (n *node) start() {
	n.toys = toy.New(n.world)
	other := toy.New(n.other)
	n.Engine = &Engine{
		Delegates: map[string]delegates.Delegate{"toy": n.toys, "other": other, "passthru": passthru{}},
		Source:    n.api, Journal: openJournal(n.dir), Bounds: n.conf.Bounds, Log: slog.New(slog.DiscardHandler),
	}
}

// request is one of the pod, whose networks it sets: "probed,bare@net7".
func (n *node) request(networks string) *Request {
	n.api.ask(networks)
	return &Request{
		Conf: n.conf, Network: "node", Stdin: []byte(n.text), Sandbox: sandboxOfPod, Netns: "/proc/self/ns/net", IfName: "eth0",
		Args: conf.Args{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "pod"}},
	}
}

// sandboxOfPod is longer than what a mark holds.
const sandboxOfPod = "0123456789abcdef0123456789abcdef"

func (n *node) mustAdd(networks string) *Request {
	n.t.Helper()
	r := n.request(networks)
	if _, err := n.Add(n.t.Context(), r); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// log are the lines of the executed plugins, without the container ID.
func (n *node) log() []string {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, "bin", "log"))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(strings.ReplaceAll(string(data), " "+sandboxOfPod, ""), sandboxOfPod[:24]+"-", "")), "\n")
}

// failPlugin has a verb of an executed plugin fail, or not any more.
func (n *node) failPlugin(verb, name string, fails bool) {
	n.t.Helper()
	file := filepath.Join(n.dir, "bin", "fail-"+verb+"-"+name)
	var err error
	if fails {
		err = os.WriteFile(file, nil, 0o600)
	} else {
		err = os.Remove(file)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// left is all that a pod has on the node and in the cluster.
func (n *node) left() []string {
	n.t.Helper()
	all := slices.Concat(n.world.Ports(), n.other.Ports())
	for _, folder := range []string{"ports", "bin/made", "ipam", "results", "sandboxes", "damaged"} {
		root := filepath.Join(n.dir, folder)
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) && path == root {
				return nil
			}
			name := filepath.Base(path)
			if err == nil && !entry.IsDir() && name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") {
				all = append(all, folder+"/"+name)
			}
			return err
		})
		if err != nil {
			n.t.Fatal(err)
		}
	}
	for place := range n.api.published() {
		all = append(all, "status at "+place)
	}
	return all
}

func (n *node) wantNothingLeft(when string) {
	n.t.Helper()
	if left := n.left(); len(left) > 0 {
		n.t.Errorf("%s, this is left: %q", when, left)
	}
}

// says wants parts in an error.
func says(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v: want %q in it", err, part)
		}
	}
}

// steps watches the steps of requests. It has one of them fail, or stops the process there.
type steps struct {
	mu    sync.Mutex
	seen  []string
	at    int    // the step to fail, -1 for none
	stop  func() // ends the process at that step instead; nil to fail
	ended bool
}

// watch counts the steps of what is done with the context that it returns.
func (s *steps) watch(ctx context.Context) context.Context {
	return delegates.WithSteps(ctx, func(step string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seen = append(s.seen, step)
		if s.stop != nil && (s.ended || len(s.seen)-1 == s.at) {
			s.ended = true
			s.stop()
			runtime.Goexit()
		}
		if len(s.seen)-1 == s.at {
			return fmt.Errorf("told to fail at %q", step)
		}
		return nil
	})
}

// do does a request. It returns errStopped when the process was stopped.
func (s *steps) do(ctx context.Context, request func(context.Context) error) error {
	err := error(errStopped{})
	end := make(chan struct{})
	go func() {
		defer close(end)
		err = request(s.watch(ctx))
	}()
	<-end
	if s.ended {
		return errStopped{}
	}
	return err
}

type errStopped struct{}

func (errStopped) Error() string { return "the process was stopped" }

func openAppend(file string) (*os.File, error) { return os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0) }

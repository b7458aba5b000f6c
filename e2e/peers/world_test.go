package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plexus-cni/plexus/rig/node"
)

// world is a node with the pod and the networks of one case.
type world struct {
	t    testing.TB
	of   *peerCase
	dir  string
	api  *apiServer
	pod  *node.Pod
	conf []byte
}

// program answers one CNI request as an executable does, given the environment and
// standard input. message is that of the error, "" for success.
type program func(env []string, stdin []byte) (stdout []byte, message string)

// newWorld makes the world of a case. adapt changes the node's configuration for a program.
func newWorld(t testing.TB, c *peerCase, adapt func(keys map[string]any)) *world {
	t.Helper()
	dir, err := os.MkdirTemp(node.Dir(), "case")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, of: c, dir: dir}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if w.api, err = newAPIServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.api.server.Close)
	if w.pod, err = node.NewPod(c.sandbox()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.pod.Close() })

	w.write("kubeconfig", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],
		"clusters": [{"name": "c", "cluster": {"server": %q}}]}`, w.api.server.URL))
	w.write("net.d/.keep", "")
	for name, content := range c.Files {
		w.write(name, w.expand(textOf(content)))
	}
	w.fillAPI()
	w.writeProbes()
	w.conf = w.config(adapt)
	return w
}

// sandbox is the container ID of the case, the same in each run.
func (c *peerCase) sandbox() string {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(c.Name))
	return fmt.Sprintf("%016x", sum.Sum64())
}

func (c *peerCase) podUID() string { return "u-" + c.sandbox() }

func (c *peerCase) podName() (namespace, name string) {
	namespace, name = "shop", "app"
	if c.Pod != nil && c.Pod.Namespace != "" {
		namespace = c.Pod.Namespace
	}
	if c.Pod != nil && c.Pod.Name != "" {
		name = c.Pod.Name
	}
	return namespace, name
}

func (w *world) write(name, text string) {
	w.t.Helper()
	file := filepath.Join(w.dir, name)
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) expand(text string) string { return strings.ReplaceAll(text, "$DIR", w.dir) }

// fillAPI gives the API server the pod and the NADs.
func (w *world) fillAPI() {
	namespace, name := w.of.podName()
	for _, n := range w.of.NADs {
		ns := n.Namespace
		if ns == "" {
			ns = namespace
		}
		config := ""
		if n.Config != nil {
			config = textOf(n.Config)
		}
		w.api.addNAD(ns, n.Name, n.Annotations, w.expand(config))
	}
	if w.of.Pod == nil {
		return
	}
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(w.of.podUID()), ResourceVersion: "1", Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
	}
	for key, value := range w.of.Pod.Annotations {
		p.Annotations[key] = w.expand(textOf(value))
	}
	w.api.pod = p
}

// noProbes are types for which there is no executable.
var noProbes = []string{"plexus", "multus", "multus-shim", "missing"}

// writeProbes makes a probe for each plugin type that a text of the case names.
func (w *world) writeProbes() {
	self, err := os.Executable()
	if err == nil {
		err = os.MkdirAll(filepath.Join(w.dir, probeBin), 0o755)
	}
	texts := []any{w.of.Node}
	for _, f := range w.of.Files {
		texts = append(texts, f)
	}
	for _, n := range w.of.NADs {
		texts = append(texts, n.Config)
	}
	named := map[string]bool{"calico": true, passthru: true}
	for _, text := range texts {
		for _, part := range strings.Split(strings.ReplaceAll(textOf(text), " ", ""), `"type":"`)[1:] {
			typ, _, _ := strings.Cut(part, `"`)
			named[typ] = true
		}
	}
	for typ := range named {
		if err == nil && typ != "" && !strings.Contains(typ, "/") && !slices.Contains(noProbes, typ) {
			err = os.Symlink(self, filepath.Join(w.dir, probeBin, typ))
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// config is the node's configuration: the case's, and what every case needs. A key that the
// case sets to null is left out.
func (w *world) config(adapt func(map[string]any)) []byte {
	keys := map[string]any{
		"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus",
		"kubeconfig": "$DIR/kubeconfig", "confDir": "$DIR/net.d", "cniDir": "$DIR/cni",
	}
	if _, named := w.of.Node["clusterNetwork"]; !named {
		keys["delegates"] = []any{map[string]any{"cniVersion": "1.0.0", "name": "cluster", "type": "calico"}}
	}
	adapt(keys)
	for key, value := range w.of.Node {
		if keys[key] = value; value == nil {
			delete(keys, key)
		}
	}
	data, err := json.Marshal(keys)
	if err != nil {
		w.t.Fatal(err)
	}
	return []byte(w.expand(string(data)))
}

// run has a program do the verbs of the case.
func (w *world) run(do program) *recording {
	w.t.Helper()
	r := &recording{}
	verbs := w.of.Request.Verbs
	if len(verbs) == 0 {
		verbs = []string{"ADD", "DEL"}
	}
	var prev []byte
	for _, verb := range verbs {
		stdin := w.conf
		if verb == "CHECK" || verb == "DEL" {
			stdin = w.withPrevResult(prev)
		}
		out, message := do(w.environ(verb), stdin)
		s := step{Verb: verb, message: message, Calls: w.calls()}
		if message != "" {
			s.Error = "error"
		} else if verb == "ADD" {
			prev = out
			if err := json.Unmarshal(out, &s.Answer); err != nil {
				w.t.Fatalf("%s: answer %q: %v", verb, out, err)
			}
			s.Answer = w.normal(s.Answer)
			s.Routes = w.routes()
			if text := w.api.status(); text != "" {
				if err := json.Unmarshal([]byte(text), &r.Status); err != nil {
					w.t.Fatalf("network-status %q: %v", text, err)
				}
				r.Status = w.normal(r.Status)
			}
		}
		r.Steps = append(r.Steps, s)
	}
	return r
}

// withPrevResult is the node's configuration as a runtime gives it after ADD: with the
// result, in the version of the configuration (libcni).
func (w *world) withPrevResult(result []byte) []byte {
	if result == nil {
		return w.conf
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(w.conf, &keys); err != nil {
		w.t.Fatal(err)
	}
	var version string
	parsed, err := create.CreateFromBytes(result)
	if err == nil {
		err = json.Unmarshal(keys["cniVersion"], &version)
	}
	if err == nil {
		parsed, err = parsed.GetAsVersion(version)
	}
	if err == nil {
		keys["prevResult"], err = json.Marshal(parsed)
	}
	if err != nil {
		w.t.Fatalf("the answer %s as prevResult: %v", result, err)
	}
	data, err := json.Marshal(keys)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// environ is the environment of a request.
func (w *world) environ(verb string) []string {
	namespace, name := w.of.podName()
	uid := w.of.podUID()
	if w.of.Pod != nil && w.of.Pod.UID != "" {
		uid = w.of.Pod.UID
	}
	args := fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s", namespace, name, w.of.sandbox(), uid)
	if w.of.Request.Args != "" {
		args += ";" + w.of.Request.Args
	}
	ifName := w.of.Request.IfName
	if ifName == "" {
		ifName = "eth0"
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "CNI_PATH=" + filepath.Join(w.dir, probeBin), "CNI_COMMAND=" + verb}
	if verb == "STATUS" || verb == "GC" {
		return env
	}
	return append(env, "CNI_CONTAINERID="+w.of.sandbox(), "CNI_NETNS="+w.pod.Path(), "CNI_IFNAME="+ifName, "CNI_ARGS="+args)
}

// calls are those that the probes have noted since the last time.
func (w *world) calls() []call {
	w.t.Helper()
	file := filepath.Join(w.dir, callsFile)
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	var all []call
	for line := range bytes.Lines(data) {
		var c call
		if err := json.Unmarshal(line, &c); err != nil {
			w.t.Fatal(err)
		}
		for key, value := range c.Args {
			c.Args[key] = w.normal(value).(string)
		}
		c.Config = w.normal(c.Config)
		all = append(all, c)
	}
	return all
}

// normal is a JSON value with the paths and names of this run replaced.
func (w *world) normal(v any) any {
	switch v := v.(type) {
	case string:
		for _, r := range [][2]string{{w.pod.Path(), "$NETNS"}, {w.dir, "$DIR"}, {w.of.podUID(), "$UID"}, {w.of.sandbox(), "$ID"}} {
			v = strings.ReplaceAll(v, r[0], r[1])
		}
		return v
	case []any:
		for i := range v {
			v[i] = w.normal(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = w.normal(v[key])
		}
	}
	return v
}

// routes are the default routes of the pod.
func (w *world) routes() (all []string) {
	w.t.Helper()
	err := w.pod.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.Equal(net.IPv4zero) && !r.Dst.IP.Equal(net.IPv6zero) || r.Gw == nil {
				continue
			}
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return err
			}
			all = append(all, fmt.Sprintf("default via %s dev %s", r.Gw, link.Attrs().Name))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// writeCheckpoint writes the kubelet's checkpoint with the devices of all pods, without its
// checksum, which a reader then cannot compare.
func writeCheckpoint(t testing.TB, cases map[string][]*peerCase) {
	t.Helper()
	entries := []any{}
	for _, list := range cases {
		for _, c := range list {
			for resource, ids := range c.Devices {
				entries = append(entries, map[string]any{"PodUID": c.podUID(), "ContainerName": "main", "ResourceName": resource, "DeviceIDs": map[string]any{"0": ids}, "AllocResp": nil})
			}
		}
	}
	text := textOf(map[string]any{"Data": map[string]any{"PodDeviceEntries": entries, "RegisteredDevices": map[string]any{}}})
	dir := "/var/lib/kubelet/device-plugins"
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "kubelet_internal_checkpoint"), []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/rig/vpp"
)

// benchPairs is how often each figure is taken. One ADD differs from the next by as much
// as plexus costs: the medians of 150 differ by 0.5 ms from run to run.
const benchPairs = 300

// benchLife, and then benchRest, is how long a pod has its networks: the kernel takes longer to remove an
// interface that is a while old.
const benchLife = 30 * time.Millisecond

// benchRest is before everything that is timed: what was done before, a patch above all,
// has the control plane at work for a while, on the same processors.
const benchRest = 20 * time.Millisecond

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// span is where the median of what was measured is, with a probability of 95 %: by its order
// alone, whatever the distribution (a binomial one of who is below the median).
func span(all []time.Duration) string {
	slices.Sort(all)
	half, d := len(all)/2, int(math.Sqrt(float64(len(all))))
	return fmt.Sprintf("%.2f ms (%.2f to %.2f)", ms(all[half]), ms(all[half-d]), ms(all[half+d]))
}

// idlePod is a pod that the API server has on this node and the kubelet does not
// run: its node selector fits none.
func (n *testNode) idlePod(b testing.TB, name, asked string) *corev1.Pod {
	b.Helper()
	p := n.podCalled(name, asked)
	p.Spec.NodeSelector = map[string]string{"no": "where"}
	return n.create(b, p)
}

func (n *testNode) podCalled(name, asked string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}, Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": asked}},
		Spec: corev1.PodSpec{NodeName: "plexus-node",
			Volumes:    []corev1.Volume{{Name: "shared-dir", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(n.Dir, "shared-"+name)}}}},
			Containers: []corev1.Container{{Name: "app", Image: "none", VolumeMounts: []corev1.VolumeMount{{Name: "shared-dir", MountPath: "/shared"}}}}},
	}
}

func (n *testNode) create(b testing.TB, p *corev1.Pod) *corev1.Pod {
	b.Helper()
	p, err := n.client.CoreV1().Pods("default").Create(b.Context(), p, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// execute runs a plugin as the runtime does.
func (n *testNode) execute(b testing.TB, plugin, verb, netns string, pod *corev1.Pod, config []byte) time.Duration {
	b.Helper()
	cmd := exec.Command("/opt/cni/bin/" + plugin)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=bench-" + filepath.Base(netns), "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "PATH=" + os.Getenv("PATH"),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + pod.Namespace + ";K8S_POD_NAME=" + pod.Name + ";K8S_POD_UID=" + string(pod.UID)}
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(config), &out, &out
	time.Sleep(benchRest)
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		b.Fatalf("%s %s: %v: %s", plugin, verb, err, out.String())
	}
	return took
}

func namespace(b testing.TB, name string) string {
	b.Helper()
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	return "/run/netns/" + name
}

// BenchmarkPod is ADD and DEL of one pod with n networks, the cluster network
// and memifs, as the runtime sees it: plexus executed, the agent warm. Beside it,
// in the same run and after the same rest: the cluster network's plugin executed alone,
// the messages of n-1 memifs alone. What remains is plexus' own; an empty program of Go
// tells how much of that is the start and end of a process here. The pod's status is
// published when the runtime has its answer.
func BenchmarkPod(b *testing.B) {
	n := theNode
	n.apply(b, networks)
	conf, err := os.ReadFile(filepath.Join(confDir, "00-plexus.conf"))
	if err != nil {
		b.Fatal(err)
	}
	direct := []byte(`{"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": {"type": "host-local", "subnet": "10.244.0.0/16"}}`)
	n.apply(b, plainMemif)
	resident, home := n.idlePod(b, "bench-resident", "plain"), namespace(b, "resident") // the bridge domain is there
	n.execute(b, "plexus", "ADD", home, resident, conf)
	netns := namespace(b, "bench")
	bare, err := vpp.NewBare(b.Context(), filepath.Join(vppDir, "api.sock"), "/run/bare.sock")
	if err != nil {
		b.Fatal(err)
	}
	empty := filepath.Join(n.Bin, "empty")
	var starts, versions []time.Duration
	for range 100 {
		starts = append(starts, started(b, empty))
		versions = append(versions, started(b, "/opt/cni/bin/plexus"))
	}
	fmt.Printf("\nstart of an empty static Go program %.2f ms, of plexus (VERSION) %.2f ms: %.2fx\n", ms(median(starts)), ms(median(versions)), float64(median(versions))/float64(median(starts)))
	fmt.Printf("\none pod, n networks: the cluster network (bridge) and n-1 memifs; medians of %d, in brackets where the median is with 95 %%\n  %2s %10s %10s %21s %12s %23s %24s\n", benchPairs,
		"n", "ADD", "DEL", "bridge alone", "memifs alone", "own, of ADD", "each further")
	counts := []int{1, 2, 4, 8}
	pods := map[int]*corev1.Pod{}
	for _, count := range counts {
		asked := "[]"
		if count > 1 {
			asked = strings.TrimSuffix(strings.Repeat("plain,", count-1), ",")
		}
		pods[count] = n.idlePod(b, fmt.Sprintf("bench-%d", count), asked)
		if count == 1 {
			n.must(b, "annotate", "pod", pods[count].Name, "k8s.v1.cni.cncf.io/networks-")
		}
		n.execute(b, "plexus", "ADD", netns, pods[count], conf) // the watch has brought it then
		n.execute(b, "plexus", "DEL", netns, pods[count], conf)
	}
	type figures struct{ add, del, alone, aloneDel, messages, own, further []time.Duration }
	var patches, empties []time.Duration
	all := map[int]*figures{1: {}, 2: {}, 4: {}, 8: {}}
	for range benchPairs { // what is compared is measured together
		var first time.Duration
		for _, count := range counts {
			f, pod := all[count], pods[count]
			alone := n.execute(b, "bridge", "ADD", netns, pod, direct)
			time.Sleep(benchLife)
			f.aloneDel = append(f.aloneDel, n.execute(b, "bridge", "DEL", netns, pod, direct))
			add := n.execute(b, "plexus", "ADD", netns, pod, conf)
			time.Sleep(benchLife)
			n.published(b)
			del := n.execute(b, "plexus", "DEL", netns, pod, conf)
			patches = append(patches, n.patched(b, pod))
			time.Sleep(benchRest)
			empties = append(empties, started(b, empty))
			time.Sleep(benchRest)
			messages, err := bare.Time(b.Context(), count-1)
			if err != nil {
				b.Fatal(err)
			}
			own := add - alone - messages
			if count == 1 {
				first = own
			} else {
				f.further = append(f.further, (own-first)/time.Duration(count-1))
			}
			f.add, f.del, f.alone = append(f.add, add), append(f.del, del), append(f.alone, alone)
			f.messages, f.own = append(f.messages, messages), append(f.own, own)
		}
	}
	fmt.Printf("     an empty static Go program takes %.2f ms meanwhile; a patch of network-status, which follows the answer, %.1f ms\n", ms(median(empties)), ms(median(patches)))
	for _, count := range counts {
		f := all[count]
		fmt.Printf("  %2d %7.1f ms %7.1f ms %8.1f + %7.1f ms %9.2f ms %23s", count, ms(median(f.add)), ms(median(f.del)), ms(median(f.alone)), ms(median(f.aloneDel)), ms(median(f.messages)), span(f.own))
		if count == 1 {
			fmt.Println()
			n.printSteps(b, median(f.add))
			continue
		}
		fmt.Printf(" %24s\n", span(f.further))
	}
	if err := bare.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	n.execute(b, "plexus", "DEL", home, resident, conf)
	n.must(b, "delete", "pods", "-l", "app=bench", "--force")
	n.nothingLeft(b)
}

// printSteps says where the time of ADD goes, by the agent's history.
func (n *testNode) printSteps(b testing.TB, whole time.Duration) {
	b.Helper()
	var history []struct {
		Verb  string
		MS    float64 `json:"ms"`
		Steps []struct {
			MS   float64 `json:"ms"`
			What string
		}
	}
	data, err := n.ask("GET", "/v1/history?about=default/bench-1")
	if err != nil || json.Unmarshal(data, &history) != nil {
		b.Fatal(err)
	}
	var inside []time.Duration
	steps := map[string][]time.Duration{}
	var order []string
	for _, e := range history {
		if e.Verb != "ADD" {
			continue
		}
		at := func(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
		inside = append(inside, at(e.MS))
		for i, s := range e.Steps {
			until := e.MS
			if i+1 < len(e.Steps) {
				until = e.Steps[i+1].MS
			}
			name := fmt.Sprintf("%d %s", i, strings.Join(strings.Fields(s.What)[:2], " "))
			if steps[name] == nil {
				order = append(order, name)
			}
			steps[name] = append(steps[name], at(until-s.MS))
		}
		steps["plan"] = append(steps["plan"], at(e.Steps[0].MS))
	}
	fmt.Printf("     of it before the agent has it and after it has answered: %.2f ms; plan: %.2f ms", ms(whole-median(inside)), ms(median(steps["plan"])))
	for _, name := range order {
		fmt.Printf("; %s: %.2f ms", name[2:], ms(median(steps[name])))
	}
	fmt.Println()
}

// plainMemif has no addresses, which would be host-local's cost.
const plainMemif = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: plain}
spec:
  config: |
    {"cniVersion": "1.0.0", "type": "vppmemif", "bridgeDomain": {"name": "bench"}}
`

func started(b testing.TB, program string) time.Duration {
	b.Helper()
	cmd := exec.Command(program)
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// patched times a patch of the size that plexus sends.
func (n *testNode) patched(b testing.TB, pod *corev1.Pod) time.Duration {
	b.Helper()
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "annotations": map[string]string{"bench": strings.Repeat("x", 300) + time.Now().String()}}})
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if _, err := n.client.CoreV1().Pods(pod.Namespace).Patch(b.Context(), pod.Name, types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// published waits until the agent has published what pods got.
func (n *testNode) published(b testing.TB) {
	b.Helper()
	for began := time.Now(); ; {
		var info agent.NodeInfo
		data, err := n.ask("GET", "/v1/node")
		if err != nil || json.Unmarshal(data, &info) != nil {
			b.Fatal(err)
		}
		if info.Unpublished == 0 {
			return
		}
		if time.Since(began) > time.Minute {
			b.Fatalf("not published: %+v", info)
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkAtOnce is 32 pods with four networks each at once, twice.
func BenchmarkAtOnce(b *testing.B) {
	n := theNode
	n.apply(b, networks)
	fmt.Printf("\n32 pods with four networks at once\n")
	for round := range 2 {
		name := fmt.Sprintf("crowd-%d", round)
		since := n.auditSize(b)
		began := time.Now()
		n.apply(b, deployment(name, 32, "lan,fast,shm"))
		n.must(b, "rollout", "status", "deployment/"+name, "--timeout=180s")
		ready := time.Since(began)
		failed := strings.Fields(n.must(b, "get", "events", "--field-selector", "type=Warning", "-o", "jsonpath={range .items[*]}{.reason}/{.involvedObject.name} {end}"))
		failed = slices.DeleteFunc(failed, func(e string) bool { return !strings.Contains(e, name) })
		count := map[string]int{}
		await(b, "events are sent", func() error {
			count = map[string]int{}
			for _, r := range n.requests(b, since) {
				count[r]++
			}
			if count["create events"] < 32 {
				return fmt.Errorf("%v", count)
			}
			return nil
		})
		var history []struct {
			Verb string
			MS   float64 `json:"ms"`
			Pod  string
		}
		data, err := n.ask("GET", "/v1/history")
		if err != nil || json.Unmarshal(data, &history) != nil {
			b.Fatal(err)
		}
		var adds []float64
		for _, e := range history {
			if e.Verb == "ADD" && strings.Contains(e.Pod, name) {
				adds = append(adds, e.MS)
			}
		}
		slices.Sort(adds)
		fmt.Printf("  round %d: all Ready after %.1f s; ADD median %.0f ms, longest %.0f ms; warnings %v; requests %v\n", round+1, ready.Seconds(), adds[len(adds)/2], adds[len(adds)-1], failed, count)
		if len(failed) > 0 {
			b.Errorf("warnings: %v", failed)
		}
		began = time.Now()
		n.must(b, "delete", "deployment", name, "--cascade=foreground")
		n.nothingLeft(b)
		fmt.Printf("           all gone after %.1f s\n", time.Since(began).Seconds())
	}
}

// BenchmarkMemory is the agent's resident memory with sandboxes of two networks, at
// rest, and the most that it was while they came.
func BenchmarkMemory(b *testing.B) {
	n := theNode
	n.apply(b, networks)
	conf, err := os.ReadFile(filepath.Join(confDir, "00-plexus.conf"))
	if err != nil {
		b.Fatal(err)
	}
	n.stopAgent()
	if err := n.startAgent(b.Context()); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\nmemory of the agent\n  %9s %10s %10s %10s\n", "sandboxes", "resident", "of it heap", "peak")
	type sandbox struct {
		pod   *corev1.Pod
		netns string
	}
	var all []sandbox
	for _, count := range []int{0, 100, 250} {
		for i := len(all); i < count; i++ {
			s := sandbox{n.idlePod(b, fmt.Sprintf("memory-%d", i), "shm"), namespace(b, fmt.Sprintf("memory-%d", i))}
			n.execute(b, "plexus", "ADD", s.netns, s.pod, conf)
			all = append(all, s)
		}
		time.Sleep(3 * time.Second) // the agent rests
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.PID()))
		if err != nil {
			b.Fatal(err)
		}
		fmt.Printf("  %9d %6.1f MiB %6.1f MiB %6.1f MiB\n", count, kib(status, "VmRSS:")/1024, kib(status, "RssAnon:")/1024, kib(status, "VmHWM:")/1024)
	}
	for _, s := range all {
		n.execute(b, "plexus", "DEL", s.netns, s.pod, conf)
	}
	n.must(b, "delete", "pods", "-l", "app=bench", "--force")
	n.nothingLeft(b)
}

func kib(status []byte, key string) float64 {
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == key {
			v, _ := strconv.ParseFloat(fields[1], 64) // the kernel writes a number
			return v
		}
	}
	return 0
}

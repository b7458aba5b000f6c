package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/plexus-cni/plexus/conf"
)

// apiStandIn stands in for the API server at the wire: it has one pod, shop/app, claims
// and ResourceSlices, and can refuse. The real one is in e2e/cluster.
type apiStandIn struct {
	t      *testing.T
	server *httptest.Server

	pod    *corev1.Pod
	claims map[string]*resourcev1.ResourceClaim
	slices []resourcev1.ResourceSlice
	refuse map[string]func(http.ResponseWriter) // by path's last element

	mu   sync.Mutex
	made []string // requests, "path?fieldSelector"
}

func (a *apiStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, selector := r.URL.Path, r.URL.Query().Get("fieldSelector")
	a.mu.Lock()
	a.made = append(a.made, strings.TrimSuffix(path[strings.LastIndex(path, "/")+1:]+"?"+selector, "?"))
	a.mu.Unlock()
	if refuse := a.refuse[path[strings.LastIndex(path, "/")+1:]]; refuse != nil {
		refuse(w)
		return
	}
	switch {
	case r.URL.Query().Get("watch") != "":
		a.watch(w, r)
	case strings.HasSuffix(path, "/pods"):
		answer(w, http.StatusOK, &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Pod{*a.pod}})
	case r.Method != http.MethodGet:
		a.t.Errorf("%s %s", r.Method, path)
	case path == "/api/v1/namespaces/shop/pods/app":
		answer(w, http.StatusOK, a.pod)
	case path == "/apis/resource.k8s.io/v1/resourceslices":
		a.list(w, selector)
	default:
		name, ok := strings.CutPrefix(path, "/apis/resource.k8s.io/v1/namespaces/shop/resourceclaims/")
		if claim := a.claims[name]; ok && claim != nil {
			answer(w, http.StatusOK, claim)
			return
		}
		refusal(http.StatusNotFound, metav1.StatusReasonNotFound, name+" not found")(w)
	}
}

// watch brings nothing new. It refuses a list by way of a watch, as an API server without
// WatchList does.
func (a *apiStandIn) watch(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sendInitialEvents") != "" {
		refusal(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden")(w)
		return
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	select {
	case <-r.Context().Done():
	case <-a.t.Context().Done():
	}
}

func (a *apiStandIn) list(w http.ResponseWriter, selector string) {
	want, err := fields.ParseSelector(selector)
	if err != nil {
		a.t.Errorf("selector %s: %v", selector, err)
	}
	list := &resourcev1.ResourceSliceList{TypeMeta: metav1.TypeMeta{APIVersion: "resource.k8s.io/v1", Kind: "ResourceSliceList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	for _, s := range a.slices {
		node := ""
		if s.Spec.NodeName != nil {
			node = *s.Spec.NodeName
		}
		if want.Matches(fields.Set{"spec.driver": s.Spec.Driver, "spec.nodeName": node}) {
			list.Items = append(list.Items, s)
		}
	}
	answer(w, http.StatusOK, list)
}

func answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func refusal(code int, reason metav1.StatusReason, message string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		answer(w, code, &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
	}
}

// claim is a ResourceClaim with these results: "request driver pool device".
func claim(name string, results ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{TypeMeta: metav1.TypeMeta{APIVersion: "resource.k8s.io/v1", Kind: "ResourceClaim"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	for _, text := range results {
		var r resourcev1.DeviceRequestAllocationResult
		_, _ = fmt.Sscan(text, &r.Request, &r.Driver, &r.Pool, &r.Device)
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, r)
	}
	return c
}

// slice is a ResourceSlice; a node of "" is all nodes.
func slice(driver, node, pool string, generation, count int64, devices ...resourcev1.Device) resourcev1.ResourceSlice {
	s := resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(driver, node, pool, generation, len(devices))}}
	s.Spec = resourcev1.ResourceSliceSpec{Driver: driver, Pool: resourcev1.ResourcePool{Name: pool, Generation: generation, ResourceSliceCount: count}, Devices: devices}
	if node == "" {
		all := true
		s.Spec.AllNodes = &all
	} else {
		s.Spec.NodeName = &node
	}
	return s
}

// device has these string attributes: name, value, ...
func device(name string, attributes ...string) resourcev1.Device {
	d := resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}}
	for i := 0; i < len(attributes); i += 2 {
		d.Attributes[resourcev1.QualifiedName(attributes[i])] = resourcev1.DeviceAttribute{StringValue: &attributes[i+1]}
	}
	return d
}

const (
	resourceName = "k8s.cni.cncf.io/resourceName"
	deviceID     = "k8s.cni.cncf.io/deviceID"
)

func vf(name, id string) resourcev1.Device {
	return device(name, resourceName, "x.com/vf", deviceID, id)
}

// newStandIn has the pod shop/app on node n1, with the claims "nic", of a template, and
// "gpu", by its name.
func newStandIn(t *testing.T) *apiStandIn {
	nic, gpu, template := "app-nic-x7k", "the-gpu", "nics"
	a := &apiStandIn{t: t, refuse: map[string]func(http.ResponseWriter){}}
	a.pod = &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "app", UID: "u1"},
		Spec: corev1.PodSpec{NodeName: "n1", ResourceClaims: []corev1.PodResourceClaim{
			{Name: "nic", ResourceClaimTemplateName: &template}, {Name: "gpu", ResourceClaimName: &gpu}}},
		Status: corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "nic", ResourceClaimName: &nic}, {Name: "other", ResourceClaimName: &template}}},
	}
	a.claims = map[string]*resourcev1.ResourceClaim{
		nic: claim(nic, "vf nic.x.com n1 vf-0", "vf nic.x.com n1 vf-2"),
		gpu: claim(gpu, "any gpu.x.com n1 g0"),
	}
	a.slices = []resourcev1.ResourceSlice{
		slice("nic.x.com", "n1", "n1", 1, 1, vf("vf-0", "0000:01:10.0"), vf("vf-1", "0000:01:10.1"), vf("vf-2", "0000:01:10.2")),
		slice("gpu.x.com", "n1", "n1", 1, 1, device("g0", "gpu.x.com/model", "big")),
	}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

// kubeconfig leads to it.
func (a *apiStandIn) kubeconfig() string {
	a.t.Helper()
	file := filepath.Join(a.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],
		"clusters": [{"name": "c", "cluster": {"server": %q}}]}`, a.server.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// devices asks as a request of a process of its own does: for the pod, and then for
// its devices. With plugged the kubelet has devices of its own; nil is no kubelet.
func (a *apiStandIn) devices(plugged map[string][]string) (given map[string][]string, log string, err error) {
	a.t.Helper()
	dir, text := a.t.TempDir(), &bytes.Buffer{}
	if plugged != nil {
		var all []*podresources.ContainerDevices
		for resource, ids := range plugged {
			all = append(all, devices(resource, ids...))
		}
		(&kubelet{pods: []*podresources.PodResources{pod("app", all)}}).serve(a.t, dir)
	}
	live := &Live{Cluster: &Cluster{Kubeconfig: a.kubeconfig(), Log: slog.New(slog.NewTextHandler(text, nil))}}
	app, err := live.Pod(a.t.Context(), "shop", "app", "u1")
	if err != nil {
		a.t.Fatal(err)
	}
	given, err = (&Devices{Dir: dir, Live: live}).OfPod(a.t.Context(), app)
	return given, text.String(), err
}

// The devices of claims come after those of the kubelet, by resource; one that does
// not say that it is a network's is not among them. Each thing is asked for once.
func TestClaims(t *testing.T) {
	a := newStandIn(t)
	got, log, err := a.devices(map[string][]string{"x.com/vf": {"0000:02:00.1", "0000:01:10.2"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"x.com/vf": {"0000:02:00.1", "0000:01:10.2", "0000:01:10.0"}}, got); diff != "" {
		t.Error(diff)
	}
	want := []string{"app", "app-nic-x7k", "resourceslices?spec.driver=nic.x.com,spec.nodeName=n1", "the-gpu", "resourceslices?spec.driver=gpu.x.com,spec.nodeName=n1"}
	if diff := cmp.Diff(want, a.made); diff != "" {
		t.Errorf("requests: %s", diff)
	}
	if log != "" {
		t.Errorf("log: %s", log)
	}
}

// An agent has read the claims of a pod that is about to start, and the node's slices, before
// ADD: ADD requests nothing. A claim that is not reserved for the pod, and a pod that has
// started, are left to ADD.
func TestWatchedClaims(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*apiStandIn)
		want   []string // requests of ADD
	}{
		"reserved": {func(*apiStandIn) {}, nil},
		"reserved for another": {func(a *apiStandIn) {
			a.claims["the-gpu"].Status.ReservedFor[0].UID = "u2"
		}, []string{"the-gpu"}},
		"of all nodes": {func(a *apiStandIn) {
			a.slices[1] = slice("gpu.x.com", "", "n1", 1, 1, device("g0"))
		}, []string{"resourceslices?spec.driver=gpu.x.com,spec.nodeName=n1", "resourceslices?spec.driver=gpu.x.com,spec.nodeName="}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newStandIn(t)
			a.pod.Annotations = map[string]string{conf.NetworksAnnotation: "vf"}
			a.pod.Status.Phase = corev1.PodPending
			for _, claim := range a.claims {
				claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "app", UID: "u1"}}
			}
			test.change(a)
			c := &Cluster{Kubeconfig: a.kubeconfig(), Node: "n1", Log: slog.New(slog.DiscardHandler)}
			if err := c.open(); err != nil {
				t.Fatal(err)
			}
			if err := c.Follow(t.Context(), func(*conf.Pod) {}); err != nil {
				t.Fatal(err)
			}
			last := "the-gpu" // the claims are read in their order
			await(t, func() bool {
				a.mu.Lock()
				defer a.mu.Unlock()
				return c.slices.HasSynced() && slices.Contains(a.made, last)
			})
			await(t, func() bool { _, known := c.claims.of("u1", "app-nic-x7k"); return known })
			if name != "reserved for another" {
				await(t, func() bool { _, known := c.claims.of("u1", last); return known })
			}
			a.mu.Lock()
			a.made = nil
			a.mu.Unlock()
			live := &Live{Cluster: c}
			app, err := live.Pod(t.Context(), "shop", "app", "u1")
			if err != nil {
				t.Fatal(err)
			}
			got, err := live.claimedDevices(t.Context(), app)
			if diff := cmp.Diff(map[string][]string{"x.com/vf": {"0000:01:10.0", "0000:01:10.2"}}, got); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			var made []string
			for _, request := range a.made {
				if strings.HasPrefix(request, "app") || strings.HasPrefix(request, "the-gpu") || strings.Contains(request, "spec.driver") { // not the watches'
					made = append(made, request)
				}
			}
			if diff := cmp.Diff(test.want, made); diff != "" {
				t.Errorf("requests of ADD: %s", diff)
			}
		})
	}
}

// await waits until something is so.
func await(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has not come")
		}
	}
}

// A pod that has no claims, or whose status says that none was needed, costs no
// request but the one for the pod; a claim of two entries is asked for once.
func TestClaimsCost(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"none": {func(p *corev1.Pod) { p.Spec.ResourceClaims = nil }, []string{"app"}},
		"not needed": {func(p *corev1.Pod) {
			p.Spec.ResourceClaims = p.Spec.ResourceClaims[:1]
			p.Status.ResourceClaimStatuses[0].ResourceClaimName = nil
		}, []string{"app"}},
		"twice": {func(p *corev1.Pod) {
			p.Status.ResourceClaimStatuses[0].ResourceClaimName = p.Spec.ResourceClaims[1].ResourceClaimName
		}, []string{"app", "the-gpu", "resourceslices?spec.driver=gpu.x.com,spec.nodeName=n1"}},
	} {
		a := newStandIn(t)
		test.change(a.pod)
		if got, _, err := a.devices(map[string][]string{"x.com/gpu": {"g"}}); err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if diff := cmp.Diff(test.want, a.made); diff != "" {
			t.Errorf("%s: requests: %s", name, diff)
		}
	}
}

// The claim that the scheduler has made for a pod's extended resources is a claim as the others,
// in a pod of the API server and in one of the watch.
func TestClaimOfExtendedResources(t *testing.T) {
	a := newStandIn(t)
	a.pod.Spec.ResourceClaims, a.pod.Status.ResourceClaimStatuses = nil, nil
	a.pod.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{
		RequestMappings:   []corev1.ContainerExtendedResourceRequest{{ContainerName: "app", ResourceName: "x.com/vf", RequestName: "vf"}},
		ResourceClaimName: "app-nic-x7k",
	}
	want := map[string][]string{"x.com/vf": {"0000:01:10.0", "0000:01:10.2"}}
	got, _, err := a.devices(map[string][]string{})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	slimmed, err := slim(a.pod)
	if err != nil {
		t.Fatal(err)
	}
	live := &Live{Cluster: &Cluster{Kubeconfig: a.kubeconfig()}, pod: slimmed.(*corev1.Pod)}
	got, err = live.claimedDevices(t.Context(), &conf.Pod{Namespace: "shop", Name: "app", UID: "u1"})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("of the watch: %v %s", err, diff)
	}
}

// Where a device may be, and how its driver may write of it.
func TestClaimedDevice(t *testing.T) {
	four, list := int64(4), []string{"a"}
	with := func(driver string, s ...resourcev1.ResourceSlice) func(*apiStandIn) {
		return func(a *apiStandIn) {
			a.pod.Spec.ResourceClaims = a.pod.Spec.ResourceClaims[:1]
			a.claims["app-nic-x7k"] = claim("app-nic-x7k", "vf/fast "+driver+" p d")
			a.slices = s
		}
	}
	number := device("d", resourceName, "x.com/vf")
	number.Attributes[deviceID] = resourcev1.DeviceAttribute{IntValue: &four}
	strings := device("d", deviceID, "1")
	strings.Attributes[resourceName] = resourcev1.DeviceAttribute{StringValues: list}
	const where = `devices of pod shop/app: claim "nic": ResourceClaim app-nic-x7k: request vf/fast: device x.com/p/d: `
	for name, test := range map[string]struct {
		change func(*apiStandIn)
		want   string // device of x.com/vf, "" for none
		lists  int
		err    string
		log    string
	}{
		"of all nodes":                {change: with("x.com", slice("x.com", "n1", "other", 9, 1, vf("d", "8")), slice("x.com", "", "p", 1, 1, vf("d", "7"))), want: "7", lists: 2},
		"of another node":             {change: with("x.com", slice("x.com", "n2", "p", 1, 1, vf("d", "7"))), lists: 2, err: where + "no ResourceSlice has its pool: does the driver run?"},
		"of another driver":           {change: with("x.com", slice("y.com", "n1", "p", 1, 1, vf("d", "7"))), lists: 2, err: where + "no ResourceSlice has its pool"},
		"second slice":                {change: with("x.com", slice("x.com", "n1", "p", 1, 2, vf("c", "6")), slice("x.com", "n1", "p", 1, 2, vf("d", "7"), vf("e", "8"))), want: "7", lists: 1},
		"older generation last":       {change: with("x.com", slice("x.com", "n1", "p", 2, 1, vf("d", "7")), slice("x.com", "n1", "p", 1, 1, vf("d", "6"))), want: "7", lists: 1},
		"older generation first":      {change: with("x.com", slice("x.com", "n1", "p", 1, 1, vf("d", "6")), slice("x.com", "n1", "p", 2, 1, vf("d", "7"))), want: "7", lists: 1},
		"older generation alone":      {change: with("x.com", slice("x.com", "n1", "p", 1, 1, vf("d", "6")), slice("x.com", "n1", "p", 2, 1, vf("e", "7"))), lists: 2, err: where + "it is in none of the pool's 1 ResourceSlices of generation 2"},
		"half of the pool":            {change: with("x.com", slice("x.com", "n1", "p", 3, 2, vf("e", "6")), slice("x.com", "n1", "p", 2, 1, vf("d", "7"))), lists: 2, err: where + "it is in none of the pool's ResourceSlices of generation 3, of which 1 of 2 are there"},
		"short names, own domain":     {change: with("k8s.cni.cncf.io", slice("k8s.cni.cncf.io", "n1", "p", 1, 1, device("d", "resourceName", "x.com/vf", "deviceID", "7"))), want: "7", lists: 1},
		"short names, another domain": {change: with("x.com", slice("x.com", "n1", "p", 1, 1, device("d", "resourceName", "x.com/vf", "deviceID", "7"))), lists: 1},
		"no resource":                 {change: with("x.com", slice("x.com", "n1", "p", 1, 1, device("d", deviceID, "7"))), lists: 1, log: "is ignored"},
		"no ID":                       {change: with("x.com", slice("x.com", "n1", "p", 1, 1, device("d", resourceName, "x.com/vf", deviceID, ""))), lists: 1, log: "device=x.com/p/d"},
		"ID is a number":              {change: with("x.com", slice("x.com", "n1", "p", 1, 1, number)), lists: 1, err: where + "its attribute k8s.cni.cncf.io/deviceID is no string"},
		"resource is a list":          {change: with("x.com", slice("x.com", "n1", "p", 1, 1, strings)), lists: 1, err: where + "its attribute k8s.cni.cncf.io/resourceName is no string"},
		"for administration": {change: func(a *apiStandIn) {
			with("x.com", slice("x.com", "n1", "p", 1, 1, vf("d", "7")))(a)
			yes := true
			a.claims["app-nic-x7k"].Status.Allocation.Devices.Results[0].AdminAccess = &yes
		}, want: "7", lists: 1},
	} {
		t.Run(name, func(t *testing.T) {
			a := newStandIn(t)
			test.change(a)
			got, log, err := a.devices(map[string][]string{})
			if lists := len(a.made) - 2; lists != test.lists {
				t.Errorf("%d lists, want %d: %v", lists, test.lists, a.made)
			}
			if !contains(log, test.log) {
				t.Errorf("log %q, want %q", log, test.log)
			}
			if test.err != "" {
				if err == nil || !contains(err.Error(), test.err) {
					t.Errorf("got error %v\nwant %s", err, test.err)
				}
				return
			}
			want := map[string][]string{}
			if test.want != "" {
				want["x.com/vf"] = []string{test.want}
			}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

// contains: nothing is wanted of "" but nothing.
func contains(text, part string) bool {
	return strings.Contains(text, part) && (part != "" || text == "")
}

// What the API server does not answer is said with pod, claim and device, and is
// temporary when it may answer later.
func TestClaimsRefused(t *testing.T) {
	noSuchPath := func(w http.ResponseWriter) { http.Error(w, "404 page not found", http.StatusNotFound) }
	garbage := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind": "Resource`)
	}
	const nic, vf0 = `claim "nic": ResourceClaim app-nic-x7k: `, `request vf: device nic.x.com/n1/vf-0: list ResourceSlices with spec.driver=nic.x.com,spec.nodeName=n1: `
	for name, test := range map[string]struct {
		change    func(*apiStandIn)
		want      []string
		temporary bool
	}{
		"claim forbidden": {func(a *apiStandIn) {
			a.refuse["app-nic-x7k"] = refusal(http.StatusForbidden, metav1.StatusReasonForbidden, "no")
		}, []string{nic, "403", "get resourceclaims (resource.k8s.io)"}, false},
		"claim gone":          {func(a *apiStandIn) { delete(a.claims, "app-nic-x7k") }, []string{nic + "it does not exist in namespace shop"}, false},
		"claim broken":        {func(a *apiStandIn) { a.refuse["app-nic-x7k"] = garbage }, []string{nic, "does not answer as it should"}, true},
		"claim not allocated": {func(a *apiStandIn) { a.claims["the-gpu"].Status.Allocation = nil }, []string{`claim "gpu": ResourceClaim the-gpu: it has no allocation`}, false},
		"claim not made":      {func(a *apiStandIn) { a.pod.Status.ResourceClaimStatuses = nil }, []string{`claim "nic": no ResourceClaim has been made for it`}, false},
		"no resource.k8s.io":  {func(a *apiStandIn) { a.refuse["app-nic-x7k"] = noSuchPath }, []string{nic, "has no resource.k8s.io/v1"}, false},
		"claims not answered": {func(a *apiStandIn) {
			a.refuse["app-nic-x7k"] = refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "later")
		}, []string{nic, "does not answer as it should", "later"}, true},
		"slices forbidden": {func(a *apiStandIn) {
			a.refuse["resourceslices"] = refusal(http.StatusForbidden, metav1.StatusReasonForbidden, "no")
		}, []string{nic + vf0, "403", "list resourceslices (resource.k8s.io)"}, false},
		"slices broken": {func(a *apiStandIn) { a.refuse["resourceslices"] = garbage }, []string{nic + vf0, "does not answer as it should"}, true},
		"slices not answered": {func(a *apiStandIn) {
			a.refuse["resourceslices"] = refusal(http.StatusInternalServerError, metav1.StatusReasonInternalError, "etcd is away")
		}, []string{nic + vf0, "does not answer as it should"}, true},
		"slices not supported": {func(a *apiStandIn) {
			a.refuse["resourceslices"] = refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, "field label not supported")
		}, []string{nic + vf0, "field label not supported"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // what is tried again waits
			a := newStandIn(t)
			test.change(a)
			got, _, err := a.devices(map[string][]string{})
			if err == nil {
				t.Fatalf("no error: %v", got)
			}
			for _, part := range append(test.want, "devices of pod shop/app: ") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\ndoes not say %s", err, part)
				}
			}
			var temporary interface{ Temporary() bool }
			if is := errors.As(err, &temporary) && temporary.Temporary(); is != test.temporary {
				t.Errorf("temporary is %v, want %v: %v", is, test.temporary, err)
			}
		})
	}
}

// One of the two who know of devices is enough where the other cannot: a kubelet
// that does not answer, an API server that is too old.
func TestClaimsAlone(t *testing.T) {
	a := newStandIn(t)
	got, log, err := a.devices(nil)
	if diff := cmp.Diff(map[string][]string{"x.com/vf": {"0000:01:10.0", "0000:01:10.2"}}, got); err != nil || diff != "" {
		t.Errorf("without a kubelet: %v %s", err, diff)
	}
	if !strings.Contains(log, "podresources") || !strings.Contains(log, "shop/app") {
		t.Errorf("without a kubelet: the log does not say it: %s", log)
	}
	a = newStandIn(t)
	a.pod.Spec.ResourceClaims = a.pod.Spec.ResourceClaims[1:] // no network's
	if got, _, err = a.devices(nil); err == nil || !strings.Contains(err.Error(), "podresources") {
		t.Errorf("without a kubelet, without network devices of claims: %v, %v", got, err)
	}
	a = newStandIn(t)
	a.refuse["app-nic-x7k"] = refusal(http.StatusForbidden, metav1.StatusReasonForbidden, "no")
	if got, _, err = a.devices(nil); err == nil || !strings.Contains(err.Error(), "podresources") || !strings.Contains(err.Error(), "403") {
		t.Errorf("with neither: %v, %v", got, err)
	}
	a = newStandIn(t)
	a.refuse["app-nic-x7k"] = func(w http.ResponseWriter) { http.Error(w, "404 page not found", http.StatusNotFound) }
	got, log, err = a.devices(map[string][]string{"x.com/vf": {"1"}})
	if diff := cmp.Diff(map[string][]string{"x.com/vf": {"1"}}, got); err != nil || diff != "" {
		t.Errorf("without claims: %v %s", err, diff)
	}
	if !strings.Contains(log, "resource.k8s.io/v1") {
		t.Errorf("without claims: the log does not say it: %s", log)
	}
}

// Without a request's pod, as when a running pod's networks change, the pod is asked
// for; another of its name is not it.
func TestClaimsOfRunningPod(t *testing.T) {
	a := newStandIn(t)
	live := &Live{Cluster: &Cluster{Kubeconfig: a.kubeconfig()}}
	got, err := live.claimedDevices(t.Context(), &conf.Pod{Namespace: "shop", Name: "app", UID: "u1"})
	if err != nil || len(got["x.com/vf"]) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err = live.claimedDevices(t.Context(), &conf.Pod{Namespace: "shop", Name: "app", UID: "u2"}); err == nil || !strings.Contains(err.Error(), "has been replaced") {
		t.Errorf("another pod of the name: %v", err)
	}
}

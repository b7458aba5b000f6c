package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

// within is a bound of the test, far above what is waited for.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func temporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

// Whatever the API server answers to the question for a pod: an error that names
// the pod, the cause and what to do, is marked for the runtime to try again where
// that helps, and comes in time.
func TestPodOfAFailingAPIServer(t *testing.T) {
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		temporary bool
		says      []string
		requests  int // 0: client-go tries as well
	}{
		"401":           {status(401, "Unauthorized"), false, []string{"401", "token of the kubeconfig"}, 1},
		"403":           {status(403, "Forbidden"), false, []string{"403", "ClusterRole", "get pods"}, 1},
		"404":           {status(404, "NotFound"), false, []string{"does not exist any more"}, 1},
		"409":           {status(409, "Conflict"), true, []string{"told to answer Conflict"}, 3},
		"410":           {status(410, "Gone"), true, []string{"told to answer Gone"}, 3},
		"429":           {status(429, "TooManyRequests"), true, []string{"told to answer TooManyRequests"}, 3},
		"429, a second": {status(429, "TooManyRequests", "Retry-After", "1"), true, nil, 0},
		"429, an hour":  {status(429, "TooManyRequests", "Retry-After", "3600"), true, nil, 0},
		"500":           {status(500, "InternalError"), true, []string{"told to answer InternalError"}, 3},
		"503":           {status(503, "ServiceUnavailable"), true, []string{"told to answer ServiceUnavailable"}, 3},
		"http.StatusServiceUnavailable, no JSON": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "proxy says no", http.StatusServiceUnavailable)
		}, true, nil, 3},
		"truncated":         {truncated, true, nil, 3},
		"garbage":           {object("hello"), true, nil, 3},
		"HTML":              {object("<html><body>log in</body></html>"), true, nil, 3},
		"no object":         {object(""), true, nil, 3},
		"hangs up":          {hangUp, true, nil, 0},
		"hangs":             {hang, true, nil, 3},
		"another pod's UID": {object(podText("u-2", "")), false, []string{"u-1", "u-2", "replaced"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandIn(t)
			s.on("GET "+podPath, c.answer)
			live := &kube.Live{Cluster: cluster(t, s.URL)}
			ctx := within(t)
			pod, err := live.Pod(ctx, "shop", "web", "u-1")
			if ctx.Err() != nil {
				t.Fatal("it takes too long")
			}
			if err == nil {
				t.Fatalf("a pod: %+v", pod)
			}
			checkError(t, err, append(c.says, "shop/web")...)
			if c.temporary {
				checkError(t, err, s.URL)
			}
			if temporary(err) != c.temporary {
				t.Errorf("temporary is %v of: %v", temporary(err), err)
			}
			if n := len(s.requests("GET ")); c.requests != 0 && n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
			if strings.Contains(err.Error(), "secret-token") || len(err.Error()) > 1000 {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// A failure that passes is nobody's business.
func TestAFailureThatPasses(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{"500": status(500, "InternalError"), "truncated": truncated, "hangs up": hangUp, "429": status(429, "TooManyRequests", "Retry-After", "1")} {
		s := newStandIn(t)
		var once sync.Once
		s.on("GET "+podPath, func(w http.ResponseWriter, r *http.Request) {
			answer := object(podText("u-1", `"k8s.v1.cni.cncf.io/networks":"fast"`))
			once.Do(func() { answer = first })
			answer(w, r)
		})
		pod, err := (&kube.Live{Cluster: cluster(t, s.URL)}).Pod(within(t), "shop", "web", "u-1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkEqual(t, pod, &conf.Pod{Namespace: "shop", Name: "web", UID: "u-1", Annotations: map[string]string{conf.NetworksAnnotation: "fast"}})
	}
}

// A request whose runtime has gone is not waited for.
func TestACancelledRequest(t *testing.T) {
	s := newStandIn(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.on("GET "+podPath, func(w http.ResponseWriter, r *http.Request) { cancel(); hang(w, r) })
	if _, err := (&kube.Live{Cluster: cluster(t, s.URL)}).Pod(ctx, "shop", "web", ""); err == nil {
		t.Error("a pod")
	}
	if n := len(s.requests("")); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A server that is not there, and a file that is none.
func TestNoAPIServer(t *testing.T) {
	gone := newStandIn(t)
	gone.Close()
	_, err := (&kube.Live{Cluster: cluster(t, gone.URL)}).Pod(within(t), "shop", "web", "")
	checkError(t, err, "shop/web", gone.URL, "refused")
	if !temporary(err) {
		t.Errorf("not for another try: %v", err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"garbage": "\x00\x01", "empty": "", "no context": `{"apiVersion":"v1","kind":"Config"}`, "a list": "[]"} {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&kube.Live{Cluster: &kube.Cluster{Kubeconfig: file}}).Pod(within(t), "shop", "web", "")
		checkError(t, err, "shop/web", file)
	}
	none := filepath.Join(dir, "none")
	_, err = (&kube.Live{Cluster: &kube.Cluster{Kubeconfig: none}}).Network(within(t), wantedNAD("shop", "fast"))
	checkError(t, err, "shop/fast", none, "no such file")
}

// Networks are asked for as pods are. One that does not exist is said not to.
func TestNetworkOfAFailingAPIServer(t *testing.T) {
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		temporary bool
		says      []string
	}{
		"401": {status(401, "Unauthorized"), false, []string{"401"}}, "403": {status(403, "Forbidden"), false, []string{"get network-attachment-definitions"}},
		"404": {status(404, "NotFound"), false, []string{"does not exist"}}, "500": {status(500, "InternalError"), true, nil}, "503": {status(503, "ServiceUnavailable"), true, nil},
		"truncated": {truncated, true, nil}, "hangs up": {hangUp, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandIn(t)
			s.on("GET "+nadPath, c.answer)
			_, err := (&kube.Live{Cluster: cluster(t, s.URL), ConfDir: t.TempDir()}).Network(within(t), wantedNAD("shop", "fast"))
			checkError(t, err, append(c.says, "shop/fast")...)
			if temporary(err) != c.temporary {
				t.Errorf("temporary is %v of: %v", temporary(err), err)
			}
		})
	}
	s := newStandIn(t)
	s.on("GET "+nadPath, object(`{"kind":"NetworkAttachmentDefinition","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"namespace":"shop","name":"fast","annotations":{"k8s.v1.cni.cncf.io/resourceName":"r/d"}},"spec":{"config":"{\"type\":\"macvlan\"}"}}`))
	d, err := (&kube.Live{Cluster: cluster(t, s.URL)}).Network(within(t), wantedNAD("shop", "fast"))
	checkError(t, err)
	if d.Name != "shop/fast" || string(d.Config) != `{"type":"macvlan"}` || d.ResourceName != "r/d" {
		t.Errorf("%+v", d)
	}
}

// A merge patch of the pod's status, for one UID alone: nothing but annotations.
func TestPublishOnThePod(t *testing.T) {
	s := newStandIn(t)
	s.on("GET "+podPath, object(podText("u-1", "")))
	s.on("PATCH "+podPath+"/status", object(podText("u-1", "")))
	live := &kube.Live{Cluster: cluster(t, s.URL)}
	pod, err := live.Pod(within(t), "shop", "web", "u-1")
	checkError(t, err)
	checkError(t, live.Publish(within(t), pod, "sandbox", map[string]string{"a": `[{"x": "ü"}]`, "b": ""}))
	sent := s.requests("PATCH ")
	if len(sent) != 1 || sent[0].kind != "application/merge-patch+json" {
		t.Fatalf("%+v", sent)
	}
	var body, want any
	_ = json.Unmarshal([]byte(sent[0].body), &body)
	_ = json.Unmarshal([]byte(`{"metadata":{"uid":"u-1","annotations":{"a":"[{\"x\": \"ü\"}]","b":""}}}`), &want)
	checkEqual(t, body, want)
	if place := live.StatusPlace(pod); place != "" {
		t.Errorf("status place %q: DEL would have to take it back", place)
	}
	before := len(s.requests(""))
	checkError(t, live.Retract(within(t), "", "sandbox"))
	if len(s.requests("")) != before {
		t.Error("what is retracted asks something")
	}
}

// A static pod is known by the hash of its file; its mirror is what is patched.
func TestStaticPod(t *testing.T) {
	s := newStandIn(t)
	s.on("GET "+podPath, object(podText("mirror", `"kubernetes.io/config.hash":"hash"`)))
	s.on("PATCH "+podPath+"/status", object(podText("mirror", "")))
	live := &kube.Live{Cluster: cluster(t, s.URL)}
	pod, err := live.Pod(within(t), "shop", "web", "hash")
	checkError(t, err)
	if pod.UID != "hash" {
		t.Errorf("UID %s: the kubelet knows it by its hash", pod.UID)
	}
	checkError(t, live.Publish(within(t), pod, "sandbox", map[string]string{"a": "b"}))
	if sent := s.requests("PATCH "); len(sent) != 1 || !strings.Contains(sent[0].body, `"uid":"mirror"`) {
		t.Errorf("%+v", sent)
	}
	_, err = (&kube.Live{Cluster: cluster(t, s.URL)}).Pod(within(t), "shop", "web", "other")
	checkError(t, err, "other", "mirror", "replaced")
}

// Where the patch fails the error says why, and for which pod.
func TestPublishOnAFailingAPIServer(t *testing.T) {
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		temporary bool
		says      []string
	}{
		"403": {status(403, "Forbidden"), false, []string{"patch pods/status"}}, "404": {status(404, "NotFound"), false, []string{"shop/web", "does not exist any more"}},
		"409": {status(409, "Conflict"), true, nil}, "422": {status(422, "Invalid"), false, nil}, "500": {status(500, "InternalError"), true, nil},
		"another pod's UID": {otherUID, false, []string{"shop/web", "u-1", "does not exist any more", "replaced"}},
		"hangs":             {hang, true, nil}, "hangs up": {hangUp, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandIn(t)
			s.on("PATCH "+podPath+"/status", c.answer)
			err := (&kube.Live{Cluster: cluster(t, s.URL)}).Publish(within(t), &conf.Pod{Namespace: "shop", Name: "web", UID: "u-1"}, "s", map[string]string{"a": "b"})
			if err == nil {
				t.Fatal("published")
			}
			checkError(t, err, append(c.says, "")...)
			if temporary(err) != c.temporary {
				t.Errorf("temporary is %v of: %v", temporary(err), err)
			}
		})
	}
}

// otherUID is what the API server answers to a patch with another pod's UID (as seen by
// e2e/cluster.TestPublish).
func otherUID(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(422)
	_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Pod \"web\" is invalid: metadata.uid: Invalid value: \"u-1\": field is immutable","reason":"Invalid","details":{"name":"web","kind":"Pod","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: \"u-1\": field is immutable","field":"metadata.uid"}]},"code":422}`)
}

// An event is sent once, whatever becomes of it, and never for longer than its
// bound; without a server too.
func TestEventsOfAProcessOfOneRequest(t *testing.T) {
	pod := &conf.Pod{Namespace: "shop", Name: "web", UID: "u-1"}
	for name, answer := range map[string]http.HandlerFunc{
		"201": object(`{"kind":"Event","apiVersion":"v1","metadata":{"name":"web.x"}}`), "403": status(403, "Forbidden"), "404": status(404, "NotFound"), "429": status(429, "TooManyRequests", "Retry-After", "1"),
		"500": status(500, "InternalError"), "hangs": hang, "hangs up": hangUp, "truncated": truncated,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandIn(t)
			s.on("POST "+eventsPath, answer)
			ctx := within(t)
			cluster(t, s.URL).Event(pod, true, "NetworksFailed", "ADD: no")
			if ctx.Err() != nil {
				t.Error("it takes too long")
			}
			sent := s.requests("POST " + eventsPath)
			if len(sent) == 0 {
				t.Fatal("none was sent")
			}
			for _, want := range []string{`"uid":"u-1"`, `"reason":"NetworksFailed"`, `"message":"ADD: no"`, `"type":"Warning"`, `"kind":"Pod"`, `"component":"plexus"`} {
				if !strings.Contains(sent[0].body, want) {
					t.Errorf("no %s in %s", want, sent[0].body)
				}
			}
		})
	}
	gone := newStandIn(t)
	gone.Close()
	cluster(t, gone.URL).Event(pod, false, "r", "m")
	(&kube.Cluster{Kubeconfig: "/none", Log: cluster(t, gone.URL).Log}).Event(pod, false, "r", "m")
	cluster(t, gone.URL).Event(nil, false, "r", "m")
}

// The agent's events go out in the background: a server that hangs delays
// nobody, a flood is dropped, and the end of the agent is not held up.
func TestEventsOfTheAgent(t *testing.T) {
	s := newStandIn(t)
	s.on("POST "+eventsPath, hang)
	api, err := kube.Connect(kubeconfig(t, s.URL))
	checkError(t, err)
	c := &kube.Cluster{API: api, Node: "n", Log: cluster(t, s.URL).Log}
	done := c.OpenEvents()
	ctx := within(t)
	for range 5000 {
		c.Event(&conf.Pod{Namespace: "shop", Name: "web", UID: "u-1"}, false, "NetworksAttached", "eth0")
	}
	done()
	if ctx.Err() != nil {
		t.Error("it takes too long")
	}
}

// Who may read: TokenReview says who, SubjectAccessReview whether. Whatever fails
// of it lets nobody in.
func TestAllowed(t *testing.T) {
	const who, may = "POST /apis/authentication.k8s.io/v1/tokenreviews", "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
	known := object(`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true,"user":{"username":"prom","uid":"u","groups":["g"],"extra":{"authentication.kubernetes.io/node-name":["n1"],"authentication.kubernetes.io/pod-name":["a","b"]}}}}`)
	yes := object(`{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`)
	for name, c := range map[string]struct {
		who, may http.HandlerFunc
		says     []string
		asked    int
		refused  bool
	}{
		"yes":             {known, yes, nil, 2, false},
		"unknown":         {object(`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":false,"error":"expired"}}`), yes, []string{"not known"}, 1, true},
		"no status":       {object(`{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1"}`), yes, []string{"not known"}, 1, true},
		"may not":         {known, object(`{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":false}}`), []string{"prom", "/metrics"}, 2, true},
		"nobody says":     {known, object(`{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1"}`), []string{"prom"}, 2, true},
		"403":             {status(403, "Forbidden"), yes, []string{"create tokenreviews"}, 1, false},
		"403, the second": {known, status(403, "Forbidden"), []string{"create subjectaccessreviews"}, 2, false},
		"500":             {status(500, "InternalError"), yes, []string{"does not answer"}, 1, false},
		"hangs":           {hang, yes, []string{"does not answer"}, 1, false},
		"garbage":         {object("x"), yes, []string{"does not answer"}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandIn(t)
			s.on(who, c.who)
			s.on(may, c.may)
			api, err := kube.Connect(kubeconfig(t, s.URL))
			checkError(t, err)
			err = api.Allowed(within(t), "the-token", "/metrics")
			checkError(t, err, c.says...)
			all := s.requests("POST ")
			if len(all) != c.asked || !strings.Contains(all[0].body, `"token":"the-token"`) {
				t.Errorf("%+v", all)
			}
			var refused *kube.RefusedError
			if is := errors.As(err, &refused); is != c.refused {
				t.Errorf("%v: a refusal: %v", err, is)
			}
			if want := `"extra":{"authentication.kubernetes.io/node-name":["n1"],"authentication.kubernetes.io/pod-name":["a","b"]}`; c.asked == 2 && !strings.Contains(all[1].body, want) {
				t.Errorf("%s is not in %s", want, all[1].body)
			}
			if c.asked == 2 && (!strings.Contains(all[1].body, `"uid":"u"`) || !strings.Contains(all[1].body, `"user":"prom"`) || !strings.Contains(all[1].body, `"groups":["g"]`) || !strings.Contains(all[1].body, `"path":"/metrics"`) || !strings.Contains(all[1].body, `"verb":"get"`)) {
				t.Errorf("%s", all[1].body)
			}
		})
	}
}

// A DaemonSet is there, gone, going, or nobody can tell.
func TestDaemonSet(t *testing.T) {
	const path = "GET /apis/apps/v1/namespaces/ns/daemonsets/plexus"
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		code     int
		deleting bool
		fails    bool
	}{
		"there": {object(`{"metadata":{"name":"plexus"}}`), 200, false, false}, "going": {object(`{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}`), 200, true, false},
		"gone": {status(404, "NotFound"), 404, false, true}, "forbidden": {status(403, "Forbidden"), 403, false, true}, "hangs up": {hangUp, 0, false, true}, "garbage": {object("x"), 200, false, true},
	} {
		s := newStandIn(t)
		s.on(path, c.answer)
		api, err := kube.Connect(kubeconfig(t, s.URL))
		checkError(t, err)
		code, deleting, err := api.DaemonSet(within(t), "ns", "plexus")
		if code != c.code || deleting != c.deleting || (err != nil) != c.fails {
			t.Errorf("%s: %d %v %v", name, code, deleting, err)
		}
	}
}

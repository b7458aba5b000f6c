package kube_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

var (
	web   = &conf.Pod{Namespace: "shop", Name: "web", UID: "u1"}
	plain = &conf.Pod{Namespace: "default", Name: "web"}
)

func publish(t *testing.T, m *kube.Manifests, pod *conf.Pod, sandbox, value string) {
	t.Helper()
	checkError(t, m.Publish(context.Background(), pod, sandbox, map[string]string{conf.NetworkStatusAnnotation: value}))
}

func TestStatusPlace(t *testing.T) {
	m := &kube.Manifests{Dir: "/m"}
	checkEqual(t, m.StatusPlace(plain), "/m/web.status.json")
	checkEqual(t, m.StatusPlace(web), "/m/shop_web.status.json")
	checkEqual(t, m.StatusPlace(nil), "")
	checkEqual(t, (&kube.Manifests{}).StatusPlace(web), "")
}

func TestPublishWritesThePodsAnnotations(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t)}
	publish(t, m, web, "c1", `[{"name": "x"}]`)
	got, err := os.ReadFile(m.StatusPlace(web))
	checkError(t, err)
	want, err := os.ReadFile(filepath.Join("testdata", "shop_web.status.json"))
	checkError(t, err)
	checkEqual(t, string(got), string(want))
	checkEqual(t, contents(t, m.Dir), []string{"shop_web.status.json"})
}

func TestPublishReplacesTheFileInOneStep(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t)}
	publish(t, m, web, "c1", "old")
	reader, err := os.Open(m.StatusPlace(web))
	checkError(t, err)
	defer reader.Close()
	before, err := reader.Stat()
	checkError(t, err)

	publish(t, m, web, "c2", "new")
	after, err := os.Stat(m.StatusPlace(web))
	checkError(t, err)
	if os.SameFile(before, after) {
		t.Error("the file was written in place: a reader can see half of it")
	}
	checkEqual(t, contents(t, m.Dir), []string{"shop_web.status.json"})
}

func TestAFailedPublishLeavesNothing(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t)}
	if err := os.MkdirAll(filepath.Join(m.StatusPlace(web), "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	checkError(t, m.Publish(context.Background(), web, "c1", nil), "shop_web.status.json")
	checkEqual(t, contents(t, m.Dir), []string{"shop_web.status.json"})
}

func TestPublishWithoutAPlaceDoesNothing(t *testing.T) {
	checkError(t, (&kube.Manifests{}).Publish(context.Background(), web, "c1", nil))
	checkError(t, (&kube.Manifests{Dir: "/does/not/exist"}).Publish(context.Background(), nil, "c1", nil))
}

func TestAStatusIsNoManifest(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t)}
	publish(t, m, web, "c1", "x")
	_, err := m.Pod(context.Background(), "shop", "web", "")
	checkError(t, err, "no manifest")
}

func TestRetract(t *testing.T) {
	ctx := context.Background()
	t.Run("removes what the sandbox published", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t)}
		publish(t, m, web, "c1", "x")
		publish(t, m, plain, "c2", "x")
		checkError(t, m.Retract(ctx, m.StatusPlace(web), "c1"))
		checkEqual(t, contents(t, m.Dir), []string{"web.status.json"})
	})
	t.Run("keeps the file of the pod's next sandbox", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t)}
		publish(t, m, web, "c1", "x")
		publish(t, m, web, "c2", "x")
		checkError(t, m.Retract(ctx, m.StatusPlace(web), "c1"))
		checkEqual(t, contents(t, m.Dir), []string{"shop_web.status.json"})
	})
	t.Run("may be said twice", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t)}
		publish(t, m, web, "c1", "x")
		checkError(t, m.Retract(ctx, m.StatusPlace(web), "c1"))
		checkError(t, m.Retract(ctx, m.StatusPlace(web), "c1"))
	})
	t.Run("of a folder that is gone is done", func(t *testing.T) {
		checkError(t, (&kube.Manifests{}).Retract(ctx, "/does/not/exist/web.status.json", "c1"))
	})
	t.Run("of no place is done", func(t *testing.T) {
		checkError(t, (&kube.Manifests{}).Retract(ctx, "", "c1"))
	})
	t.Run("keeps a file that somebody else wrote", func(t *testing.T) {
		m := &kube.Manifests{Dir: folder(t, "web.status.json", "mine", "shop_web.status.json", "{}")}
		checkError(t, m.Retract(ctx, m.StatusPlace(plain), "c1"))
		checkError(t, m.Retract(ctx, m.StatusPlace(web), "c1"))
		checkEqual(t, contents(t, m.Dir), []string{"shop_web.status.json", "web.status.json"})
	})
	t.Run("removes what a Publish that was cut off left behind", func(t *testing.T) {
		sandbox := strings.Repeat("c", 64)
		m := &kube.Manifests{Dir: folder(t, "."+sandbox+".status.new", "{")}
		checkError(t, m.Retract(ctx, m.StatusPlace(web), sandbox))
		checkEqual(t, contents(t, m.Dir), []string{})
	})
}

func TestThePodWithTheLongestNameHasAStatus(t *testing.T) { // a file name has at most 255 bytes
	m := &kube.Manifests{Dir: folder(t)}
	pod := &conf.Pod{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253)}
	publish(t, m, pod, "c1", "x")
	other := &conf.Pod{Namespace: pod.Namespace, Name: pod.Name[:252] + "q"}
	publish(t, m, other, "c2", "x")
	checkEqual(t, len(contents(t, m.Dir)), 2)
}

package kube_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

func TestParseManifestsFindsPodsAndNetworks(t *testing.T) {
	const none = ""
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", none},
		{"white space", "\n \n", none},
		{"comments alone", "# nothing\n# here\n", none},
		{"separators alone", "---\n---\n---\n", none},
		{"one document", podWeb, "pod shop/web"},
		{"several documents", podWeb + "---\n" + nadFast + "---\n" + nadBare, "pod shop/web, network shop/fast, network shop/bare"},
		{"separators before and behind", "---\n" + podWeb + "---\n", "pod shop/web"},
		{"documents of comments between", "# a licence\n---\n" + podWeb + "---\n# the network\n---\n" + nadFast + "---\n\n---\n# the end\n", "pod shop/web, network shop/fast"},
		{"a comment behind the separator", "--- # first\n" + podWeb + "--- # second\n" + nadFast, "pod shop/web, network shop/fast"},
		{"line ends of Windows", strings.ReplaceAll(podWeb+"---\n"+nadFast, "\n", "\r\n"), "pod shop/web, network shop/fast"},
		{"an end marker", podWeb + "...\n---\n" + nadFast + "...\n", "pod shop/web, network shop/fast"},
		{"no line break at the end", strings.TrimSpace(podWeb), "pod shop/web"},
		{"JSON", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}}`, "pod default/web"},
		{"JSON on several lines", "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Pod\",\n  \"metadata\": {\"name\": \"web\"}\n}\n", "pod default/web"},
		{"JSON that is indented with tabs", "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\n\t\t\"name\": \"web\"\n\t}\n}\n", "pod default/web"},
		{"a List", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: b}}\n", "pod default/a, network default/b"},
		{"an empty List", "{apiVersion: v1, kind: List, items: []}", none},
		{"a List within a List is left out", "{kind: List, items: [{kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}]}", none},
		{"no namespace is default", "{apiVersion: v1, kind: Pod, metadata: {name: web}}", "pod default/web"},
		{"other kinds are left out", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {}}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}", none},
		{"a Pod of another API group is left out", "{apiVersion: example.com/v1, kind: Pod, metadata: {name: web}}", none},
		{"a network of another API group is left out", "{apiVersion: example.com/v1, kind: NetworkAttachmentDefinition, metadata: {name: web}}", none},
		{"null", "null", none},
		{"the same pod twice", podWeb + "---\n" + podWeb, "pod shop/web, pod shop/web"},
	} {
		t.Run(test.name, func(t *testing.T) {
			documents, err := kube.ParseManifests("pods.yaml", []byte(test.text))
			checkError(t, err)
			checkEqual(t, strings.Join(found(documents), ", "), test.want)
		})
	}
}

func TestADocumentKnowsItsPlace(t *testing.T) {
	documents, err := kube.ParseManifests("dir/pods.yaml", []byte("# comment\n---\n"+podWeb+"---\n"+nadFast))
	checkError(t, err)
	checkEqual(t, documents[0].String(), "dir/pods.yaml: document 1")
	checkEqual(t, documents[1].String(), "dir/pods.yaml: document 2")
}

func TestParseManifestsReadsAPod(t *testing.T) {
	documents, err := kube.ParseManifests("x", []byte(`
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  uid: 0d3bd2ac-9b6f-4b7e-8f3a-2a54c6a1f6a7
  labels: {app: web}
  annotations:
    k8s.v1.cni.cncf.io/networks: |
      [{"name": "fast"}]
spec:
  containers:
    - name: side
      volumeMounts: [{name: other, mountPath: /x}]
    - name: app
      volumeMounts: [{name: shared-dir, mountPath: /var/run/vhost}]
    - name: late
      volumeMounts: [{name: shared-dir, mountPath: /late}]
  volumes:
    - {name: shared-dir, hostPath: {path: /run/web, type: DirectoryOrCreate}}
    - {name: scratch, emptyDir: {medium: HugePages}}
    - {name: settings, configMap: {name: x}}
`))
	checkError(t, err)
	checkEqual(t, documents[0].Pod, &conf.Pod{
		Namespace:   "shop",
		Name:        "web",
		UID:         "0d3bd2ac-9b6f-4b7e-8f3a-2a54c6a1f6a7",
		Annotations: map[string]string{conf.NetworksAnnotation: "[{\"name\": \"fast\"}]\n"},
		Volumes:     []conf.Volume{{Name: "shared-dir", HostPath: "/run/web", Create: true, Mount: "/var/run/vhost"}, {Name: "scratch"}},
		Containers:  []string{"side", "app", "late"},
	})
}

func TestParseManifestsReadsANetwork(t *testing.T) {
	documents, err := kube.ParseManifests("x", []byte(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: fast
  namespace: lab
  annotations: {k8s.v1.cni.cncf.io/resourceName: example.com/vf}
spec:
  config: '{"type": "sriov"}'
`))
	checkError(t, err)
	checkEqual(t, documents[0].Network, &conf.Definition{
		Origin:       "NetworkAttachmentDefinition lab/fast",
		Name:         "lab/fast",
		Fallback:     "fast",
		Config:       []byte(`{"type": "sriov"}`),
		OfNode:       true,
		ResourceName: "example.com/vf",
	})
}

func TestABrokenDocumentHidesNoneOfTheOthers(t *testing.T) {
	for _, test := range []struct {
		name, document string
		says           []string
	}{
		{"broken YAML", broken, []string{"invalid YAML"}},
		{"a tab", "kind:\n\tx\n", []string{"invalid YAML"}},
		{"a key twice", "kind: Pod\nkind: Pod\n", []string{"invalid YAML", "kind"}},
		{"a list", "- a\n- b\n", []string{"no Kubernetes object"}},
		{"a plain text", "hello\n", []string{"no Kubernetes object"}},
		{"a Pod without a name", "{apiVersion: v1, kind: Pod, metadata: {}}\n", []string{"Pod", `"metadata"`, `name ""`}},
		{"a Pod with a path for a name", "{apiVersion: v1, kind: Pod, metadata: {name: ../x}}\n", []string{"Pod", `"../x"`}},
		{"a Pod with a path for a namespace", "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: ../x}}\n", []string{"Pod", `"../x"`}},
		{"a Pod with a number for a name", "{apiVersion: v1, kind: Pod, metadata: {name: 7}}\n", []string{"name", "number"}},
		{"a Pod with volumes that are no list", "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: {a: b}}}\n", []string{"Pod default/x", `"spec"`}},
		{"a Pod with an annotation that is no text", "{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {a: true}}}\n", []string{"annotations"}},
		{"a network with a bad name", "{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: a/b}}\n", []string{"NetworkAttachmentDefinition", `"a/b"`}},
		{"a network whose config is no text", "{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: a}, spec: {config: {type: x}}}\n",
			[]string{"NetworkAttachmentDefinition default/a", `"spec.config"`, "want a string"}},
		{"an item of a List", "{kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: ok}}, {apiVersion: v1, kind: Pod, metadata: {name: A}}]}\n", []string{"items[1]", `"A"`}},
		{"YAML that unfolds beyond measure", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n",
			[]string{"invalid YAML"}},
		{"YAML that nests beyond measure", strings.Repeat("[", 20000) + "\n", []string{"invalid YAML"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			documents, err := kube.ParseManifests("dir/pods.yaml", []byte(podWeb+"---\n"+test.document+"---\n"+nadFast))
			checkError(t, err, append(test.says, "dir/pods.yaml", "document 2")...)
			all := strings.Join(found(documents), ", ")
			if !strings.HasPrefix(all, "pod shop/web") || !strings.HasSuffix(all, "network shop/fast") {
				t.Errorf("found %s: a neighbour is missing", all)
			}
		})
	}
	t.Run("the good items of a List with a bad one", func(t *testing.T) {
		documents, err := kube.ParseManifests("x", []byte("{kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: A}}, {apiVersion: v1, kind: Pod, metadata: {name: ok}}]}"))
		checkError(t, err, "items[0]")
		checkEqual(t, found(documents), []string{"pod default/ok"})
	})
	t.Run("two broken ones are both named", func(t *testing.T) {
		_, err := kube.ParseManifests("x", []byte(broken+"---\n"+podWeb+"---\n"+broken))
		checkError(t, err, "document 1", "document 3")
	})
}

func TestAGiantFileIsRefused(t *testing.T) {
	_, err := kube.ParseManifests("x.yaml", []byte(strings.Repeat("# x\n", 1<<20+1)))
	checkError(t, err, "x.yaml", "at most")
}

func TestPod(t *testing.T) {
	const withUID = "{apiVersion: v1, kind: Pod, metadata: {name: live, namespace: shop, uid: u1}}"
	dir := folder(t, "a.yaml", podWeb, "b.yml", withUID, "c.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}}`)
	for _, test := range []struct {
		name, namespace, pod, uid string
		wantUID                   string
		says                      []string
	}{
		{"by name", "shop", "web", "", "", nil},
		{"the same name in another namespace is another pod", "default", "web", "", "", nil},
		{"a manifest without UID takes the request's", "shop", "web", "u9", "u9", nil},
		{"a request without UID takes the manifest's", "shop", "live", "", "u1", nil},
		{"the same UID", "shop", "live", "u1", "u1", nil},
		{"another UID is another pod", "shop", "live", "u2", "", []string{"pod shop/live", dir}},
		{"no such pod", "shop", "nobody", "", "", []string{"pod shop/nobody", "no manifest", dir}},
		{"no such namespace", "lab", "web", "", "", []string{"pod lab/web"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &kube.Manifests{Dir: dir}
			pod, err := m.Pod(context.Background(), test.namespace, test.pod, test.uid)
			checkError(t, err, test.says...)
			if test.says == nil {
				checkEqual(t, pod, &conf.Pod{Namespace: test.namespace, Name: test.pod, UID: test.wantUID})
			}
		})
	}
}

func TestPodWithoutAFolderOfManifests(t *testing.T) {
	t.Run("there are no pods at all", func(t *testing.T) {
		pod, err := (&kube.Manifests{}).Pod(context.Background(), "shop", "web", "")
		checkError(t, err)
		if pod != nil {
			t.Errorf("found %v", pod)
		}
	})
	t.Run("a folder that is not there is an error", func(t *testing.T) {
		_, err := (&kube.Manifests{Dir: "/does/not/exist"}).Pod(context.Background(), "shop", "web", "")
		checkError(t, err, "pod shop/web", "/does/not/exist")
	})
}

func TestWhichFilesAreManifests(t *testing.T) {
	dir := folder(t, "a.txt", podWeb, "a.yaml~", podWeb, ".hidden.yaml", podWeb, "web.status.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}}`, "noext", podWeb)
	_, err := (&kube.Manifests{Dir: dir}).Pod(context.Background(), "shop", "web", "")
	checkError(t, err, "pod shop/web is in no manifest")
}

func TestABrokenNeighbourHidesNoPod(t *testing.T) {
	dir := folder(t, "a.yaml", broken, "b.yaml", podWeb)
	if err := os.Mkdir(filepath.Join(dir, "a.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "aa.yaml")); err != nil {
		t.Fatal(err)
	}
	m := &kube.Manifests{Dir: dir}
	pod, err := m.Pod(context.Background(), "shop", "web", "")
	checkError(t, err)
	checkEqual(t, pod.String(), "shop/web")
	t.Run("yet it is named when the pod is in none, for it may be in there", func(t *testing.T) {
		_, err := m.Pod(context.Background(), "shop", "nobody", "")
		checkError(t, err, "pod shop/nobody", filepath.Join(dir, "a.yaml"), "document 1", "invalid YAML")
	})
}

func TestTheExamplesAreGoodManifests(t *testing.T) {
	var all []string
	err := filepath.WalkDir("../examples", func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		documents, err := kube.ParseManifests(path, data)
		all = append(all, found(documents)...)
		return err
	})
	checkError(t, err)
	if len(all) == 0 {
		t.Error("the examples have neither pods nor networks")
	}
}

func TestAVolumeWithoutASourceIsAnEmptyDir(t *testing.T) { // as the API server fills it in
	for _, volume := range []string{"{name: scratch}", "{name: scratch, emptyDir: null}"} {
		t.Run(volume, func(t *testing.T) {
			documents, err := kube.ParseManifests("x", []byte("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {volumes: ["+volume+"]}}"))
			checkError(t, err)
			checkEqual(t, documents[0].Pod.Volumes, []conf.Volume{{Name: "scratch"}})
		})
	}
}

func TestAPodOfAnotherUIDIsSaidToBeOne(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: web, uid: u1}}")}
	_, err := m.Pod(context.Background(), "default", "web", "u2")
	checkError(t, err, "default/web", "u1", "u2")
}

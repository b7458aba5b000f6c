// Package render proves that the Helm chart and the kustomization are one
// deployment, and that it says what deploy/README.md says. It is a module of
// its own: what it renders with is no dependency of plexus.
package render

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// objects are Kubernetes objects by kind and name.
type objects map[string]map[string]any

// add reads YAML documents.
func (o objects) add(t *testing.T, text string) {
	t.Helper()
	for _, document := range strings.Split("\n"+text, "\n---") {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(document), &v); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if v == nil {
			continue
		}
		meta, _ := v["metadata"].(map[string]any)
		key := fmt.Sprintf("%v %v", v["kind"], meta["name"])
		if o[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		o[key] = v
	}
}

// into reads an object as the API server would, unknown keys are errors.
func into[T any](t *testing.T, o objects, key string) *T {
	t.Helper()
	data, err := yaml.Marshal(o[key])
	if err != nil {
		t.Fatal(err)
	}
	v := new(T)
	if err := yaml.UnmarshalStrict(data, v); err != nil {
		t.Errorf("%s: %v", key, err)
	}
	return v
}

func kustomize(t *testing.T, dir string) objects {
	t.Helper()
	found, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := found.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	o := objects{}
	o.add(t, string(text))
	return o
}

// helm renders the chart; values is YAML.
func helm(t *testing.T, values string) (objects, error) {
	t.Helper()
	c, err := loader.Load("../helm/plexus")
	if err != nil {
		t.Fatal(err)
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: "any", Namespace: "plexus-system", IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		return nil, err
	}
	o := objects{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			if !strings.Contains(files[name], "rollout status daemonset/plexus") {
				t.Errorf("notes:\n%s", files[name])
			}
			continue
		}
		o.add(t, files[name])
	}
	for _, crd := range c.CRDObjects() {
		o.add(t, string(crd.File.Data))
	}
	return o, nil
}

func mustHelm(t *testing.T, values string) objects {
	t.Helper()
	o, err := helm(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// template is the pod template of a DaemonSet.
func template(t *testing.T, o objects) map[string]any {
	t.Helper()
	spec, _ := o["DaemonSet plexus"]["spec"].(map[string]any)
	pod, ok := spec["template"].(map[string]any)
	if !ok {
		t.Fatalf("no pod template in %v", o["DaemonSet plexus"])
	}
	return pod
}

// The two differ in what each tool has its own way for: the namespace, which is
// Helm's user's, and how a change of the settings becomes a rollout.
func TestHelmIsKustomize(t *testing.T) {
	chart, custom := mustHelm(t, ""), kustomize(t, "../kustomize")
	if custom["Namespace plexus-system"] == nil {
		t.Error("kustomize has no Namespace")
	}
	delete(custom, "Namespace plexus-system")
	meta := template(t, chart)["metadata"].(map[string]any)
	if annotations, _ := meta["annotations"].(map[string]any); len(annotations) != 1 {
		t.Errorf("annotations %v", annotations)
	}
	delete(meta, "annotations")
	if len(chart) != 8 {
		t.Errorf("%d objects: %v", len(chart), slices.Sorted(maps.Keys(chart)))
	}
	if diff := cmp.Diff(custom, chart); diff != "" {
		t.Errorf("kustomize (-), helm (+):\n%s", diff)
	}
}

// Deleting the base must not delete every network of the cluster.
func TestBaseHasNoDefinition(t *testing.T) {
	for key := range kustomize(t, "../kustomize/base") {
		if strings.HasPrefix(key, "CustomResourceDefinition") {
			t.Errorf("base has %s", key)
		}
	}
}

// The API server knows every key.
func TestObjectsAreKnown(t *testing.T) {
	o := kustomize(t, "../kustomize")
	into[corev1.Namespace](t, o, "Namespace plexus-system")
	into[corev1.ServiceAccount](t, o, "ServiceAccount plexus")
	into[corev1.ConfigMap](t, o, "ConfigMap plexus")
	into[rbacv1.ClusterRoleBinding](t, o, "ClusterRoleBinding plexus")
	into[rbacv1.RoleBinding](t, o, "RoleBinding plexus")
	into[apiextensionsv1.CustomResourceDefinition](t, o, "CustomResourceDefinition network-attachment-definitions.k8s.cni.cncf.io")
	into[appsv1.DaemonSet](t, o, "DaemonSet plexus")
}

// The rights are these and no others.
func TestRights(t *testing.T) {
	o := kustomize(t, "../kustomize")
	want := []string{
		" pods get,list,watch",
		" pods/status patch",
		" events create,patch",
		"k8s.cni.cncf.io network-attachment-definitions get,list,watch",
		"resource.k8s.io resourceclaims get",
		"resource.k8s.io resourceslices get,list,watch",
		"authentication.k8s.io tokenreviews create",
		"authorization.k8s.io subjectaccessreviews create",
	}
	if diff := cmp.Diff(want, rights(into[rbacv1.ClusterRole](t, o, "ClusterRole plexus").Rules)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"apps daemonsets get of plexus"}, rights(into[rbacv1.Role](t, o, "Role plexus").Rules)); diff != "" {
		t.Error(diff)
	}
}

func rights(rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, r := range rules {
		line := strings.Join(r.APIGroups, ",") + " " + strings.Join(r.Resources, ",") + " " + strings.Join(r.Verbs, ",")
		if len(r.ResourceNames) > 0 {
			line += " of " + strings.Join(r.ResourceNames, ",")
		}
		all = append(all, line)
	}
	return all
}

// What the agent may do on the node is what the documentation has a reason for.
func TestCapabilitiesAreDocumented(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	pod := into[appsv1.DaemonSet](t, kustomize(t, "../kustomize"), "DaemonSet plexus").Spec.Template.Spec
	c := pod.Containers[0]
	security := c.SecurityContext
	if security.Privileged != nil || !*security.ReadOnlyRootFilesystem || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%+v", security)
	}
	documented := len(regexp.MustCompile("(?m)^\\| `[A-Z_]+` \\|").FindAll(readme, -1))
	for _, name := range security.Capabilities.Add {
		if !strings.Contains(string(readme), "| `"+string(name)+"` |") {
			t.Errorf("README.md does not say what %s is for", name)
		}
	}
	if documented != len(security.Capabilities.Add) {
		t.Errorf("README.md has %d capabilities, the DaemonSet %d", documented, len(security.Capabilities.Add))
	}
	for _, m := range c.VolumeMounts {
		if !strings.Contains(string(readme), "| `"+m.MountPath+"` |") {
			t.Errorf("README.md does not say what %s is for", m.MountPath)
		}
	}
}

// Where kubectl plexus, and whoever reads metrics, look for the agents
// (cmd/plexusctl/kubectl.go).
func TestAgentsAreFound(t *testing.T) {
	template := into[appsv1.DaemonSet](t, kustomize(t, "../kustomize"), "DaemonSet plexus").Spec.Template
	want := map[string]string{"app.kubernetes.io/name": "plexus", "app.kubernetes.io/component": "agent"}
	if diff := cmp.Diff(want, template.Labels); diff != "" {
		t.Error(diff)
	}
	c := template.Spec.Containers[0]
	if c.Name != "agent" || c.VolumeMounts[0].MountPath != "/host" || c.ReadinessProbe.Exec.Command[0] != "/plexusctl" {
		t.Errorf("%+v", c)
	}
}

func TestHelmValues(t *testing.T) {
	o := mustHelm(t, `
image: {repository: example/plexus, tag: v7, pullSecrets: [{name: key}]}
settings: {logLevel: debug, defaultNetworks: ["a \"b\""]}
metrics: {address: ":9480"}
tolerations: []
nodeSelector: {fast: "true"}
maxUnavailable: 1
`)
	pod := into[appsv1.DaemonSet](t, o, "DaemonSet plexus").Spec
	c := pod.Template.Spec.Containers[0]
	if c.Image != "example/plexus:v7" || c.Command[len(c.Command)-1] != "--listen=:9480" || len(pod.Template.Spec.Tolerations) != 0 ||
		pod.Template.Spec.NodeSelector["fast"] != "true" || pod.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() != 1 || pod.Template.Spec.ImagePullSecrets[0].Name != "key" {
		t.Errorf("%+v", pod)
	}
	if got := into[corev1.ConfigMap](t, o, "ConfigMap plexus").Data["settings.json"]; got != `{"defaultNetworks":["a \"b\""],"logLevel":"debug"}` {
		t.Errorf("settings %s", got)
	}
	if cmp.Equal(template(t, o)["metadata"], template(t, mustHelm(t, ""))["metadata"]) {
		t.Error("other settings are no new version of the DaemonSet")
	}
}

func TestHelmValuesRefused(t *testing.T) {
	for _, values := range []string{
		"setings: {}", "settings: {type: multus}", "settings: {kubeconfig: /a}", "settings: []",
		"image: {tag: ''}", "image: {pullPolicy: Sometimes}", "metrics: {addr: ':1'}",
	} {
		if _, err := helm(t, values); err == nil {
			t.Errorf("%s is taken", values)
		}
	}
}

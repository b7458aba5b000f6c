package conf_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// request is a request and the networks that can be found: NADs by "ns/name",
// networks of confDir and files by name or path.
type request struct {
	conf     string
	pod      *conf.Pod
	networks map[string]string
	resource string // resourceName of every NAD
	ifName   string // eth0 when empty
	args     string
}

var errNotFound = errors.New("does not exist")

// plan goes the way of ADD: parse, want, look up, resolve.
func (r request) plan() (*conf.Plan, []string, error) {
	c, err := conf.Parse([]byte(r.conf))
	if err != nil {
		return nil, nil, err
	}
	args, err := conf.ParseArgs(r.args)
	if err != nil {
		return nil, nil, err
	}
	wanted, warnings, err := conf.References(c, r.pod)
	if err != nil {
		return nil, nil, err
	}
	definitions := make([]*conf.Definition, len(wanted))
	for i, w := range wanted {
		if definitions[i], err = r.find(w); err != nil {
			return nil, nil, err
		}
	}
	ifName := r.ifName
	if ifName == "" {
		ifName = "eth0"
	}
	p, err := conf.Resolve(c, wanted, definitions, ifName, args)
	return p, warnings, err
}

func (r request) find(w conf.Reference) (*conf.Definition, error) {
	name := w.Namespace + "/" + w.Name
	if config, ok := r.networks[name]; ok {
		return &conf.Definition{Origin: "NetworkAttachmentDefinition " + name, Name: name, Fallback: w.Name, Config: []byte(config), ResourceName: r.resource}, nil
	}
	if config, ok := r.networks[w.Name]; ok && w.AnyForm {
		return &conf.Definition{Origin: "file " + w.Name, Fallback: "file", Config: []byte(config)}, nil
	}
	return nil, fmt.Errorf("%s: %w", name, errNotFound)
}

func (r request) mustPlan(t *testing.T) *conf.Plan {
	t.Helper()
	p, _, err := r.plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// attachments says what a plan attaches: "eth0=cluster*", the star at the
// cluster network.
func attachments(p *conf.Plan) string {
	var all []string
	for _, n := range p.Networks {
		text := n.IfName + "=" + n.Name
		if n.Default {
			text += "*"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// podOf is the pod shop/web with annotations, key, value, ...
func podOf(annotations ...string) *conf.Pod {
	p := &conf.Pod{Namespace: "shop", Name: "web", UID: "u1", Annotations: map[string]string{}}
	for i := 0; i < len(annotations); i += 2 {
		p.Annotations[annotations[i]] = annotations[i+1]
	}
	return p
}

func podWith(networks string) *conf.Pod { return podOf(conf.NetworksAnnotation, networks) }

// anyNAD is a NAD that takes every capability argument.
const anyNAD = `{"cniVersion": "1.0.0", "type": "macvlan", "capabilities": {"ips": true, "mac": true, "infinibandGUID": true, "portMappings": true, "bandwidth": true}}`

func nads(names ...string) map[string]string {
	m := map[string]string{}
	for _, name := range names {
		m[name] = anyNAD
	}
	return m
}

func TestPlansOfTheClusterNetwork(t *testing.T) {
	const head = `{"name": "node", "type": "plexus", `
	for _, test := range []struct {
		name string
		request
		want string
	}{
		{"the first delegate is the cluster network, others come after it",
			request{conf: head + `"delegates": [{"type": "a", "name": "one"}, {"type": "b", "name": "two"}, {"type": "c", "name": "three"}]}`},
			"eth0=one* net1=two net2=three"},
		{"masterplugin in the middle moves that one to the front",
			request{conf: head + `"delegates": [{"type": "a", "name": "one"}, {"type": "b", "name": "two", "masterplugin": true}, {"type": "c", "name": "three"}]}`},
			"eth0=two* net1=one net2=three"},
		{"masterplugin on the first one changes nothing",
			request{conf: head + `"delegates": [{"type": "a", "name": "one", "masterplugin": true}, {"type": "b", "name": "two"}]}`},
			"eth0=one* net1=two"},
		{"a delegate that is a list",
			request{conf: head + `"delegates": [{"name": "one", "plugins": [{"type": "a"}, {"type": "b"}]}]}`},
			"eth0=one*"},
		{"a delegate without a name has one of its own",
			request{conf: head + `"delegates": [{"type": "a"}, {"type": "b"}]}`},
			"eth0=node-0* net1=node-1"},
		{"the name of the interface is the runtime's",
			request{conf: head + `"delegates": [{"type": "a", "name": "one"}]}`, ifName: "pod0"},
			"pod0=one*"},
		{"clusterNetwork is a NAD of multusNamespace",
			request{conf: head + `"clusterNetwork": "calico", "multusNamespace": "network"}`, networks: nads("network/calico")},
			"eth0=network/calico*"},
		{"clusterNetwork is a file",
			request{conf: head + `"clusterNetwork": "/etc/cni/calico.conf"}`, networks: map[string]string{"/etc/cni/calico.conf": `{"name": "k8s-pod-network", "type": "calico"}`}},
			"eth0=k8s-pod-network*"},
		{"delegates are left out beside clusterNetwork",
			request{conf: head + `"clusterNetwork": "calico", "delegates": [{"type": "a", "name": "one"}]}`, networks: nads("kube-system/calico")},
			"eth0=kube-system/calico*"},
		{"defaultNetworks come after the cluster network, before the pod's own",
			request{conf: head + `"clusterNetwork": "calico", "defaultNetworks": ["sidecar", "storage"]}`, pod: podWith("fast"),
				networks: nads("kube-system/calico", "kube-system/sidecar", "kube-system/storage", "shop/fast")},
			"eth0=kube-system/calico* net1=kube-system/sidecar net2=kube-system/storage net3=shop/fast"},
		{"defaultNetworks come after delegates",
			request{conf: head + `"delegates": [{"type": "a", "name": "one"}, {"type": "b", "name": "two"}], "defaultNetworks": ["sidecar"]}`, pod: podWith("fast"),
				networks: nads("kube-system/sidecar", "shop/fast")},
			"eth0=one* net1=two net2=kube-system/sidecar net3=shop/fast"},
		{"pods of systemNamespaces have no defaultNetworks, yet their own",
			request{conf: head + `"clusterNetwork": "calico", "defaultNetworks": ["sidecar"], "systemNamespaces": ["admin", "shop"]}`, pod: podWith("fast"),
				networks: nads("kube-system/calico", "kube-system/sidecar", "shop/fast")},
			"eth0=kube-system/calico* net1=shop/fast"},
		{"a request without a pod has the networks of the configuration",
			request{conf: head + `"clusterNetwork": "calico", "defaultNetworks": ["sidecar"]}`, networks: nads("kube-system/calico", "kube-system/sidecar")},
			"eth0=kube-system/calico* net1=kube-system/sidecar"},
		{"the pod's default-network replaces clusterNetwork",
			request{conf: head + `"clusterNetwork": "calico", "defaultNetworks": ["sidecar"]}`, pod: podOf(conf.DefaultNetworkAnnotation, "macvlan"),
				networks: nads("kube-system/calico", "kube-system/sidecar", "kube-system/macvlan")},
			"eth0=kube-system/macvlan* net1=kube-system/sidecar"},
		{"the pod's default-network replaces the first delegate alone",
			request{conf: head + `"delegates": [{"type": "a", "name": "one"}, {"type": "b", "name": "two"}]}`,
				pod: podOf(conf.DefaultNetworkAnnotation, "kube-system/macvlan", conf.NetworksAnnotation, "fast"), networks: nads("kube-system/macvlan", "shop/fast")},
			"eth0=kube-system/macvlan* net1=two net2=shop/fast"},
		{"the pod's default-network replaces the masterplugin wherever it is",
			request{conf: head + `"delegates": [{"type": "a", "name": "one"}, {"type": "b", "name": "two", "masterplugin": true}]}`,
				pod: podOf(conf.DefaultNetworkAnnotation, "macvlan"), networks: nads("kube-system/macvlan")},
			"eth0=kube-system/macvlan* net1=one"},
		{"default-network may be JSON and may repeat the interface name",
			request{conf: head + `"clusterNetwork": "calico"}`, pod: podOf(conf.DefaultNetworkAnnotation, `[{"name": "macvlan", "interface": "eth0"}]`),
				networks: nads("kube-system/macvlan")},
			"eth0=kube-system/macvlan*"},
		{"an empty default-network is none",
			request{conf: head + `"clusterNetwork": "calico"}`, pod: podOf(conf.DefaultNetworkAnnotation, ""), networks: nads("kube-system/calico")},
			"eth0=kube-system/calico*"},
	} {
		t.Run(test.name, func(t *testing.T) { checkEqual(t, attachments(test.mustPlan(t)), test.want) })
	}
}

func TestPlansOfThePodsNetworks(t *testing.T) {
	for _, test := range []struct {
		name, networks string
		nads           []string
		want           string
	}{
		{"none", "", nil, "eth0=cluster*"},
		{"net1, net2, ... by position", "a,b,lab/c", []string{"shop/a", "shop/b", "lab/c"}, "eth0=cluster* net1=shop/a net2=shop/b net3=lab/c"},
		{"an explicit name leaves the numbers of the others", "a,b@data,c", []string{"shop/a", "shop/b", "shop/c"}, "eth0=cluster* net1=shop/a data=shop/b net3=shop/c"},
		{"one network twice", "a,a", []string{"shop/a"}, "eth0=cluster* net1=shop/a net2=shop/a"},
		{"an explicit name out of its turn that nobody else has", "a@net7,b", []string{"shop/a", "shop/b"}, "eth0=cluster* net7=shop/a net2=shop/b"},
		{"two explicit names that change places", "a@net2,b@net1", []string{"shop/a", "shop/b"}, "eth0=cluster* net2=shop/a net1=shop/b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request{conf: settings(""), pod: podWith(test.networks), networks: nads(test.nads...)}
			checkEqual(t, attachments(r.mustPlan(t)), test.want)
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	withNAD := func(networks, config string) request {
		return request{conf: settings(""), pod: podWith(networks), networks: map[string]string{"shop/a": config, "shop/b": anyNAD}}
	}
	const pod = "pod shop/web: annotation "
	for _, test := range []struct {
		name string
		request
		says []string
	}{
		{"no cluster network at all", request{conf: `{"name": "node", "type": "plexus"}`}, []string{`"node"`, `"clusterNetwork"`, `"delegates"`}},
		{"two masterplugins", request{conf: `{"name": "node", "type": "plexus", "delegates": [{"type": "a", "masterplugin": true}, {"type": "b"}, {"type": "c", "masterplugin": true}]}`},
			[]string{"delegates[0]", "delegates[2]", `"masterplugin"`}},
		{"a masterplugin that is no flag", request{conf: `{"name": "node", "type": "plexus", "delegates": [{"type": "a", "masterplugin": "yes"}]}`},
			[]string{"delegates[0]", `"masterplugin"`, "true or false"}},
		{"a delegate without a type", request{conf: `{"name": "node", "type": "plexus", "delegates": [{"type": "a"}, {"name": "x"}]}`}, []string{"delegates[1]", `"type"`, "missing"}},
		{"plexus as a delegate", request{conf: `{"name": "node", "type": "plexus", "delegates": [{"type": "plexus"}]}`}, []string{"delegates[0]", "itself"}},
		{"a clusterNetwork that does not exist", request{conf: `{"name": "node", "type": "plexus", "clusterNetwork": "x"}`}, []string{"kube-system/x", "does not exist"}},

		{"a CNI_IFNAME of 16 bytes", request{conf: settings(""), ifName: strings.Repeat("i", 16)}, []string{"CNI_IFNAME", "15"}},
		{"a CNI_IFNAME with a path", request{conf: settings(""), ifName: "../x"}, []string{"CNI_IFNAME"}},

		{"a bad networks annotation", request{conf: settings(""), pod: podWith("../x")}, []string{pod + conf.NetworksAnnotation, `".."`}},
		{"an interface name of 16 bytes", withNAD("a@"+strings.Repeat("i", 16), anyNAD), []string{pod + conf.NetworksAnnotation, "network 1", `"interface"`, "15"}},
		{"an explicit name that is the cluster network's", withNAD("a@eth0", anyNAD), []string{"cluster", "shop/a", `"eth0"`}},
		{"one explicit name twice", withNAD("a@x,b@x", anyNAD), []string{"shop/a", "shop/b", `"x"`}},
		{"an explicit name that is another's by position", withNAD("a@net2,b", anyNAD), []string{"shop/a", "shop/b", `"net2"`}},
		{"a name by position that the runtime gave to the cluster network", request{conf: settings(""), pod: podWith("a"), networks: nads("shop/a"), ifName: "net1"},
			[]string{"cluster", "shop/a", `"net1"`}},

		{"a NAD that is no JSON", withNAD("a", "type: macvlan"), []string{"NetworkAttachmentDefinition shop/a", `"config"`, "invalid JSON"}},
		{"a NAD of type plexus", withNAD("a", `{"type": "plexus"}`), []string{"NetworkAttachmentDefinition shop/a", "itself"}},
		{"two bad NADs, both named", request{conf: settings(""), pod: podWith("a,b"), networks: map[string]string{"shop/a": "{}", "shop/b": "[]"}}, []string{"shop/a", "shop/b"}},

		{"a GUID where none is declared", withNAD(`[{"name": "a", "infiniband-guid": "02:00:00:00:00:00:00:01"}]`, `{"type": "x"}`), []string{"shop/a", "infinibandGUID"}},
		{"a port mapping where none is declared", withNAD(`[{"name": "a", "portMappings": [{"hostPort": 8080, "containerPort": 80}]}]`, `{"type": "x"}`), []string{"shop/a", "portMappings"}},
		{"a bandwidth where none is declared", withNAD(`[{"name": "a", "bandwidth": {"ingressRate": 1}}]`, `{"type": "x"}`), []string{"shop/a", "bandwidth"}},

		{"the default route on two networks", withNAD(`[{"name": "a", "default-route": ["10.0.0.1"]}, {"name": "b", "default-route": ["10.0.1.1"]}]`, anyNAD), []string{"shop/a", "shop/b", "default route"}},
		{"cni-args where args is no object", withNAD(`[{"name": "a", "cni-args": {"x": 1}}]`, `{"type": "x", "args": [1]}`), []string{"shop/a", `"args"`, "object"}},
		{"cni-args where args.cni is no object", withNAD(`[{"name": "a", "cni-args": {"x": 1}}]`, `{"type": "x", "args": {"cni": "x"}}`), []string{"shop/a", `"args.cni"`, "object"}},

		{"two default networks", request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, "a,b")}, []string{pod + conf.DefaultNetworkAnnotation, "2 networks", "one"}},
		{"with isolation, a default network of the pod's own namespace", request{conf: settings(`"namespaceIsolation": true`), pod: podOf(conf.DefaultNetworkAnnotation, "shop/a"), networks: nads("shop/a")},
			[]string{pod + conf.DefaultNetworkAnnotation, `"shop"`, `"kube-system"`, "multusNamespace"}},
		{"a default network that wants another interface name", request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, "a@data0"), networks: nads("kube-system/a")},
			[]string{"kube-system/a", `"data0"`, `"eth0"`}},
		{"a bad default network", request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, "../a")}, []string{pod + conf.DefaultNetworkAnnotation, `".."`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := test.plan()
			checkError(t, err, test.says...)
		})
	}
}

func TestNamespaceIsolation(t *testing.T) {
	const isolated = `"namespaceIsolation": true`
	networks := nads("shop/a", "lab/a", "default/a", "shared/a", "kube-system/a", "kube-system/side")
	for _, test := range []struct {
		name, keys, networks, refused string
	}{
		{"without it every namespace is open", "", "a,lab/a,default/a", ""},
		{"globalNamespaces alone closes nothing", `"globalNamespaces": "shared"`, "lab/a", ""},
		{"the pod's own namespace is open", isolated, "a,shop/a", ""},
		{"another one is not", isolated, "a,lab/a", "lab"},
		{"the same in the JSON form", isolated, `[{"name": "a", "namespace": "lab"}]`, "lab"},
		{"namespace default is open when globalNamespaces is not given", isolated, "default/a", ""},
		{"multusNamespace is not open by itself", isolated, "kube-system/a", "kube-system"},
		{"those of globalNamespaces are open, white space or not", isolated + `, "globalNamespaces": "shared, lab"`, "a,shared/a,lab/a", ""},
		{"globalNamespaces takes the place of default", isolated + `, "globalNamespaces": "shared"`, "default/a", "default"},
		{"a part of a name is not the name", isolated + `, "globalNamespaces": "laboratory"`, "lab/a", "lab"},
		{"what the configuration itself attaches is not the pod's doing", isolated + `, "defaultNetworks": ["side"]`, "a", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := request{conf: settings(test.keys), pod: podWith(test.networks), networks: networks}.plan()
			if test.refused == "" {
				checkError(t, err)
				return
			}
			checkError(t, err, conf.NetworksAnnotation, fmt.Sprintf("%q", test.refused), `"shop"`, "namespaceIsolation")
		})
	}
	t.Run("without it the pod's default network may be of every namespace", func(t *testing.T) {
		for _, namespace := range []string{"shop", "lab"} {
			r := request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, namespace+"/a"), networks: networks}
			checkEqual(t, attachments(r.mustPlan(t)), "eth0="+namespace+"/a*")
		}
	})
	t.Run("with it not, whatever is open to the pod's other networks", func(t *testing.T) {
		for _, namespace := range []string{"shop", "lab", "default"} {
			_, _, err := request{conf: settings(isolated), pod: podOf(conf.DefaultNetworkAnnotation, namespace+"/a"), networks: networks}.plan()
			checkError(t, err, conf.DefaultNetworkAnnotation, fmt.Sprintf("%q", namespace), "namespaceIsolation", "multusNamespace")
		}
	})
	t.Run("the pod's default network is bound to multusNamespace", func(t *testing.T) {
		r := request{conf: settings(isolated), pod: podOf(conf.DefaultNetworkAnnotation, "a"), networks: networks}
		checkEqual(t, attachments(r.mustPlan(t)), "eth0=kube-system/a*")
	})
}

func TestWantSaysWhereToLook(t *testing.T) {
	c := parse(t, `{"name": "node", "type": "plexus", "clusterNetwork": "/etc/cni/net.d", "defaultNetworks": ["side"], "multusNamespace": "network"}`)
	wanted, _, err := conf.References(c, podWith("a,lab/b"))
	checkError(t, err)
	var got []string
	for _, w := range wanted {
		got = append(got, fmt.Sprintf("%s %s %v", w.Namespace, w.Name, w.AnyForm))
	}
	checkEqual(t, got, []string{"network /etc/cni/net.d true", "network side true", "shop a false", "lab b false"})
}

func TestAPodsAnnotationNeverReachesAFile(t *testing.T) {
	for _, key := range []string{conf.NetworksAnnotation, conf.DefaultNetworkAnnotation} {
		t.Run(key, func(t *testing.T) {
			r := request{conf: settings(""), pod: podOf(key, "secret"), networks: map[string]string{"secret": anyNAD}}
			if _, _, err := r.plan(); !errors.Is(err, errNotFound) {
				t.Errorf("got %v: a name from an annotation was looked up as a file", err)
			}
		})
	}
}

func TestWantHandsOnTheWarningsOfTheAnnotation(t *testing.T) {
	_, warnings, err := request{conf: settings(""), pod: podWith(`[{"name": "a", "vendorHint": 1}]`), networks: nads("shop/a")}.plan()
	checkError(t, err)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "pod shop/web") || !strings.Contains(warnings[0], "vendorHint") {
		t.Errorf("warnings %q, want one about vendorHint of pod shop/web", warnings)
	}
}

func TestEveryPluginOfTheListGetsCNIArgsAndDeviceID(t *testing.T) {
	p := request{conf: settings(""), resource: "x.com/vf", pod: podWith(`[{"name": "a", "deviceID": "0000:03:02.1", "cni-args": {"queues": 4, "x": {"y": null}}}]`),
		networks: map[string]string{"shop/a": `{"name": "a", "plugins": [{"type": "sriov"}, {"type": "tuning", "args": {"other": 1, "cni": {"queues": 1, "kept": true}}}]}`}}.mustPlan(t)
	n := p.Networks[1]
	checkJSON(t, n.List.Plugins[0], `{"type": "sriov", "deviceID": "0000:03:02.1", "pciBusID": "0000:03:02.1", "args": {"cni": {"queues": 4, "x": {"y": null}}}}`)
	checkJSON(t, n.List.Plugins[1], `{"type": "tuning", "deviceID": "0000:03:02.1", "pciBusID": "0000:03:02.1", "args": {"other": 1, "cni": {"queues": 4, "x": {"y": null}, "kept": true}}}`)
	checkEqual(t, n.CapabilityArgs, map[string]any{"deviceID": "0000:03:02.1"})
}

func TestAPluginIsLeftAsItIsWithoutArguments(t *testing.T) {
	const config = `{"type": "x", "args": {"cni": {"a": 1}}, "big": 12345678901234567890, "list": [1, 2.50, "<&>"]}`
	p := request{conf: settings(""), pod: podWith("a"), networks: map[string]string{"shop/a": config}}.mustPlan(t)
	checkJSON(t, p.Networks[1].List.Plugins[0], config)
	if !strings.Contains(string(p.Networks[1].List.Plugins[0]), "12345678901234567890") {
		t.Errorf("a large number lost digits: %s", p.Networks[1].List.Plugins[0])
	}
}

func TestOnePodsArgumentsDoNotReachAnotherAttachmentOfTheSameNetwork(t *testing.T) {
	shared := &conf.Definition{Origin: "NetworkAttachmentDefinition shop/a", Name: "shop/a", Fallback: "a", Config: []byte(anyNAD)}
	c := parse(t, settings(""))
	wanted, _, err := conf.References(c, podWith(`[{"name": "a", "cni-args": {"x": 1}}, {"name": "a"}]`))
	checkError(t, err)
	p, err := conf.Resolve(c, wanted, []*conf.Definition{shared, shared}, "eth0", nil)
	checkError(t, err)
	checkJSON(t, p.Networks[2].List.Plugins[0], anyNAD)
	checkEqual(t, string(shared.Config), anyNAD)
}

func TestCapabilityArguments(t *testing.T) {
	p := request{conf: settings(""), networks: nads("shop/a", "shop/b"), pod: podWith(`[{"name": "a", "ips": ["10.0.0.7/24"], "mac": "02:00:00:00:00:01",
		"infiniband-guid": "02:00:00:00:00:00:00:01", "portMappings": [{"hostPort": 8080, "containerPort": 80}], "bandwidth": {"ingressRate": 5}}, {"name": "b"}]`)}.mustPlan(t)
	checkJSON(t, asJSON(t, p.Networks[1].CapabilityArgs), `{"ips": ["10.0.0.7/24"], "mac": "02:00:00:00:00:01", "infinibandGUID": "02:00:00:00:00:00:00:01",
		"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}], "bandwidth": {"ingressRate": 5}}`)
	checkEqual(t, len(p.Networks[2].CapabilityArgs), 0)
}

func TestACapabilityOfAnyPluginOfTheListWillDo(t *testing.T) {
	p := request{conf: settings(""), pod: podWith(`[{"name": "a", "ips": ["10.0.0.7"], "mac": "02:00:00:00:00:01"}]`),
		networks: map[string]string{"shop/a": `{"plugins": [{"type": "x", "capabilities": {"ips": true}}, {"type": "y", "capabilities": {"mac": true, "ips": false}}]}`}}.mustPlan(t)
	checkEqual(t, len(p.Networks[1].CapabilityArgs), 2)
}

// mac and ips need no capability: CNI_ARGS of ADD have them too. engine.TestMACAndIPsThatAPodAsksFor
// has what becomes of those that no plugin takes.
func TestCNIArgsOfAdd(t *testing.T) {
	for _, test := range []struct{ keys, config, want string }{
		{`"mac": "02:00:00:00:00:01"`, `{"type": "x"}`, "K8S_A=1;MAC=02:00:00:00:00:01"},
		{`"mac": "02-AB-00-00-00-01"`, `{"type": "x", "capabilities": {"mac": true}}`, "K8S_A=1;MAC=02-AB-00-00-00-01"},
		{`"ips": ["10.0.0.7"]`, `{"type": "x", "capabilities": {"ips": false, "mac": true}}`, "K8S_A=1;IP=10.0.0.7"},
		{`"ips": ["10.0.0.7/24"]`, `{"type": "x", "capabilities": {"ips": true}}`, "K8S_A=1;IP=10.0.0.7/24"},
		{`"ips": ["10.0.0.7/24", "fd00::7"]`, `{"type": "x"}`, "K8S_A=1;IP=10.0.0.7/24,fd00::7"},
		{`"ips": ["10.0.0.7/24", "fd00::7"]`, `{"type": "x", "capabilities": {"ips": true}}`, "K8S_A=1"},
		{`"ips": [], "mac": ""`, `{"type": "x"}`, "K8S_A=1"},
	} {
		t.Run(test.keys, func(t *testing.T) {
			r := request{conf: settings(""), pod: podWith(`[{"name": "a", ` + test.keys + `}]`), networks: map[string]string{"shop/a": test.config}, args: "K8S_A=1"}
			n := r.mustPlan(t).Networks[1]
			checkEqual(t, n.AddArgs().String(), test.want)
			checkEqual(t, n.Args.String(), "K8S_A=1")
		})
	}
	t.Run("they take the place of the runtime's", func(t *testing.T) {
		r := request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, `[{"name": "a", "mac": "02:00:00:00:00:01", "ips": ["10.0.0.7"]}]`), networks: nads("kube-system/a"),
			args: "IP=10.0.0.9;K8S_A=1;MAC=02:00:00:00:00:09"}
		n := r.mustPlan(t).Networks[0]
		checkEqual(t, n.AddArgs().String(), "K8S_A=1;IP=10.0.0.7;MAC=02:00:00:00:00:01")
		checkEqual(t, n.Args.String(), "IP=10.0.0.9;K8S_A=1;MAC=02:00:00:00:00:09")
	})
}

func TestRuntimeConfigIsForNetworksThatDeclareIt(t *testing.T) {
	const keys = `"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}], "mac": "02:00:00:00:00:09", "ips": ["10.0.0.9"], "infinibandGUID": "x", "deviceID": "x",
		"ipRanges": [], "CNIDeviceInfoFile": "/x", "bandwidth": {"ingressRate": 1}}, "capabilities": {"portMappings": true}`
	const rest = `"mac": "02:00:00:00:00:09", "ips": ["10.0.0.9"], "infinibandGUID": "x", "deviceID": "x", "ipRanges": [], "CNIDeviceInfoFile": "/x"`
	p := request{conf: settings(keys), pod: podWith(`[{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "a", "bandwidth": {"egressRate": 2}}]`), networks: map[string]string{
		"shop/a": `{"type": "x", "capabilities": {"portMappings": true, "bandwidth": true, "mac": true, "ips": true, "infinibandGUID": true, "deviceID": true, "ipRanges": true, "CNIDeviceInfoFile": true}}`,
		"shop/b": `{"plugins": [{"type": "x"}, {"type": "y", "capabilities": {"portMappings": true, "bandwidth": false}}]}`, "shop/c": `{"type": "x"}`}}.mustPlan(t)
	const ports, traffic = `"portMappings": [{"hostPort": 8080, "containerPort": 80}]`, `"bandwidth": {"ingressRate": 1}`
	for i, want := range []string{
		`{` + rest + `, ` + ports + `, ` + traffic + `}`, // the cluster network gets all
		`{` + ports + `, ` + traffic + `}`,               // what is one interface's is the cluster network's
		`{` + ports + `}`,
		`{}`,
		`{` + ports + `, "bandwidth": {"egressRate": 2}}`, // the pod's own word comes before it
	} {
		checkJSON(t, asJSON(t, p.Networks[i].CapabilityArgs), want)
	}
	t.Run("the pod's own word on its cluster network comes before it", func(t *testing.T) {
		p := request{conf: settings(keys), pod: podOf(conf.DefaultNetworkAnnotation, `[{"name": "a", "mac": "02:00:00:00:00:01"}]`), networks: nads("kube-system/a")}.mustPlan(t)
		checkJSON(t, asJSON(t, p.Networks[0].CapabilityArgs["mac"]), `"02:00:00:00:00:01"`)
		checkJSON(t, asJSON(t, p.Networks[0].CapabilityArgs["portMappings"]), `[{"hostPort": 8080, "containerPort": 80}]`)
	})
}

func TestCNIArgsOfAPlan(t *testing.T) {
	p := request{conf: settings(""), pod: podWith("a"), networks: nads("shop/a"), args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IP=10.0.0.7;MAC=02:00:00:00:00:01;FOO=bar"}.mustPlan(t)
	t.Run("the cluster network gets all", func(t *testing.T) {
		checkEqual(t, p.Networks[0].Args.String(), "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IP=10.0.0.7;MAC=02:00:00:00:00:01;FOO=bar")
	})
	t.Run("others get who the pod is", func(t *testing.T) {
		checkEqual(t, p.Networks[1].Args.String(), "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")
	})
}

func TestDefaultRoute(t *testing.T) {
	p := request{conf: settings(""), pod: podWith(`[{"name": "a"}, {"name": "b", "default-route": ["10.0.0.1", "fd00::1"]}]`), networks: nads("shop/a", "shop/b")}.mustPlan(t)
	checkEqual(t, len(p.Networks[0].DefaultRoute)+len(p.Networks[1].DefaultRoute), 0)
	checkEqual(t, p.Networks[2].DefaultRoute, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")})
}

func TestResolveWantsOneDefinitionForEachNetwork(t *testing.T) {
	c := parse(t, settings(""))
	wanted, _, err := conf.References(c, podWith("a,b"))
	checkError(t, err)
	_, err = conf.Resolve(c, wanted, []*conf.Definition{nad(anyNAD)}, "eth0", nil)
	checkError(t, err, "2 networks named", "1 found")
}

// Old plugins know no newer version, and every result of this one lists interfaces.
func TestNetworksWithoutAVersionHaveAnOldOne(t *testing.T) {
	p := request{conf: settings(""), pod: podWith("a"), networks: map[string]string{"shop/a": `{"type": "x"}`}}.mustPlan(t)
	checkEqual(t, p.Networks[1].List.CNIVersion, "0.3.1")
	checkEqual(t, p.Networks[1].List.Name, "a")
}

func TestGoldenPlans(t *testing.T) {
	const args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
	for _, test := range []struct {
		golden string
		request
	}{
		{"plan-delegates", request{
			conf: `{"cniVersion": "1.1.0", "name": "node", "type": "multus", "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 8080}]},
				"delegates": [{"name": "side", "type": "bridge"}, {"cniVersion": "1.0.0", "name": "cluster", "masterplugin": true, "plugins": [{"type": "calico"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}]}`,
			pod: podWith("lab/fast@data0, slow"), args: args,
			networks: map[string]string{
				"lab/fast":  `{"cniVersion": "1.1.0", "type": "ovsdpdk", "bridge": "br-fast", "vlan": 7}`,
				"shop/slow": `{"name": "slow-net", "plugins": [{"type": "macvlan", "master": "eth1"}, {"type": "tuning"}]}`,
			},
		}},
		{"plan-every-selection-key", request{
			resource: "x.com/vf",
			conf:     `{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "clusterNetwork": "/etc/cni/calico.conflist", "defaultNetworks": ["side"]}`,
			pod: podWith(`[{"name": "a", "interface": "data0", "ips": ["10.0.0.7/24", "fd00::7"], "mac": "02:00:00:00:00:07", "infiniband-guid": "02:00:00:00:00:00:00:07",
				"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}], "bandwidth": {"ingressRate": 1, "ingressBurst": 2, "egressRate": 3, "egressBurst": 4},
				"deviceID": "0000:03:02.1", "cni-args": {"queues": 4}, "default-route": ["10.0.0.1"]}]`), args: args + ";IP=10.1.1.1",
			networks: map[string]string{
				"/etc/cni/calico.conflist": `{"cniVersion": "0.3.1", "name": "k8s-pod-network", "plugins": [{"type": "calico"}]}`,
				"kube-system/side":         `{"type": "bridge"}`,
				"shop/a":                   anyNAD,
			},
		}},
		{"plan-default-network", request{
			conf: `{"name": "node", "type": "plexus", "clusterNetwork": "calico", "multusNamespace": "network", "runtimeConfig": {"mac": "02:00:00:00:00:09"}}`,
			pod:  podOf(conf.DefaultNetworkAnnotation, `[{"name": "mv", "ips": ["10.0.0.9/24"], "default-route": ["10.0.0.1"]}]`, conf.NetworksAnnotation, "fast"), args: args,
			networks: map[string]string{"network/mv": anyNAD, "shop/fast": `{"type": "ovsdpdk"}`},
		}},
	} {
		t.Run(test.golden, func(t *testing.T) { checkGolden(t, test.golden, test.mustPlan(t)) })
	}
}

func TestTheExamplePodsHaveAPlan(t *testing.T) {
	networks := map[string]string{}
	for _, d := range exampleDocuments(t) {
		if d.Network != nil {
			networks[d.Network.Name] = string(d.Network.Config)
		}
	}
	pods := 0
	for _, d := range exampleDocuments(t) {
		if d.Pod == nil {
			continue
		}
		pods++
		t.Run(d.Pod.Name, func(t *testing.T) {
			p := request{conf: string(examples(t)["../examples/10-plexus.conf"]), pod: d.Pod, networks: networks}.mustPlan(t)
			if len(p.Networks) < 2 {
				t.Errorf("%s: an example pod wants no network beside the cluster's", attachments(p))
			}
		})
	}
	if pods == 0 {
		t.Error("no example pod was found")
	}
}

func TestStandalone(t *testing.T) {
	args := conf.Args{{"K8S_POD_NAME", "web"}, {"IP", "10.0.0.7"}}
	p, err := conf.Standalone([]byte(`{"cniVersion": "1.0.0", "name": "fast", "type": "ovsdpdk"}`), "eth1", args)
	checkError(t, err)
	checkEqual(t, attachments(p), "eth1=fast*")
	checkEqual(t, p.Networks[0].Args, args)
	for _, test := range []struct {
		name, text, ifName string
		says               []string
	}{
		{"no name", `{"type": "ovsdpdk"}`, "eth0", []string{"network configuration", `"name"`}},
		{"several plugins", `{"name": "n", "plugins": [{"type": "a"}, {"type": "b"}]}`, "eth0", []string{"2 plugins"}},
		{"a bad interface name", `{"name": "n", "type": "a"}`, "a/b", []string{"CNI_IFNAME"}},
		{"no JSON", `x`, "eth0", []string{"network configuration", "invalid JSON"}},
	} {
		t.Run("refuses "+test.name, func(t *testing.T) {
			_, err := conf.Standalone([]byte(test.text), test.ifName, nil)
			checkError(t, err, test.says...)
		})
	}
}

func TestADefaultNetworkWithoutAnyClusterNetworkIsNoPanic(t *testing.T) {
	r := request{conf: `{"name": "node", "type": "plexus"}`, pod: podOf(conf.DefaultNetworkAnnotation, "a"), networks: nads("kube-system/a")}
	p, _, err := r.plan()
	if err != nil {
		checkError(t, err, "clusterNetwork", "delegates")
		return
	}
	checkEqual(t, attachments(p), "eth0=kube-system/a*")
}

func TestAWarningOfTheDefaultNetworkAnnotationIsNotLost(t *testing.T) {
	_, warnings, err := request{conf: settings(""), pod: podOf(conf.DefaultNetworkAnnotation, `[{"name": "a", "vendorHint": 1}]`), networks: nads("kube-system/a")}.plan()
	checkError(t, err)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "vendorHint") {
		t.Errorf("warnings %q, want one about vendorHint", warnings)
	}
}

package conf_test

import (
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

func TestParseArgs(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       conf.Args
	}{
		{"nothing", "", nil},
		{"one", "IgnoreUnknown=1", conf.Args{{"IgnoreUnknown", "1"}}},
		{"several keep their order", "B=1;A=2", conf.Args{{"B", "1"}, {"A", "2"}}},
		{"an equals sign in the value", "A=b=c", conf.Args{{"A", "b=c"}}},
		{"an empty value", "A=", conf.Args{{"A", ""}}},
		{"a semicolon too many", ";A=1;;B=2;", conf.Args{{"A", "1"}, {"B", "2"}}},
		{"white space is part of the value", "A= 1 ", conf.Args{{"A", " 1 "}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := conf.ParseArgs(test.text)
			checkError(t, err)
			checkEqual(t, got, test.want)
		})
	}
	for _, text := range []string{"A", "A=1;B", "=1", " ", "A=1;=2"} {
		t.Run("refuses "+text, func(t *testing.T) {
			_, err := conf.ParseArgs(text)
			checkError(t, err, "CNI_ARGS", "KEY=VALUE")
		})
	}
}

func TestArgs(t *testing.T) {
	args, err := conf.ParseArgs("IgnoreUnknown=1;K8S_POD_NAME=old;IP=10.0.0.7;MAC=02:00:00:00:00:01;K8S_POD_NAME=web;GATEWAY=10.0.0.1")
	checkError(t, err)
	t.Run("the last value of a key counts", func(t *testing.T) { checkEqual(t, args.Get("K8S_POD_NAME"), "web") })
	t.Run("a key that is not there is empty", func(t *testing.T) { checkEqual(t, args.Get("K8S_POD_UID"), "") })
	t.Run("a key is matched with its case", func(t *testing.T) { checkEqual(t, args.Get("ip"), "") })
	t.Run("the pod's identity leaves out what asks something of the cluster network", func(t *testing.T) {
		checkEqual(t, args.PodIdentity().String(), "IgnoreUnknown=1;K8S_POD_NAME=old;K8S_POD_NAME=web")
	})
	t.Run("the text form can be parsed again", func(t *testing.T) {
		again, err := conf.ParseArgs(args.String())
		checkError(t, err)
		checkEqual(t, again, args)
	})
}

func TestHostDir(t *testing.T) {
	const uid = "0d3bd2ac-9b6f-4b7e-8f3a-2a54c6a1f6a7"
	volumes := []conf.Volume{{Name: "data"}, {Name: "shared-dir", HostPath: "/run/web"}}
	for _, test := range []struct {
		name, volume string
		pod          *conf.Pod
		want         string
	}{
		{"no pod", "shared-dir", nil, ""},
		{"no such volume", "shared-dir", &conf.Pod{UID: uid}, ""},
		{"a hostPath is where it says", "shared-dir", &conf.Pod{Volumes: volumes}, "/run/web"},
		{"an emptyDir is below the kubelet's folder", "data", &conf.Pod{UID: uid, Volumes: volumes},
			"/var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~empty-dir/data"},
		{"an emptyDir of a static pod, whose UID is a hash", "data", &conf.Pod{UID: "8c1f5f3d7a3f5d4c", Volumes: volumes},
			"/var/lib/kubelet/pods/8c1f5f3d7a3f5d4c/volumes/kubernetes.io~empty-dir/data"},
		{"an emptyDir of a pod without UID cannot be found", "data", &conf.Pod{Volumes: volumes}, ""},
		{"a UID that is a path leads nowhere", "data", &conf.Pod{UID: "../../etc", Volumes: volumes}, ""},
		{"a UID that is a dot leads nowhere", "data", &conf.Pod{UID: "..", Volumes: volumes}, ""},
		{"a UID with a line break leads nowhere", "data", &conf.Pod{UID: uid + "\n", Volumes: volumes}, ""},
	} {
		t.Run(test.name, func(t *testing.T) { checkEqual(t, test.pod.HostDir(test.volume), test.want) })
	}
}

func TestIsEmptyDir(t *testing.T) {
	pod := &conf.Pod{Volumes: []conf.Volume{{Name: "data"}, {Name: "shared-dir", HostPath: "/run/web"}}}
	checkEqual(t, pod.IsEmptyDir("data"), true)
	checkEqual(t, pod.IsEmptyDir("shared-dir"), false)
	checkEqual(t, pod.IsEmptyDir("none"), false)
	checkEqual(t, (*conf.Pod)(nil).IsEmptyDir("data"), false)
}

// Sockets are told to a pod by the path that one of its containers has for them.
func TestSeen(t *testing.T) {
	const uid = "0d3bd2ac-9b6f-4b7e-8f3a-2a54c6a1f6a7"
	empty := "/var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~empty-dir/shared-dir"
	mounted := func(all ...conf.Volume) *conf.Pod { return &conf.Pod{UID: uid, Volumes: all} }
	for _, test := range []struct {
		name, host string
		pod        *conf.Pod
		want       string
	}{
		{"no pod", "/run/a/s", nil, ""},
		{"no volume", "/run/a/s", mounted(), ""},
		{"an emptyDir", empty + "/net1.sock", mounted(conf.Volume{Name: "shared-dir", Mount: "/var/run/vhost/"}), "/var/run/vhost/net1.sock"},
		{"an emptyDir of another name", empty + "/net1.sock", mounted(conf.Volume{Name: "data", Mount: "/data"}), ""},
		{"an emptyDir that no container mounts", empty + "/net1.sock", mounted(conf.Volume{Name: "shared-dir"}), ""},
		{"a record that has the mount beside the volumes", empty + "/net1.sock",
			&conf.Pod{UID: uid, Volumes: []conf.Volume{{Name: "shared-dir"}}, SharedDirMount: "/old"}, "/old/net1.sock"},
		{"a volume that the host cannot reach", empty + "/net1.sock", mounted(conf.Volume{Name: "shared-dir", Mount: "/data", Kind: "configMap"}), ""},
		{"a hostPath above the socket's folder", "/run/plexus/vhost/0123/s", mounted(conf.Volume{Name: "x", HostPath: "/run/plexus", Mount: "/p"}), "/p/vhost/0123/s"},
		{"the same by /var/run", "/var/run/plexus/vhost/0123/s", mounted(conf.Volume{Name: "x", HostPath: "/run/plexus/", Mount: "/p"}), "/p/vhost/0123/s"},
		{"a hostPath beside it", "/run/plexus-b/s", mounted(conf.Volume{Name: "x", HostPath: "/run/plexus", Mount: "/p"}), ""},
		{"shared-dir goes first", "/run/a/s", mounted(conf.Volume{Name: "x", HostPath: "/run", Mount: "/x"}, conf.Volume{Name: "shared-dir", HostPath: "/run/a", Mount: "/s"}), "/s/s"},
	} {
		t.Run(test.name, func(t *testing.T) { checkEqual(t, test.pod.Seen(test.host), test.want) })
	}
}

func TestAPodHasANameForPeople(t *testing.T) {
	checkEqual(t, (&conf.Pod{Namespace: "shop", Name: "web"}).String(), "shop/web")
	checkEqual(t, (*conf.Pod)(nil).String(), "no pod")
}

package kube_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// compare ends the test if there is more of a cluster than before.
func compare(t *testing.T, before []string) {
	t.Helper()
	// The kernel drops namespaces when it finds the time.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left := slices.DeleteFunc(traces(t), func(trace string) bool { return slices.Contains(before, trace) })
		if len(left) == 0 {
			return
		}
		if _, err := os.Stat("/run/lock/plexus-kube"); err == nil && time.Now().Before(end.Add(5*time.Minute)) {
			continue // another package's cluster has started meanwhile
		}
		if time.Now().After(end) {
			t.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
		}
	}
}

// traces are what a cluster could leave: links, mounts, control groups, files, and
// processes with their namespaces.
func traces(t *testing.T) []string {
	t.Helper()
	var found []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		found = append(found, "link "+l.Name)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		found = append(found, "mount "+strings.Fields(line)[1])
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/plexus-kube", "/sys/fs/cgroup/*/plexus-kube", "/run/lock/plexus-kube",
		filepath.Join(os.TempDir(), "plexus-kube-*"),
		"/run/netns/*", "/run/containerd", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni",
		"/etc/cni", "/opt/cni", "/var/log/pods", "/usr/libexec/kubernetes", "/opt/containerd",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			found = append(found, "file "+f)
		}
	}
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"kube-", "kubelet", "kubectl", "etcd", "containerd", "runc", "pause", "ctr", "nsenter"}
	for _, p := range processes {
		comm, err := os.ReadFile(p + "/comm")
		if err != nil {
			continue
		}
		name := strings.TrimSpace(string(comm))
		ns, err := os.Stat(p + "/ns/net")
		foreign := err == nil && !os.SameFile(own, ns) && ours(p)
		if foreign || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(name, n) }) {
			found = append(found, "process "+filepath.Base(p)+" "+name)
		}
	}
	slices.Sort(found)
	return found
}

// ours tells whether a process runs in a control group of the rig: the machine may
// have namespaces that are others' affair.
func ours(process string) bool {
	groups, err := os.ReadFile(process + "/cgroup")
	return err == nil && bytes.Contains(groups, []byte("/plexus-kube"))
}

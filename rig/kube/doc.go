// Package kube runs a real Kubernetes on one node for tests: etcd, the API
// server, scheduler and controller manager as processes of the test, and a node
// with containerd and kubelet in namespaces of its own. Pods run, kubectl exec
// works, service account tokens are checked, the API server writes an audit log
// of every request. Nothing is pulled from a registry.
//
// The programs are prepared once, by Prepare or the command rig/kube/prepare:
// Kubernetes is compiled, what Debian has is unpacked beside it; none of it is
// installed on the machine.
//
//	c, err := kube.Start(ctx, kube.Options{
//		CNI:     map[string]string{"10-pods.conflist": conf},
//		Plugins: []string{"../../bin/bridge", "../../bin/host-local", "../../bin/loopback"},
//	})
//	defer c.Close()
//	out, err := c.Apply(ctx, manifest)
//	out, err = c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/a")
//	out, err = c.NodeExec(ctx, "ip", "link")
//	events, err := c.Audit(func(e kube.Event) bool { return e.User == kube.NodeUser })
//
// The node is a network, mount and process namespace: its /run, its folders of
// CNI and its kubelet's folder are at the paths where a DaemonSet expects them,
// /etc, /opt and /var are the machine's with what is written kept apart, the rest
// of the file system is the machine's. It is connected to the machine by one pair
// of links. When the test is killed the kernel ends everything in the node; what
// then stays, files and empty control groups, is removed by the next Start.
//
// There is one cluster on a machine at a time: Start waits for the one before. It
// is not for use inside a node of package rig/node, which has no control groups.
package kube

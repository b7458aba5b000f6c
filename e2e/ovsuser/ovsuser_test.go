// Package ovsuser has the node whose Open vSwitch is not root, as distributions run it, and pods of
// another user without capabilities.
package ovsuser

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }

// The users of the node: the daemons' and the pods'.
const (
	vswitchID = 4711
	podID     = 1000
	user      = "plexovs:plexovs"
)

// startOVS starts the daemons as their user, with their folder on the file system of the
// volumes: a socket of the vswitch is linked into them.
func startOVS(t *testing.T) *ovs.Switch {
	t.Helper()
	for file, line := range map[string]string{"/etc/passwd": fmt.Sprintf("plexovs:x:%d:%d::/:/bin/sh\n", vswitchID, vswitchID), "/etc/group": fmt.Sprintf("plexovs:x:%d:\n", vswitchID)} {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		must.Do(t, err)
		_, err = f.WriteString(line)
		must.Do(t, err)
		must.Do(t, f.Close())
	}
	const dir = "/var/lib/ovs"
	must.Do(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	v, err := ovs.StartAs(must.Deadline(t), dir, nil, user)
	must.Do(t, err)
	t.Cleanup(func() { _ = v.Stop() })
	return v
}

// trial is two pods of one network, with a volume of a kind.
type trial struct {
	*site.Site
	v     *ovs.Switch
	pods  map[string]*pod
	names []string
}

type pod struct {
	*node.Pod
	sandbox, volume, mount, socket string
	gid                            int
	client                         bool // the pod connects, and the vswitch listens
	peer                           *ovs.Peer
}

// volume makes the folder as the kubelet or the administrator does, and returns it with the
// manifest's words for it.
func volume(t *testing.T, name, kind string, gid int) (dir, words string) {
	t.Helper()
	if kind == "emptyDir" {
		uid := "uid-" + name
		dir = "/var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~empty-dir/shared-dir"
		must.Do(t, os.MkdirAll(dir, 0o750))
		must.Do(t, os.Chmod(dir, 0o777))
		return dir, "emptyDir: {}"
	}
	dir = "/var/lib/closed/" + name
	must.Do(t, os.MkdirAll(dir, 0o700))
	must.Do(t, os.Chmod(dir, 0o755))
	if gid != 0 {
		must.Do(t, os.Chmod(dir, 0o770|os.ModeSetgid))
		must.Do(t, os.Chown(dir, 0, gid))
	} else {
		must.Do(t, os.Chown(dir, podID, podID))
	}
	return dir, fmt.Sprintf("hostPath: {path: %q}", dir)
}

func (c *trial) add(t *testing.T, name, kind, mode string, gid int) *pod {
	t.Helper()
	p := &pod{Pod: site.NewPod(t, name), sandbox: name + "00000000001", gid: gid, client: mode == "server"}
	var words string
	p.volume, words = volume(t, name, kind, gid)
	c.Manifest(name+".pod.yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  uid: uid-%s
  annotations: {k8s.v1.cni.cncf.io/networks: fast}
spec:
  containers:
  - name: app
    volumeMounts: [{name: shared-dir, mountPath: /shared}]
  volumes:
  - name: shared-dir
    %s
`, name, name, words))
	r := c.MustAdd(p.sandbox, p.Pod, name)
	p.mount = filepath.Join(node.Dir(), "container-"+name) // as the runtime mounts a volume into a container
	must.Do(t, os.Mkdir(p.mount, 0o755))
	must.Do(t, unix.Mount(p.volume, p.mount, "", unix.MS_BIND, ""))
	p.socket = filepath.Join(p.mount, filepath.Base(r.Interfaces[len(r.Interfaces)-1].SocketPath))
	p.start(t, name)
	t.Cleanup(func() { _ = p.peer.Stop() })
	c.pods[name] = p
	c.names = append(c.names, name)
	return p
}

// start starts the program of the pod.
func (p *pod) start(t *testing.T, name string) {
	t.Helper()
	files := filepath.Join(node.Dir(), "files-"+name)
	must.Do(t, os.RemoveAll(files))
	must.Do(t, os.Mkdir(files, 0o755))
	must.Do(t, os.Chown(files, podID, podID))
	peer, err := ovs.StartPeer(must.Deadline(t), files, p.socket, ovs.PeerOptions{Client: p.client, UID: podID, GID: p.gid})
	must.Do(t, err)
	p.peer = peer
}

// back waits for frames after a restart. A program of DPDK that listens is found again; one that
// connects ends with its connection, is started anew, and has to find the socket at its place.
func (c *trial) back(t *testing.T, after string) {
	t.Helper()
	for _, name := range c.names {
		p := c.pods[name]
		if !p.client {
			continue
		}
		must.Do(t, p.peer.Stop())
		for ctx, began := must.Deadline(t), time.Now(); ; { // the kernel has no notice of it
			conn, err := net.Dial("unix", p.socket)
			if err == nil {
				_ = conn.Close()
				t.Logf("%s: %s finds its socket after %v", after, name, time.Since(began).Round(time.Millisecond))
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: the socket of %s: %v", after, name, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		p.start(t, name)
	}
	c.frames(t, after)
}

func (c *trial) remove(t *testing.T) {
	t.Helper()
	for _, name := range c.names {
		p := c.pods[name]
		must.Do(t, p.peer.Stop())
		must.Do(t, unix.Unmount(p.mount, 0))
		must.Do(t, os.Remove(p.mount))
		must.Do(t, os.RemoveAll(filepath.Join(node.Dir(), "files-"+name)))
		c.MustDel(p.sandbox, p.Pod, name)
		must.Do(t, p.Pod.Close())
		must.Do(t, os.Remove(filepath.Join(c.Manifests, name+".pod.yaml")))
		if left, err := os.ReadDir(p.volume); err != nil || len(left) > 0 {
			t.Errorf("DEL leaves %v in %s (%v)", left, p.volume, err)
		}
	}
	for _, dir := range []string{"/var/lib/kubelet", "/var/lib/closed"} {
		must.Do(t, os.RemoveAll(dir))
	}
}

// frames wants frames both ways between the two pods.
func (c *trial) frames(t *testing.T, after string) {
	t.Helper()
	ctx, began := must.Deadline(t), time.Now()
	a, b := c.pods[c.names[0]].peer, c.pods[c.names[1]].peer
	if err := ovs.WarmUp(ctx, a, b); err != nil {
		t.Fatalf("%s: %v", after, err)
	}
	t.Logf("%s: frames after %v", after, time.Since(began).Round(time.Millisecond))
	for _, way := range [][2]*ovs.Peer{{a, b}, {b, a}} {
		if got, err := ovs.Transfer(ctx, way[0], way[1], 1000); err != nil || got != 1000 {
			t.Errorf("%s: %d of 1000 frames arrived: %v", after, got, err)
		}
	}
}

// A vswitch that is not root and pods of another user, without capabilities, with the umask of
// every container: frames pass whatever the volume is, whichever side listens, with a group
// and without.
func TestFrames(t *testing.T) {
	v := startOVS(t)
	n := 0
	for _, kind := range []string{"emptyDir", "hostPath"} {
		for _, mode := range []string{"client", "server"} {
			for _, group := range []string{"", "group"} {
				n++
				left, right := fmt.Sprintf("left%d", n), fmt.Sprintf("right%d", n)
				t.Run(fmt.Sprintf("%s %s %s", kind, mode, group), func(t *testing.T) {
					s := site.New(t, nil)
					s = s.With(map[string]any{
						"agent":     map[string]any{"socket": filepath.Join(s.Dir, "agent.sock")},
						"endpoints": append([]string{v.OVSDB()}, site.Endpoints...),
						"delegates": []any{site.ClusterBridge(filepath.Join(s.Dir, "ipam"))},
					})
					vhost, gid := map[string]any{"socketDir": filepath.Join(s.Dir, "vhost"), "mode": mode}, 0
					if group != "" {
						if gid = vswitchID; mode == "server" {
							gid = 2000 // as a pod's fsGroup, which has no name
						}
						vhost["group"] = fmt.Sprint(gid)
					}
					s.NAD("fast", site.Vhost(v, s, map[string]any{"vhost": vhost}))
					agent := s.Serve(filepath.Join(s.Dir, "agent.sock"))
					c := &trial{Site: s, v: v, pods: map[string]*pod{}}
					c.add(t, left, kind, mode, gid)
					c.add(t, right, kind, mode, gid)
					c.frames(t, "ADD")
					for _, name := range c.names {
						s.MustCheck(c.pods[name].sandbox, c.pods[name].Pod, name)
					}
					c.restarts(t, agent)
					c.remove(t)
					if rows := site.Vsctl(t, v, "--bare --columns=name list Interface"); rows != "" {
						t.Errorf("DEL leaves interfaces %q", rows)
					}
					if left, _ := os.ReadDir("/run/plexus/short"); len(left) > 0 {
						t.Errorf("DEL leaves short paths %v", left)
					}
				})
			}
		}
	}
}

// restarts ends what a node's owner ends: the pods are not touched, and frames pass again.
func (c *trial) restarts(t *testing.T, agent *site.Agent) {
	t.Helper()
	ctx := context.WithoutCancel(must.Deadline(t))
	must.Do(t, c.v.StopVswitchd())
	must.Do(t, c.v.StartVswitchd(ctx))
	c.back(t, "vswitchd killed and started")
	must.Do(t, c.v.StopVswitchd())
	must.Do(t, c.v.StopOVSDB())
	must.Do(t, c.v.StartOVSDB(ctx))
	must.Do(t, c.v.StartVswitchd(ctx))
	c.back(t, "both daemons killed and started")
	agent.Kill()
	must.Do(t, c.v.StopVswitchd())
	entries, err := os.ReadDir("/run/plexus/short")
	if !c.pods[c.names[0]].client && (err != nil || len(entries) != len(c.names)) { // the vswitch connects by them
		t.Errorf("short paths %v (%v), want one for each pod", entries, err)
	}
	sockets, err := filepath.Glob(filepath.Join(c.v.Dir(), "vhu*")) // on a node the vswitch's folder is below /run, too
	must.Do(t, err)
	for _, socket := range sockets {
		must.Do(t, os.Remove(socket))
	}
	for _, e := range entries {
		must.Do(t, unix.Unmount(filepath.Join("/run/plexus/short", e.Name()), unix.MNT_DETACH))
	}
	must.Do(t, os.RemoveAll("/run/plexus"))
	must.Do(t, c.v.StartVswitchd(ctx))
	c.Serve(filepath.Join(c.Dir, "agent.sock"))
	c.back(t, "the node's /run emptied")
}

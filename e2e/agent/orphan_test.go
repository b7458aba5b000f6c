package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// latePlugin makes a link and a file of an address in a child of its own, as a plugin
// with an IPAM plugin does, as many seconds after its start as the file delay says.
const latePlugin = `#!/bin/sh
cd "$(dirname "$0")"
config=$(cat)
case $CNI_COMMAND in
ADD)
	(sleep "$(cat delay)"; echo 192.0.2.7 > address; ip link add late0 type veth peer name late1) &
	echo $! > child
	wait
	echo '{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.7/24"}]}' ;;
DEL)
	rm -f address
	! ip link show late0 > /dev/null 2>&1 || ip link del late0 ;;
esac
`

// lateSite has a pod of the cluster network and one by latePlugin, whose folder is dir.
func lateSite(t *testing.T, socket string) (s *site.Site, dir string) {
	t.Helper()
	s = site.New(t, nil)
	dir = filepath.Join(s.Dir, "late")
	must.Do(t, os.Mkdir(dir, 0o755))
	must.Do(t, os.WriteFile(filepath.Join(dir, "late"), []byte(latePlugin), 0o755))
	s.Path += ":" + dir
	keys := map[string]any{"delegates": []any{site.ClusterBridge(filepath.Join(s.Dir, "addresses"))}}
	if socket != "" {
		keys["agent"] = map[string]any{"socket": filepath.Join(s.Dir, socket)}
	}
	s = s.With(keys)
	s.NAD("second", site.Plugin("late", map[string]any{"cniVersion": "1.1.0"}))
	s.Pod("two", "second")
	return s, dir
}

// awaitLate starts an ADD of a configuration and returns when latePlugin waits.
func awaitLate(s *site.Site, p *node.Pod, dir, delay string, conf []byte) (cmd *exec.Cmd, out *bytes.Buffer) {
	s.T.Helper()
	must.WriteFile(s.T, filepath.Join(dir, "delay"), delay)
	must.Do(s.T, os.RemoveAll(filepath.Join(dir, "child")))
	cmd, out = exec.Command(filepath.Join(site.BinDir(s.T), "plexus")), &bytes.Buffer{}
	cmd.Env = s.Environ(site.Request{Verb: "ADD", Sandbox: site.AgentSandbox, Netns: p.Path(), IfName: "eth0", Pod: "two"})
	cmd.Stdin, cmd.Stdout = bytes.NewReader(conf), out
	must.Do(s.T, cmd.Start())
	eventually(s.T, "the plugin's child", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "child"))
		return err == nil && len(data) > 0
	})
	return cmd, out
}

// eventually waits for what must come.
func eventually(t testing.TB, what string, come func() bool) {
	t.Helper()
	for ctx := must.Deadline(t); !come(); {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// nothingLate wants that the plugin's child has ended and has left nothing.
func nothingLate(t *testing.T, dir string) {
	t.Helper()
	child := lateChild(t, dir)
	eventually(t, "the end of the plugin's child", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%s/root/", child))
		return err != nil
	})
	if _, err := os.Stat(filepath.Join(dir, "address")); err == nil {
		t.Error("the address of a plugin that outlived plexus is there after DEL")
	}
	if _, err := netlink.LinkByName("late0"); err == nil {
		t.Error("the link of a plugin that outlived plexus is there after DEL")
	}
}

// lateChild is the PID of the plugin's child.
func lateChild(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "child"))
	must.Do(t, err)
	return strings.TrimSpace(string(data))
}

// attachAgain ADDs and DELs, and compares the node.
func attachAgain(s *site.Site, p *node.Pod, dir, before string) {
	s.T.Helper()
	must.WriteFile(s.T, filepath.Join(dir, "delay"), "0")
	s.MustAdd(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	must.Do(s.T, os.RemoveAll(filepath.Join(dir, "child")))
	site.SameWorld(s.T, before, site.Without(site.Without(s.World(nil), "a.sock"), "/late/"))
}

// plexusd is killed while a plugin runs, whose child goes on, and DEL comes at once: it
// waits for the child. Nothing of it is left, and an ADD works.
func TestPlexusKilledBesideAPlugin(t *testing.T) {
	s, dir := lateSite(t, "")
	p := site.NewPod(t, "two")
	must.WriteFile(t, filepath.Join(dir, "delay"), "0")
	s.MustAdd(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	before := site.Without(s.World(nil), "/late/")
	for range 3 {
		cmd, _ := awaitLate(s, p, dir, "3", s.Conf)
		must.Do(t, cmd.Process.Kill())
		_ = cmd.Wait()
		s.MustDel(site.AgentSandbox, p, "two")
		nothingLate(t, dir)
		attachAgain(s, p, dir, before)
	}

	// An ADD again, without DEL, waits as well and undoes the one before.
	cmd, _ := awaitLate(s, p, dir, "3", s.Conf)
	must.Do(t, cmd.Process.Kill())
	_ = cmd.Wait()
	must.WriteFile(t, filepath.Join(dir, "delay"), "0")
	attachAgain(s, p, dir, before)
}

// The same, of the agent.
func TestAgentKilledBesideAPlugin(t *testing.T) {
	s, dir := lateSite(t, "a.sock")
	socket := filepath.Join(s.Dir, "a.sock")
	p := site.NewPod(t, "two")
	must.WriteFile(t, filepath.Join(dir, "delay"), "0")
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	before := site.Without(site.Without(s.World(nil), "a.sock"), "/late/")
	for range 3 {
		cmd, _ := awaitLate(s, p, dir, "3", s.Conf)
		a.Kill()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s.MustDel(site.AgentSandbox, p, "two")
		nothingLate(t, dir)
		a = s.Serve(socket)
		attachAgain(s, p, dir, before)
	}
}

// A sandbox whose plugin hangs ends no other request: GC and DEL end with code 11 and
// name the sandbox and the processes, and another pod is wired and unwired. When the
// process is killed that hangs, ADD goes on.
func TestAHangingPlugin(t *testing.T) {
	s, dir := lateSite(t, "a.sock")
	s.Serve(filepath.Join(s.Dir, "a.sock"))
	s.Pod("one", "")
	p, other := site.NewPod(t, "two"), site.NewPod(t, "one")
	cmd, out := awaitLate(s, p, dir, "1000", s.Conf)
	for _, r := range []site.Request{
		{Verb: "GC", Conf: site.Changed(t, s.Conf, map[string]any{"cni.dev/valid-attachments": []any{}})},
		{Verb: "DEL", Sandbox: site.AgentSandbox, Netns: p.Path(), Pod: "two"},
	} {
		_, _, err := s.Call(r)
		site.Says(t, err, site.AgentSandbox, "late (pid ", "sleep (pid ")
		var answer *site.Error
		if errors.As(err, &answer) && answer.Code != 11 {
			t.Errorf("%s: code %d, want 11", r.Verb, answer.Code)
		}
	}
	s.MustAdd("ffffffffffffffff", other, "one")
	s.MustDel("ffffffffffffffff", other, "one")
	hanging, err := exec.CommandContext(t.Context(), "cat", fmt.Sprintf("/proc/%s/task/%[1]s/children", lateChild(t, dir))).Output()
	must.Do(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(hanging)))
	must.Do(t, err)
	must.Do(t, unix.Kill(pid, unix.SIGKILL))
	if err := cmd.Wait(); err != nil {
		t.Errorf("ADD: %v: %s", err, out)
	}
	s.MustDel(site.AgentSandbox, p, "two")
}

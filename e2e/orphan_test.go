package e2e

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

	"github.com/plexus-cni/plexus/rig/node"
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
func lateSite(t *testing.T, socket string) (s *site, dir string) {
	t.Helper()
	s = newSite(t, nil)
	dir = filepath.Join(s.dir, "late")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "late"), []byte(latePlugin), 0o755))
	s.path += ":" + dir
	keys := map[string]any{"delegates": []any{clusterBridge(filepath.Join(s.dir, "addresses"))}}
	if socket != "" {
		keys["agent"] = map[string]any{"socket": filepath.Join(s.dir, socket)}
	}
	s = s.withConf(keys)
	s.nad("second", plugin("late", map[string]any{"cniVersion": "1.1.0"}))
	s.pod("two", "second")
	return s, dir
}

// awaitLate starts an ADD of a configuration and returns when latePlugin waits.
func (s *site) awaitLate(p *node.Pod, dir, delay string, conf []byte) (cmd *exec.Cmd, out *bytes.Buffer) {
	s.t.Helper()
	writeFile(s.t, filepath.Join(dir, "delay"), delay)
	must(s.t, os.RemoveAll(filepath.Join(dir, "child")))
	cmd, out = exec.Command(filepath.Join(binDir(s.t), "plexus")), &bytes.Buffer{}
	cmd.Env = s.environ(request{verb: "ADD", sandbox: agentSandbox, netns: p.Path(), ifName: "eth0", pod: "two"})
	cmd.Stdin, cmd.Stdout = bytes.NewReader(conf), out
	must(s.t, cmd.Start())
	eventually(s.t, "the plugin's child", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "child"))
		return err == nil && len(data) > 0
	})
	return cmd, out
}

// eventually waits for what must come.
func eventually(t testing.TB, what string, come func() bool) {
	t.Helper()
	for ctx := deadline(t); !come(); {
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
	must(t, err)
	return strings.TrimSpace(string(data))
}

// attachAgain ADDs and DELs, and compares the node.
func (s *site) attachAgain(p *node.Pod, dir, before string) {
	s.t.Helper()
	writeFile(s.t, filepath.Join(dir, "delay"), "0")
	s.mustAdd(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	must(s.t, os.RemoveAll(filepath.Join(dir, "child")))
	sameWorld(s.t, before, without(without(s.world(nil), "a.sock"), "/late/"))
}

// plexusd is killed while a plugin runs, whose child goes on, and DEL comes at once: it
// waits for the child. Nothing of it is left, and an ADD works.
func TestPlexusKilledBesideAPlugin(t *testing.T) {
	s, dir := lateSite(t, "")
	p := newPod(t, "two")
	writeFile(t, filepath.Join(dir, "delay"), "0")
	s.mustAdd(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	before := without(s.world(nil), "/late/")
	for range 3 {
		cmd, _ := s.awaitLate(p, dir, "3", s.conf)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		s.mustDel(agentSandbox, p, "two")
		nothingLate(t, dir)
		s.attachAgain(p, dir, before)
	}

	// An ADD again, without DEL, waits as well and undoes the one before.
	cmd, _ := s.awaitLate(p, dir, "3", s.conf)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	writeFile(t, filepath.Join(dir, "delay"), "0")
	s.attachAgain(p, dir, before)
}

// The same, of the agent.
func TestAgentKilledBesideAPlugin(t *testing.T) {
	s, dir := lateSite(t, "a.sock")
	socket := filepath.Join(s.dir, "a.sock")
	p := newPod(t, "two")
	writeFile(t, filepath.Join(dir, "delay"), "0")
	a := s.serve(socket)
	s.mustAdd(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	before := without(without(s.world(nil), "a.sock"), "/late/")
	for range 3 {
		cmd, _ := s.awaitLate(p, dir, "3", s.conf)
		a.kill()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s.mustDel(agentSandbox, p, "two")
		nothingLate(t, dir)
		a = s.serve(socket)
		s.attachAgain(p, dir, before)
	}
}

// A sandbox whose plugin hangs ends no other request: GC and DEL end with code 11 and
// name the sandbox and the processes, and another pod is wired and unwired. When the
// process is killed that hangs, ADD goes on.
func TestAHangingPlugin(t *testing.T) {
	s, dir := lateSite(t, "a.sock")
	s.serve(filepath.Join(s.dir, "a.sock"))
	s.pod("one", "")
	p, other := newPod(t, "two"), newPod(t, "one")
	cmd, out := s.awaitLate(p, dir, "1000", s.conf)
	for _, r := range []request{
		{verb: "GC", conf: changed(t, s.conf, map[string]any{"cni.dev/valid-attachments": []any{}})},
		{verb: "DEL", sandbox: agentSandbox, netns: p.Path(), pod: "two"},
	} {
		_, _, err := s.call(r)
		says(t, err, agentSandbox, "late (pid ", "sleep (pid ")
		var answer *cniError
		if errors.As(err, &answer) && answer.Code != 11 {
			t.Errorf("%s: code %d, want 11", r.verb, answer.Code)
		}
	}
	s.mustAdd("ffffffffffffffff", other, "one")
	s.mustDel("ffffffffffffffff", other, "one")
	hanging, err := exec.CommandContext(t.Context(), "cat", fmt.Sprintf("/proc/%s/task/%[1]s/children", lateChild(t, dir))).Output()
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(hanging)))
	must(t, err)
	must(t, unix.Kill(pid, unix.SIGKILL))
	if err := cmd.Wait(); err != nil {
		t.Errorf("ADD: %v: %s", err, out)
	}
	s.mustDel(agentSandbox, p, "two")
}

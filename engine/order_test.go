package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// An executed ipam whose backend makes an interface runs while the interface is there; its
// failure undoes the interface, and keeps it from being nobody's at DEL.
func TestInterfaceFirst(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.request("late")
	ofNet1 := func(do func(context.Context) error) (seen []string, err error) {
		s := &steps{at: -1}
		err = s.do(t.Context(), do)
		return slices.DeleteFunc(s.seen, func(step string) bool { return !strings.Contains(step, "net1: ") }), err
	}
	port := "port " + sandboxOfPod[:24] + "-net1"
	add := []string{"net1: reserve " + port + " of /run/toy/b", "net1: add toy", "net1: make " + port + " at /run/toy/b", "net1: ipam addresses: allocate"}
	del := []string{"net1: del toy", "net1: ipam addresses: release", "net1: remove " + port + " of /run/toy/b"}
	seen, err := ofNet1(func(ctx context.Context) error {
		result, err := n.Add(ctx, r)
		if err == nil && len(result.IPs) == 0 {
			err = errors.New("no address")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	compareLines(t, "steps of ADD", seen, add)
	if seen, err = ofNet1(func(ctx context.Context) error { return n.Del(ctx, r) }); err != nil {
		t.Fatal(err)
	}
	compareLines(t, "steps of DEL", seen, del)

	n.failPlugin("ADD", "addresses", true)
	seen, err = ofNet1(func(ctx context.Context) error { _, err := n.Add(ctx, r); return err })
	says(t, err, "net1", "ipam addresses")
	for _, step := range del {
		add = append(add, "undo: "+step)
	}
	compareLines(t, "steps of an ADD that fails", seen, add)
	if left := n.left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// The steps of an ADD and of its DEL, in order. The record is written first. Neighbours that
// are one built-in alone have their addresses first and are made together; the others come
// one after the other. DEL goes the other way.
func TestOrder(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	networks := "probed,static,script,bare,between,other,executed"
	s := &steps{at: -1}
	r := n.request(networks)
	if err := s.do(t.Context(), func(ctx context.Context) error { _, err := n.Add(ctx, r); return err }); err != nil {
		t.Fatal(err)
	}
	p := func(ifName string) string { return "port " + sandboxOfPod[:24] + "-" + ifName }
	compareLines(t, "steps of ADD", s.seen, []string{
		"net1: reserve " + p("net1") + " of /run/toy/a",
		"net2: reserve " + p("net2") + " of /run/toy/a",
		"net3: reserve " + p("net3") + " of /run/toy/b",
		"net4: reserve " + p("net4") + " of /run/toy/a",
		"net5: reserve " + p("net5") + " of /run/toy/a",
		"net6: reserve " + p("net6") + " of /run/toy/c",
		"journal: write sandbox " + sandboxOfPod,
		"eth0: add cluster",
		"net1: add toy",
		"net1: ipam host-local: allocate",
		"net1: make " + p("net1") + " at /run/toy/a",
		"net1: add probe",
		"net2: add toy",
		"net2: ipam static: allocate",
		"net3: add toy",
		"net3: ipam addresses: allocate",
		"net4: add toy",
		"net2: make " + p("net2") + " at /run/toy/a",
		"net3: make " + p("net3") + " at /run/toy/b",
		"net4: make " + p("net4") + " at /run/toy/a",
		"net5: add first",
		"net5: add toy",
		"net5: make " + p("net5") + " at /run/toy/a",
		"net5: add last",
		"net6: add other",
		"net6: make " + p("net6") + " at /run/toy/c",
		"net7: add first",
		"net7: add last",
		"publish network-status of pod default/pod",
		"journal: write sandbox " + sandboxOfPod,
	})
	compareLines(t, "calls of ADD", n.world.Calls(), []string{"attach net1", "attach net2 net3 net4", "attach net5"})
	compareLines(t, "plugins of ADD", n.log(), []string{
		"ADD cluster eth0",
		"ADD probe net1 +net1",
		"ADD addresses net3",
		"ADD first net5",
		"ADD last net5 +net5",
		"ADD first net7",
		"ADD last net7",
	})
	s = &steps{at: -1}
	if err := s.do(t.Context(), func(ctx context.Context) error { return n.Del(ctx, r) }); err != nil {
		t.Fatal(err)
	}
	compareLines(t, "steps of DEL", s.seen, []string{
		"retract network-status of pod default/pod",
		"net7: del last",
		"net7: del first",
		"net6: del other",
		"net6: remove " + p("net6") + " of /run/toy/c",
		"net5: del last",
		"net5: del toy",
		"net5: remove " + p("net5") + " of /run/toy/a",
		"net5: del first",
		"net4: del toy",
		"net3: del toy",
		"net2: del toy",
		"net4: remove " + p("net4") + " of /run/toy/a",
		"net3: remove " + p("net3") + " of /run/toy/b",
		"net2: remove " + p("net2") + " of /run/toy/a",
		"net3: ipam addresses: release",
		"net1: del probe",
		"net1: del toy",
		"net1: remove " + p("net1") + " of /run/toy/a",
		"net1: ipam host-local: release",
		"eth0: del cluster",
		"journal: remove sandbox " + sandboxOfPod,
	})
	compareLines(t, "calls of DEL", n.world.Calls(), []string{"detach net5", "detach net2 net3 net4", "detach net1"})
	n.wantNothingLeft("after DEL")
}

// compareLines compares two lists line by line.
func compareLines(t *testing.T, what string, have, want []string) {
	t.Helper()
	if slices.Equal(have, want) {
		return
	}
	t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(have, "\n  "), strings.Join(want, "\n  "))
}

// With the key parallel the same comes of it: neighbours of two backends are made at once.
func TestParallel(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configureCluster("passthru", `"parallel": true, `)
	n.start()
	networks := "static,other,script,bare,probed"
	r := n.request(networks)
	result, err := n.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range result.Interfaces {
		names = append(names, i.Name)
	}
	if got := fmt.Sprint(names); got != "[net1 net2 net3 net4 net5]" {
		t.Errorf("ADD answers interfaces %s", got)
	}
	compareLines(t, "calls", n.world.Calls(), []string{"attach net1 net3 net4", "attach net5"})
	compareLines(t, "calls of the other backend", n.other.Calls(), []string{"attach net2"})
	if err := n.Check(t.Context(), r); err != nil {
		t.Error(err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")

	n.world.Fail("attach", "net3", errors.New("no room"))
	n.other.Fail("attach", "net2", errors.New("no memory"))
	_, err = n.Add(t.Context(), n.request(networks))
	says(t, err, "net3 (network default/script): no room", "net2 (network default/other): no memory")
	n.wantNothingLeft("after an ADD that failed twice")
}

// What a failure undoes: the last one first, and no more than was begun. What was reserved
// for the others is given back.
func TestUndoInReverse(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.world.Fail("attach", "net3", errors.New("no room"))
	s := &steps{at: -1}
	r := n.request("between,probed,bare,executed")
	err := s.do(t.Context(), func(ctx context.Context) error { _, err := n.Add(ctx, r); return err })
	says(t, err, "net3 (network default/bare): no room")
	p := func(ifName string) string { return "port " + sandboxOfPod[:24] + "-" + ifName }
	failed := slices.Index(s.seen, "net3: make "+p("net3")+" at /run/toy/a")
	if failed < 0 {
		t.Fatalf("steps %q", s.seen)
	}
	compareLines(t, "steps after the failure", s.seen[failed+1:], []string{
		"undo: retract network-status of pod default/pod",
		"undo: net3: del toy",
		"undo: net3: remove " + p("net3") + " of /run/toy/a",
		"undo: net2: del probe",
		"undo: net2: del toy",
		"undo: net2: remove " + p("net2") + " of /run/toy/a",
		"undo: net2: ipam host-local: release",
		"undo: net1: del last",
		"undo: net1: del toy",
		"undo: net1: remove " + p("net1") + " of /run/toy/a",
		"undo: net1: del first",
		"undo: eth0: del cluster",
		"undo: journal: remove sandbox " + sandboxOfPod,
	})
	n.wantNothingLeft("after ADD")

	n.world.Fail("attach", "net3", nil)
	n.world.Fail("prepare", "net3", errors.New("no name is free"))
	calls := len(n.world.Calls())
	_, err = n.Add(t.Context(), r)
	says(t, err, "prepare net3 (network default/bare): toy: no name is free")
	if calls == 0 || len(n.world.Calls()) > 0 {
		t.Error("a refused ADD called the backend to attach or detach")
	}
	n.wantNothingLeft("after a refused ADD")
	n.failPlugin("ADD", "last", true)
	_, err = n.Add(t.Context(), n.request("between"))
	says(t, err, "add net1 (network default/between)", "last was told to fail")
	n.wantNothingLeft("after an ADD whose last plugin failed")
}

// Two of three attachments cannot be undone: both are named, the third one goes, the two stay
// recorded, and a second DEL ends it.
func TestDelThatIsUndoneInPart(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	r := n.mustAdd("static,between,bare")
	n.world.Fail("detach", "net3", errors.New("it is busy"))
	n.failPlugin("DEL", "first", true)
	err := n.Del(t.Context(), r)
	says(t, err, "undo net3 (network default/bare): toy: it is busy", "undo net2 (network default/between): first: first was told to fail")
	says(t, n.Check(t.Context(), r), "cut short (removing): DEL it")
	rec, err := n.Journal.Read(r.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range rec.Transactions[0].Attachments {
		names = append(names, entry.IfName)
	}
	if got := fmt.Sprint(names); got != "[net2 net3]" || n.world.Ports() == nil {
		t.Errorf("recorded are %s, ports %q", got, n.world.Ports())
	}
	n.world.Fail("detach", "net3", nil)
	n.failPlugin("DEL", "first", false)
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after the second DEL")

	n.failPlugin("ADD", "addresses", true)
	_, err = n.Add(t.Context(), n.request("script"))
	says(t, err, "add net1 (network default/script): ipam addresses: ", "addresses was told to fail")
	n.wantNothingLeft("after an ADD without an address")
	n.failPlugin("ADD", "addresses", false)
	n.failPlugin("DEL", "addresses", true)
	r = n.mustAdd("script")
	says(t, n.Del(t.Context(), r), "undo net1 (network default/script): toy: ipam addresses: ", "addresses was told to fail")
	n.failPlugin("DEL", "addresses", false)
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")

	n.api.failures["Retract"] = errors.New("the API server is away")
	r = n.mustAdd("static")
	says(t, n.Del(t.Context(), r), "undo network-status of pod default/pod: the API server is away")
	if got := n.world.Ports(); len(got) > 0 {
		t.Errorf("ports %q", got)
	}
	n.api.failures["Retract"] = nil
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

package vppmemif

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/standin"
)

// ways are the ways through the delegate, from Prepare to Del.
var ways = []struct {
	name string
	keys func(r *rig) map[string]any
}{
	{"name, vlan and uplink", func(r *rig) map[string]any {
		r.tap()
		return map[string]any{"bridgeDomain": map[string]any{"name": "blue", "uplink": "tap0"}, "vlan": 7, "mtu": 9000}
	}},
	{"id", func(*rig) map[string]any { return map[string]any{"bridgeDomain": map[string]any{"id": 12}} }},
	{"l3", func(*rig) map[string]any {
		return map[string]any{"mode": "ip", "vrf": 5, "addresses": []string{"10.0.0.1/24", "fd00::1/64"},
			"routes": []map[string]any{{"dst": "10.1.0.0/16", "gw": "10.0.0.2"}, {"dst": "fd01::/64", "gw": "fd00::2"}}}
	}},
	{"abstract", func(*rig) map[string]any { return map[string]any{"socket": map[string]any{"abstract": true}} }},
	{"client", func(r *rig) map[string]any {
		return map[string]any{"role": "client", "socket": map[string]any{"dir": r.dir, "file": "m.sock"}}
	}},
	{"vhost-user", func(r *rig) map[string]any { return vhost(r, "server") }},
}

var calls = []string{"Prepare", "Add", "Check", "Restore", "Del"}

// trial is one attachment.
type trial struct {
	*rig
	d     *Delegate
	a     subject
	state json.RawMessage
}

func begin(t *testing.T, keys func(*rig) map[string]any) *trial {
	t.Helper()
	r := newRig(t, standin.Options{})
	r.admin().table(5)
	a := r.attachment(sandboxA, keys(r))
	a.Netns = newPod(t)
	return &trial{rig: r, d: newDelegate(t), a: a}
}

func (c *trial) do(ctx context.Context, call string) (err error) {
	switch call {
	case "Prepare":
		c.state, err = c.d.prepare(ctx, c.a)
	case "Add":
		_, err = add(ctx, c.d, c.a, c.state)
	case "Check":
		err = c.d.check(ctx, c.a, c.state)
	case "Restore":
		_, err = c.d.restore(ctx, c.a, c.state)
	case "Del":
		err = c.d.del(ctx, c.a, c.state)
	}
	return err
}

// sent lists what each call sends.
func (c *trial) sent() map[string][]string {
	c.t.Helper()
	all := map[string][]string{}
	for _, call := range calls {
		from := len(c.Messages())
		if err := c.do(bounded(c.t), call); err != nil {
			c.t.Fatalf("%s: %v", call, err)
		}
		for _, m := range c.Messages()[from:] {
			all[call] = append(all[call], m.Name)
		}
	}
	return all
}

// ending is a way in which a request fails.
type ending struct {
	name string
	standin.Fault
}

// mayReconnect reports whether the connection may have ended before the first request of a
// session was sent. It is made anew then.
func (e ending) mayReconnect() bool {
	return e.Ending == standin.Cut && e.Occurrence == 1 && (strings.HasSuffix(e.Message, "_dump") || e.Message == "control_ping")
}

var endings = []ending{
	{"refused", standin.Fault{Retval: -13}},
	{"cut before", standin.Fault{Ending: standin.Cut}},
	{"cut after", standin.Fault{Ending: standin.Cut, Act: true}},
}

// Each message of each call fails in each way; the call says so, and Del leaves
// everything as it was, with the state and without.
func TestEveryMessage(t *testing.T) {
	t.Parallel()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			plain := begin(t, w.keys)
			before := plain.world()
			sent := plain.sent()
			same(t, before, plain.world())
			for _, call := range calls {
				count := map[string]int{}
				for _, message := range sent[call] {
					if strings.HasPrefix(message, "sockclnt") {
						continue
					}
					count[message]++
					for _, e := range endings {
						if e.Retval != 0 && strings.HasSuffix(message, "_dump") {
							continue // a dump has no error code
						}
						e.Message, e.Occurrence = message, count[message]
						for name, stateless := range map[string]bool{"recorded": false, "lost": true} {
							t.Run(fmt.Sprintf("%s/%s %d %s/%s", call, message, e.Occurrence, e.name, name), func(t *testing.T) {
								t.Parallel()
								failing(t, w.keys, call, e, stateless)
							})
						}
					}
				}
			}
		})
	}
}

// TestSilence has no answer for three of the messages.
func TestSilence(t *testing.T) {
	t.Parallel()
	for call, message := range map[string]string{"Prepare": "control_ping", "Add": "memif_create_v2", "Del": "memif_delete"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			keys := ways[0].keys
			if call == "Prepare" {
				keys = ways[4].keys // which names its socket, and so asks who uses it
			}
			failing(t, keys, call, ending{"silence", standin.Fault{Message: message, Ending: standin.Silence}}, call == "Add")
		})
	}
}

func failing(t *testing.T, keys func(*rig) map[string]any, call string, e ending, stateless bool) {
	t.Helper()
	c := begin(t, keys)
	if err := c.SetFaults(e.Fault); err != nil {
		t.Fatal(err)
	}
	c.faults()
	before := c.world()
	for _, earlier := range calls {
		if earlier == call {
			break
		}
		if err := c.do(bounded(t), earlier); err != nil {
			t.Fatalf("%s: %v", earlier, err)
		}
	}
	c.faults(e.Fault)
	err := c.do(bounded(t), call)
	seen := c.Count(e.Message) > 0
	switch {
	case err != nil:
		wantNamed(t, err, e)
	case e.mayReconnect():
	case seen:
		t.Errorf("%s: no error", call)
	}
	c.faults()
	raw := c.state
	if stateless {
		raw = nil
	}
	mustDel(t, newDelegate(t), c.a, raw)
	same(t, before, c.world())
	// And it works from here.
	again := &trial{rig: c.rig, d: c.d, a: c.a}
	for _, call := range calls {
		if err := again.do(bounded(t), call); err != nil {
			t.Errorf("then %s: %v", call, err)
		}
	}
	same(t, before, c.world())
}

// wantNamed wants an error that says what failed: VPP's API socket, or what was
// to be done.
func wantNamed(t *testing.T, err error, e ending) {
	t.Helper()
	if e.Ending != standin.Refuse {
		wantError(t, err, standin.SocketName)
		return
	}
	words := map[string]string{
		"memif_socket_filename_add_del_v2": "socket", "memif_create_v2": "create memif", "memif_delete": "delete memif",
		"control_ping": "list ", "sw_interface_set_flags": "set up", "sw_interface_set_mtu": "mtu 9000", "sw_interface_tag_add_del": "tag",
		"sw_interface_add_del_address": "add address ", "sw_interface_set_table": "vrf 5", "bridge_domain_add_del_v2": "bridge domain",
		"create_vhost_user_if_v2": "create vhost-user", "delete_vhost_user_if": "delete vhost", "sw_interface_set_l2_bridge": "join bridge domain", "l2_interface_vlan_tag_rewrite": "vlan 7",
		"create_vlan_subif": "create sub-interface tap0.7", "delete_subif": "delete sub-interface tap0.7", "ip_route_add_del": " route ",
	}
	wantError(t, err, words[e.Message])
}

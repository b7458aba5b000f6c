package ovsdpdk

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// A port goes if it is ours. Its bridge goes too if that is ours and nothing but its local
// port would be left in it.
func TestRemoval(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	const theirs = "/var/lib/other"
	for _, c := range []struct {
		name    string
		ours    string   // ports of the attachments, each with the bridge that its row records
		bridges []string // each as NAME OWNER PORT..., a port of the bridge's name is its local one; - for no owner
		want    []string // bridges with their ports that remain
	}{
		{"our bridge, we are the last", "p:br", []string{"br ours br p"}, nil},
		{"our bridge with another port", "p:br", []string{"br ours br p x"}, []string{"br br x"}},
		{"a foreign bridge, we are the last", "p:br", []string{"br - br p"}, []string{"br br"}},
		{"a bridge of another plexus", "p:br", []string{"br " + theirs + " br p"}, []string{"br br"}},
		{"a foreign bridge without a local port", "p:br", []string{"br - p"}, []string{"br"}},
		{"our bridge without a local port", "p:br", []string{"br ours p"}, nil},
		{"our bridge without a local port, with another", "p:br", []string{"br ours p x"}, []string{"br x"}},
		{"the port is gone, our bridge is empty", "", []string{"br ours br"}, nil},
		{"the port is gone, our bridge has another", "", []string{"br ours br x"}, []string{"br br x"}},
		{"the port is gone, the bridge is foreign", "", []string{"br - br"}, []string{"br br"}},
		{"the port is not ours", "", []string{"br ours br p"}, []string{"br br p"}},
		{"the port was moved to a foreign bridge", "p:br", []string{"br ours br x", "other - other p"}, []string{"br br x", "other other"}},
		{"the port was moved, our bridge is empty", "p:br", []string{"br ours br", "other - other p"}, []string{"other other"}},
		{"another bridge of ours is empty", "p:br", []string{"br ours br p x", "other ours other"}, []string{"br br x", "other other"}},
		{"no bridge at all", "", nil, nil},
		{"two ports, and both leave our bridge", "p:br q:br", []string{"br ours br p q"}, nil},
		{"two of three ports", "p:br q:br", []string{"br ours br p q x"}, []string{"br br x"}},
		{"two bridges of ours", "p:br q:other", []string{"br ours br p", "other ours q other"}, nil},
		{"two bridges of ours, one used", "p:br q:other", []string{"br ours br p", "other ours q other x"}, []string{"other other x"}},
		{"a foreign bridge and ours", "p:br q:other", []string{"other - q other", "br ours br p"}, []string{"other other"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.makeBridges(c.ours, c.bridges)
			var ports []*port
			for _, name := range []string{"p", "q"} {
				a := &delegates.Attachment{Owner: testOwner, Sandbox: sandbox, IfName: name, State: json.RawMessage("{}")}
				ports = append(ports, &port{Attachment: a, state: &state{OVSDB: r.address, Bridge: "br", Port: name}})
			}
			if _, err := d.delete(bounded(t), ports); err != nil {
				t.Error(err)
			}
			var have []string
			for _, bridge := range strings.Fields(r.vsctl("list-br")) {
				members := strings.Fields(r.vsctl("--bare", "--columns=ports", "find", "Bridge", "name="+bridge))
				for i, id := range members {
					members[i] = r.vsctl("get", "Port", id, "name")
				}
				slices.Sort(members)
				have = append(have, strings.Join(append([]string{bridge}, members...), " "))
				r.vsctl("del-br", bridge)
			}
			if !slices.Equal(have, c.want) {
				t.Errorf("remain %q, want %q", have, c.want)
			}
		})
	}
}

// makeBridges makes bridges with ports, as TestRemoval writes them.
func (r *rig) makeBridges(ours string, bridges []string) {
	r.t.Helper()
	owner := map[string]string{"ours": testOwner}
	for _, b := range bridges {
		words := strings.Fields(b)
		args := []string{"add-br", words[0]}
		if o := words[1]; o != "-" {
			if owner[o] != "" {
				o = owner[o]
			}
			for _, table := range []string{"Bridge", "Port"} {
				args = append(args, "--", "set", table, words[0], "external_ids:plexus-owner="+o)
			}
		}
		for _, name := range words[2:] {
			if name != words[0] {
				args = append(args, "--", "add-port", words[0], name)
			}
			if i := strings.Index(ours, name+":"); i >= 0 {
				recorded, _, _ := strings.Cut(ours[i+len(name)+1:], " ")
				args = append(args, "--", "set", "Interface", name, "external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox="+sandbox,
					"external_ids:plexus-ifname="+name, fmt.Sprintf(`external_ids:plexus-state="{\"bridge\":\"%s\"}"`, recorded))
			}
		}
		r.vsctl(args...)
		if !slices.Contains(words[2:], words[0]) {
			r.vsctl("remove", "Bridge", words[0], "ports", r.vsctl("get", "Port", words[0], "_uuid"))
		}
	}
}

// A bridge without a UUID, which no server sends, is nothing that could be removed.
func TestRemovalOfRowWithoutID(t *testing.T) {
	asked := make(chan string, 8)
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		for {
			var q struct{ ID, Params json.RawMessage }
			if in.Decode(&q) != nil {
				return
			}
			asked <- string(q.Params)
			says(conn, `{"id": %s, "result": [{"rows": []}, {"rows": [{}]}, {"rows": [{}]}], "error": null}`, q.ID)
		}
	})
	a := &delegates.Attachment{Owner: testOwner, Sandbox: sandbox, IfName: "net1", State: json.RawMessage("{}")}
	if _, err := newDelegate(t).delete(bounded(t), []*port{{Attachment: a, state: &state{OVSDB: address, Bridge: "br", Port: "p"}}}); err != nil {
		t.Error(err)
	}
	close(asked)
	for text := range asked {
		if strings.Contains(text, "mutate") {
			t.Errorf("it is asked to %s", text)
		}
	}
}

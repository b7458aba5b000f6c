package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/node"
)

// What keeps plexus from being the runtime's first configuration is why the agent is
// not ready, until it does not any more; what else fails is not.
func TestInstalled(t *testing.T) {
	h := &host{}
	h.paths.ConfDir = "/etc/cni/net.d"
	refused := &node.RefusedError{File: "00-multus.conf", Why: "it is Multus'"}
	for _, test := range []struct {
		state node.State
		err   error
		want  string
	}{
		{node.State{}, refused, "00-multus.conf comes first"},
		{node.State{File: "00-plexus.conflist"}, refused, "00-multus.conf comes first"},
		{node.State{}, nil, "/etc/cni/net.d has no network"},
		{node.State{}, errors.New("read-only file system"), "read-only"},
		{node.State{File: "00-plexus.conflist"}, errors.New("the token is gone"), ""},
		{node.State{File: "00-plexus.conflist"}, nil, ""},
	} {
		h.observe(test.state, test.err)
		err := h.installed()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v, %v: %v, want %q", test.state, test.err, err, test.want)
		}
	}
}

package site

import (
	"os/exec"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
)

// rules are what plugins leave in the kernel beside links and routes: packet
// filters, queues with their filters, routing rules, and tuning's own files.
const rules = `
for t in iptables ip6tables; do $t-save | sed "s/^/$t /; /#/d; s/\[.*\]//"; done
tc qdisc show | grep -v noqueue
for dev in $(ls /sys/class/net); do tc filter show dev $dev; tc filter show dev $dev parent ffff:; done
ip rule; ip -6 rule
ip route show table all | grep "table [0-9]"
find /run/cni -type f 2>/dev/null
true`

// Kernel is all that plugins may change on the node and in a pod, as text.
func (s *Site) Kernel(p *node.Pod) string {
	s.T.Helper()
	out, err := exec.CommandContext(must.Deadline(s.T), "sh", "-c", rules).CombinedOutput()
	must.Do(s.T, err)
	inside, err := p.Exec(must.Deadline(s.T), "sh", "-c", rules)
	must.Do(s.T, err)
	return s.World(nil) + string(out) + Links(s.T, p) + inside
}

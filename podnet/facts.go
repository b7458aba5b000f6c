package podnet

import (
	"strconv"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

// Facts describe the first kernel link of a result, for people; nil when it has none.
func Facts(path string, r *types100.Result) (facts map[string]string) {
	_ = With(path, func(h *netlink.Handle) error {
		for _, i := range r.Interfaces {
			if !IsLink(i) {
				continue
			}
			if link, err := h.LinkByName(i.Name); err == nil {
				facts = linkFacts(h, link)
				break
			}
		}
		return nil
	})
	return facts
}

func linkFacts(h *netlink.Handle, link netlink.Link) map[string]string {
	a := link.Attrs()
	facts := map[string]string{"name": a.Name, "kind": link.Type(), "mac": a.HardwareAddr.String(), "mtu": strconv.Itoa(a.MTU), "state": a.OperState.String()}
	if a.Statistics != nil {
		facts["rx packets"], facts["tx packets"] = strconv.FormatUint(a.Statistics.RxPackets, 10), strconv.FormatUint(a.Statistics.TxPackets, 10)
	}
	addresses, err := Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return facts
	}
	var list []string
	for _, a := range addresses {
		if a.Scope != int(netlink.SCOPE_LINK) {
			list = append(list, a.IPNet.String())
		}
	}
	if len(list) > 0 {
		facts["addresses"] = strings.Join(list, " ")
	}
	return facts
}

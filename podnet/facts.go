package podnet

import (
	"strconv"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

// Facts describe the first kernel link of a result, for people; nil when it has none.
func Facts(path string, r *types100.Result) map[string]string {
	for _, i := range r.Interfaces {
		if !IsLink(i) {
			continue
		}
		var facts map[string]string
		_ = With(path, func(h *netlink.Handle) (err error) {
			facts, err = linkFacts(h, i.Name)
			return err
		})
		if facts != nil {
			return facts
		}
	}
	return nil
}

func linkFacts(h *netlink.Handle, name string) (map[string]string, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	facts := map[string]string{"name": a.Name, "kind": link.Type(), "mac": a.HardwareAddr.String(), "mtu": strconv.Itoa(a.MTU), "state": a.OperState.String()}
	if a.Statistics != nil {
		facts["rx packets"], facts["tx packets"] = strconv.FormatUint(a.Statistics.RxPackets, 10), strconv.FormatUint(a.Statistics.TxPackets, 10)
	}
	addresses, err := Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return facts, err
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
	return facts, nil
}

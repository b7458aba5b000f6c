package sriov

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
)

// with are the settings with those of another that are known.
func (s settings) with(o settings) settings {
	return settings{
		cmp.Or(o.VLAN, s.VLAN), cmp.Or(o.SpoofChk, s.SpoofChk), cmp.Or(o.Trust, s.Trust),
		cmp.Or(o.LinkState, s.LinkState), cmp.Or(o.MinRate, s.MinRate), cmp.Or(o.MaxRate, s.MaxRate),
	}
}

// change is one request to the PF.
type change struct {
	says string
	do   func(l *links, pf, vf int) error
}

// changes leads from now to wanted; what wanted does not know stays. Trust comes
// first and spoof checking last when both are loosened, which is what drivers
// expect; a setting that is right already is not sent, as not every driver takes
// all of them.
func changes(now, wanted settings) []change {
	var all []change
	if v := wanted.VLAN; v != nil && (now.VLAN == nil || !sameTag(*now.VLAN, *v)) {
		all = append(all, change{"set " + v.String(), func(l *links, pf, vf int) error { return l.setVLAN(pf, vf, *v) }})
	}
	if t := wanted.Trust; t != nil && (now.Trust == nil || *now.Trust != *t) {
		all = append(all, change{"set trust " + onOff(*t), flag(nl.IFLA_VF_TRUST, *t)})
	}
	if differs(now.MinRate, wanted.MinRate) || differs(now.MaxRate, wanted.MaxRate) {
		low, high := orZero(cmp.Or(wanted.MinRate, now.MinRate)), orZero(cmp.Or(wanted.MaxRate, now.MaxRate))
		what := "max_tx_rate"
		if differs(now.MinRate, wanted.MinRate) {
			what = "min_tx_rate"
		}
		all = append(all, change{fmt.Sprintf("set %s (min_tx_rate %d, max_tx_rate %d)", what, low, high), func(l *links, pf, vf int) error {
			return l.setVF(pf, nl.IFLA_VF_RATE, words(uint32(vf), low, high))
		}})
	}
	if s := wanted.SpoofChk; s != nil && (now.SpoofChk == nil || *now.SpoofChk != *s) {
		all = append(all, change{"set spoofchk " + onOff(*s), flag(nl.IFLA_VF_SPOOFCHK, *s)})
	}
	if s := wanted.LinkState; s != nil && (now.LinkState == nil || *now.LinkState != *s) {
		state := *s
		all = append(all, change{"set link_state " + linkStateName(state), func(l *links, pf, vf int) error {
			return l.setVF(pf, nl.IFLA_VF_LINK_STATE, words(uint32(vf), state))
		}})
	}
	return all
}

func flag(attr int, on bool) func(l *links, pf, vf int) error {
	return func(l *links, pf, vf int) error {
		value := uint32(0)
		if on {
			value = 1
		}
		return l.setVF(pf, attr, words(uint32(vf), value))
	}
}

// sameTag takes all VLANs with number 0 for one: there is no tag.
func sameTag(a, b vlanTag) bool { return a == b || a.ID == 0 && b.ID == 0 && a.QoS == b.QoS }

func (v vlanTag) String() string {
	text := fmt.Sprintf("vlan %d", v.ID)
	if v.QoS != 0 {
		text += fmt.Sprintf(" vlanQoS %d", v.QoS)
	}
	if v.Proto == proto8021ad {
		text += " vlanProto 802.1ad"
	}
	return text
}

func differs(now, wanted *uint32) bool { return wanted != nil && (now == nil || *now != *wanted) }

func orZero(n *uint32) uint32 {
	if n == nil {
		return 0
	}
	return *n
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func linkStateName(state uint32) string {
	for name, value := range linkStates {
		if value == state {
			return name
		}
	}
	return fmt.Sprint(state)
}

// pfLink is the interface of a VF's PF.
func (h *host) pfLink(f *function) (*netlink.LinkAttrs, error) {
	devs, err := h.sys.netdevs(f.PF)
	if err != nil {
		return nil, err
	}
	if len(devs) == 0 {
		return nil, fmt.Errorf("PF %s of %s has no interface in this network namespace: its driver is gone, or it is in a pod", f.PF, f.PCI)
	}
	link, err := h.link(devs[0])
	if err != nil {
		return nil, fmt.Errorf("PF %s of %s: %w", f.PF, f.PCI, err)
	}
	return link, nil
}

// link is an interface that sysfs shows.
func (h *host) link(d netdev) (*netlink.LinkAttrs, error) {
	link, err := h.links.byIndex(d.Index)
	if err == nil && link == nil {
		err = errors.New("it is not in this network namespace, though sysfs shows it")
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", d.Name, err)
	}
	return link, nil
}

// do makes a change, which is announced before it; an error names it.
func do(ctx context.Context, change func() error, format string, args ...any) error {
	says := fmt.Sprintf(format, args...)
	if err := delegates.Step(ctx, "%s", says); err != nil {
		return err
	}
	if err := change(); err != nil {
		return fmt.Errorf("%s: %w", says, err)
	}
	return nil
}

// apply makes changes one by one.
func (h *host) apply(ctx context.Context, f *function, pf *netlink.LinkAttrs, all []change) error {
	for _, c := range all {
		if err := do(ctx, func() error { return explain(c.do(h.links, pf.Index, f.VF)) }, "%s of VF %d of %s", c.says, f.VF, pf.Name); err != nil {
			return err
		}
	}
	return nil
}

// explain says what the kernel's error means here.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return fmt.Errorf("the NIC's driver refuses it: %w", err)
	}
	return err
}

// zeroMAC is what a PF shows of a VF that has been given no address.
var zeroMAC = make(net.HardwareAddr, 6)

func sameMAC(a, b net.HardwareAddr) bool { return bytes.Equal(a, b) }

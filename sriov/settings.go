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

// changes leads from now to wanted; what wanted does not know stays. Trust comes
// first and spoof checking last when both are loosened, which is what drivers
// expect; a setting that is right already is not sent, as not every driver takes
// all of them.
func changes(now, wanted settings) (all []change) {
	vlan, state := value(wanted.VLAN), value(wanted.LinkState)
	low, high := value(cmp.Or(wanted.MinRate, now.MinRate)), value(cmp.Or(wanted.MaxRate, now.MaxRate))
	lowDiffers, rate := differs(now.MinRate, wanted.MinRate), "max_tx_rate"
	if lowDiffers {
		rate = "min_tx_rate"
	}
	for _, c := range []struct {
		needed bool
		change
	}{
		{differs(now.VLAN, wanted.VLAN) && (now.VLAN == nil || !now.VLAN.same(vlan)), vlan.change()},
		{differs(now.Trust, wanted.Trust), onOff("trust", nl.IFLA_VF_TRUST, wanted.Trust)},
		{lowDiffers || differs(now.MaxRate, wanted.MaxRate),
			change{fmt.Sprintf("set %s (min_tx_rate %d, max_tx_rate %d)", rate, low, high), nl.IFLA_VF_RATE, words(low, high)}},
		{differs(now.SpoofChk, wanted.SpoofChk), onOff("spoofchk", nl.IFLA_VF_SPOOFCHK, wanted.SpoofChk)},
		{differs(now.LinkState, wanted.LinkState), change{"set link_state " + linkStateName(state), nl.IFLA_VF_LINK_STATE, words(state)}},
	} {
		if c.needed {
			all = append(all, c.change)
		}
	}
	return all
}

func differs[T comparable](now, wanted *T) bool {
	return wanted != nil && (now == nil || *now != *wanted)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func onOff(name string, attr int, on *bool) change {
	if value(on) {
		return change{"set " + name + " on", attr, words(1)}
	}
	return change{"set " + name + " off", attr, words(0)}
}

func linkStateName(state uint32) string {
	if int(state) < len(linkStates) {
		return linkStates[state]
	}
	return fmt.Sprint(state)
}

// same takes all VLANs with number 0 for one: there is no tag.
func (v vlanTag) same(o vlanTag) bool { return v == o || v.ID == 0 && o.ID == 0 && v.QoS == o.QoS }

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

// setMACOnPF makes the PF give its VF an address, at its driver's next start.
func (h *host) setMACOnPF(f *function, mac net.HardwareAddr) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	return h.links.setVF(pf.Index, f.VF, macChange(mac))
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
func (h *host) apply(ctx context.Context, f *function, pf *netlink.LinkAttrs, all ...change) error {
	for _, c := range all {
		if err := do(ctx, func() error { return explain(h.links.setVF(pf.Index, f.VF, c)) }, "%s of VF %d of %s", c.says, f.VF, pf.Name); err != nil {
			return err
		}
	}
	return nil
}

// explain says what the kernel's error means here.
func explain(err error) error {
	for _, refusal := range []error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL, unix.ERANGE} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("the NIC's driver refuses it: %w", err)
		}
	}
	return err
}

// zeroMAC is what a PF shows of a VF that has been given no address.
var zeroMAC = make(net.HardwareAddr, 6)

func sameMAC(a, b net.HardwareAddr) bool { return bytes.Equal(a, b) }

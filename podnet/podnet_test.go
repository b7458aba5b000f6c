package podnet_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/rig/netns"
)

const own = "/proc/self/ns/net"

// The own namespace is identified and looked at without a privilege; what is none has no ID.
func TestOwnNamespace(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	id := podnet.ID(own)
	if id == "" || id != podnet.ID("/proc/thread-self/ns/net") {
		t.Errorf("ID %q", id)
	}
	for _, path := range []string{"", "/proc/self/exe", nowhere} {
		if got := podnet.ID(path); got != "" {
			t.Errorf("%q has ID %q", path, got)
		}
	}
	if got := podnet.Live(id, nowhere, own); got != own {
		t.Errorf("alive at %q", got)
	}
	if got := podnet.Live("0:0:0", own); got != "" {
		t.Errorf("another one is alive at %q", got)
	}
	names, err := podnet.LinkNames(own)
	if err != nil || !slices.Contains(names, "lo") {
		t.Errorf("links %q, %v", names, err)
	}
	if _, err := podnet.LinkNames(nowhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no namespace: %v", err)
	}
}

// result is of a link with an address.
func result(name, mac string, mtu int, address string) *types100.Result {
	ip, subnet, _ := net.ParseCIDR(address)
	return &types100.Result{
		Interfaces: []*types100.Interface{{Name: "vhost", Sandbox: own, SocketPath: "/s"}, {Name: name, Sandbox: own, Mac: mac, Mtu: mtu}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(1), Address: net.IPNet{IP: ip, Mask: subnet.Mask}}, {Address: *subnet}},
	}
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if part == "" && err != nil || part != "" && (err == nil || !strings.Contains(err.Error(), part)) {
		t.Errorf("error %v, want %q", err, part)
	}
}

// Links and routes of a pod are compared with what was made, one difference at a time.
func TestCompare(t *testing.T) {
	if netns.AsRoot(t) {
		return
	}
	path := netns.New(t)
	var mac string
	err := podnet.With(path, func(h *netlink.Handle) error {
		for name, address := range map[string]string{"eth0": "10.7.0.7/24", "net1": "10.8.0.7/24"} {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, PeerName: "peer-" + name}
			addr, err := netlink.ParseAddr(address)
			if err := errors.Join(err, h.LinkAdd(link), h.LinkSetUp(link), h.AddrAdd(link, addr)); err != nil {
				return err
			}
		}
		link, err := h.LinkByName("eth0")
		if err == nil {
			mac = link.Attrs().HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r    *types100.Result
		want string
	}{
		{result("eth0", strings.ToUpper(mac), 1400, "10.7.0.7/24"), ""},
		{result("eth0", "", 0, "10.7.0.7/24"), ""},
		{result("eth0", "02:00:00:00:00:01", 0, "10.7.0.7/24"), "interface eth0: MAC is " + mac},
		{result("eth0", "", 1500, "10.7.0.7/24"), "interface eth0: MTU is 1400, was 1500"},
		{result("eth0", "", 0, "10.7.0.8/24"), "address 10.7.0.8/24 is gone"},
		{result("eth9", "", 0, "10.7.0.7/24"), "interface eth9: "},
		{&types100.Result{}, ""},
	} {
		wantError(t, podnet.CompareLinks(path, c.r), c.want)
	}
	facts := podnet.Facts(path, result("eth0", "", 0, "10.7.0.7/24"))
	if facts["mac"] != mac || facts["mtu"] != "1400" || facts["addresses"] != "10.7.0.7/24" || facts["kind"] != "veth" {
		t.Errorf("facts %v", facts)
	}
	if facts := podnet.Facts(path, result("eth9", "", 0, "10.7.0.7/24")); facts != nil {
		t.Errorf("facts of nothing: %v", facts)
	}

	gateways := func(all ...string) (list []netip.Addr) {
		for _, gw := range all {
			list = append(list, netip.MustParseAddr(gw))
		}
		return list
	}
	route := &types.Route{Dst: *podnet.DefaultDst(gateways("10.7.0.1")[0]), GW: net.ParseIP("10.7.0.1")}
	wantError(t, podnet.ReplaceRoutes(path, "eth0", []*types.Route{route}), "")
	wantError(t, podnet.CompareDefault(path, "eth0", gateways("10.7.0.1")), "")
	wantError(t, podnet.CompareDefault(path, "eth0", nil), "")
	wantError(t, podnet.CompareDefault(path, "net1", gateways("10.8.0.1")), "there is another default route, via 10.7.0.1")
	wantError(t, podnet.CompareDefault(path, "net1", gateways("10.8.0.1")), "the default route via 10.8.0.1 is gone")
	wantError(t, podnet.CompareDefault(path, "eth9", gateways("10.8.0.1")), "interface eth9")
	for _, gws := range [][]netip.Addr{gateways("10.8.0.1"), gateways("10.8.0.1", "10.8.0.2")} {
		wantError(t, podnet.MoveDefault(path, "net1", gws), "")
		wantError(t, podnet.CompareDefault(path, "net1", gws), "")
	}
	wantError(t, podnet.MoveDefault(path, "net1", gateways("10.9.0.1")), "default route via")
	wantError(t, podnet.MoveDefault(path, "eth9", gateways("10.9.0.1")), "the interface is needed")
	wantError(t, podnet.ReplaceRoutes(path, "eth9", nil), "Link not found")
	if dst := podnet.DefaultDst(gateways("fd00::1")[0]); !podnet.IsDefault(dst) || dst.String() != "::/0" {
		t.Errorf("default of IPv6: %s", dst)
	}
}

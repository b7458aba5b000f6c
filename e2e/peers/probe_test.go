package peers

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/conf"
)

// probeBin is the folder of the probes in the folder of a case, callsFile their log.
const (
	probeBin  = "probes"
	callsFile = "calls"
	// passthru is the type of Multus' own plugin with which its auxiliary chain begins. It
	// does nothing, and is not noted.
	passthru = "passthru"
)

// probeDir is the folder of the case, if this process is a probe.
func probeDir() string {
	if dir := filepath.Dir(os.Args[0]); filepath.Base(dir) == probeBin {
		return filepath.Dir(dir)
	}
	return ""
}

// probeConf is what a probe reads of its configuration.
type probeConf struct {
	CNIVersion string         `json:"cniVersion"`
	PrevResult map[string]any `json:"prevResult"`
	Runtime    asked          `json:"runtimeConfig"`
	Args       struct {
		CNI asked `json:"cni"`
	} `json:"args"`
	Probe struct {
		Fail   string `json:"fail"`   // the verb that fails
		Empty  bool   `json:"empty"`  // no interface, no address
		Routed bool   `json:"routed"` // a default route
	} `json:"probe"`
}

// asked is what a network may be asked for.
type asked struct {
	MAC string   `json:"mac"`
	IPs []string `json:"ips"`
}

// probe is a plugin of any type. It notes its call. The first of a list makes an
// interface, with the MAC and the addresses that it is asked for in any of the ways that
// reference plugins know, or with those that belong to the interface's name.
func probe(dir, typ string) int {
	verb := os.Getenv("CNI_COMMAND")
	if verb == "VERSION" {
		fmt.Println(`{"cniVersion": "1.1.0", "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}`)
		return 0
	}
	var c probeConf
	stdin, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(stdin, &c)
	}
	if err == nil && typ != passthru {
		err = note(dir, typ, verb, stdin)
	}
	if err == nil && c.Probe.Fail == verb {
		err = fmt.Errorf("told to fail")
	}
	if err == nil {
		switch verb {
		case "ADD":
			err = c.add()
		case "DEL":
			err = inPod(removeLink)
		}
	}
	if err != nil {
		fmt.Printf(`{"code": 123, "msg": %q}`, err)
		return 1
	}
	return 0
}

// note appends the call to the log of the case.
func note(dir, typ, verb string, stdin []byte) error {
	one := call{Verb: verb, Type: typ, IfName: os.Getenv("CNI_IFNAME"), Args: map[string]string{}}
	args, err := conf.ParseArgs(os.Getenv("CNI_ARGS"))
	if err != nil {
		return err
	}
	for _, pair := range args {
		one.Args[pair[0]] = pair[1]
	}
	if err := json.Unmarshal(stdin, &one.Config); err != nil {
		return err
	}
	line, err := json.Marshal(one)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, callsFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

// inPod does something in the pod's network namespace, unless it is gone.
func inPod(do func(ifName string) error) error {
	path, ifName := os.Getenv("CNI_NETNS"), os.Getenv("CNI_IFNAME")
	if path == "" {
		return nil
	}
	return ns.WithNetNSPath(path, func(ns.NetNS) error { return do(ifName) })
}

func removeLink(ifName string) error {
	link, err := netlink.LinkByName(ifName)
	if err != nil {
		return nil // it is gone
	}
	return netlink.LinkDel(link)
}

// add makes the interface, if there is no result yet, and prints the result.
func (c *probeConf) add() error {
	if c.PrevResult != nil {
		return json.NewEncoder(os.Stdout).Encode(c.PrevResult)
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if !c.Probe.Empty && filepath.Base(os.Args[0]) != passthru {
		if err := c.wanted(result); err != nil {
			return err
		}
		if err := inPod(func(ifName string) error { return makeLink(ifName, result) }); err != nil {
			return err
		}
	}
	version := c.CNIVersion
	if version == "" {
		version = "0.1.0"
	}
	old, err := result.GetAsVersion(version)
	if err != nil {
		return err
	}
	return old.Print()
}

// wanted fills in the interface that is asked for.
func (c *probeConf) wanted(r *types100.Result) error {
	args, err := conf.ParseArgs(os.Getenv("CNI_ARGS"))
	if err != nil {
		return err
	}
	ifName := os.Getenv("CNI_IFNAME")
	n := number(ifName)
	mac := fmt.Sprintf("0a:00:00:00:00:%02x", n)
	ips := []string{fmt.Sprintf("10.1.%d.5/24", n)}
	for _, a := range []asked{c.Args.CNI, {args.Get("MAC"), words(args.Get("IP"))}, c.Runtime} {
		if a.MAC != "" {
			mac = strings.ToLower(a.MAC)
		}
		if len(a.IPs) > 0 {
			ips = a.IPs
		}
	}
	r.Interfaces = []*types100.Interface{{Name: ifName, Mac: mac, Sandbox: os.Getenv("CNI_NETNS")}}
	for _, text := range ips {
		if !strings.Contains(text, "/") {
			text += map[bool]string{true: "/64", false: "/24"}[strings.Contains(text, ":")]
		}
		ip, ipnet, err := net.ParseCIDR(text)
		if err != nil {
			return err
		}
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: net.IPNet{IP: ip, Mask: ipnet.Mask}})
	}
	if c.Probe.Routed || ifName == "eth0" {
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		r.Routes = []*types.Route{{Dst: *all, GW: net.ParseIP(fmt.Sprintf("10.1.%d.1", n))}}
	}
	return nil
}

func words(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// number is that of the interface: N of netN and ethN, else one made of the name.
func number(ifName string) int {
	for _, prefix := range []string{"eth", "net"} {
		if n, err := strconv.Atoi(strings.TrimPrefix(ifName, prefix)); err == nil {
			return n % 100
		}
	}
	sum := fnv.New32()
	_, _ = sum.Write([]byte(ifName))
	return 100 + int(sum.Sum32()%100)
}

// makeLink makes the interface in the current network namespace.
func makeLink(ifName string, r *types100.Result) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ifName
	var err error
	if attrs.HardwareAddr, err = net.ParseMAC(r.Interfaces[0].Mac); err != nil {
		return err
	}
	link := &netlink.Bridge{LinkAttrs: attrs} // of the kinds of link that stand alone, every kernel has this one
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("make %s: %w", ifName, err)
	}
	for _, ip := range r.IPs {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &ip.Address}); err != nil {
			return fmt.Errorf("address %s of %s: %w", ip.Address.String(), ifName, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, route := range r.Routes {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: route.GW, Flags: int(netlink.FLAG_ONLINK), Priority: number(ifName)}); err != nil {
			return fmt.Errorf("default route of %s: %w", ifName, err)
		}
	}
	return nil
}

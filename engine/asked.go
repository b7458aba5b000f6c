package engine

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/podnet"
)

// compareAsked refuses a result of ADD with another MAC than the pod asks for, or without one of
// the addresses: plugins that cannot give them say nothing. A MAC that neither the result nor a
// link in the pod tells is not compared.
func (a *attachment) compareAsked(r *types100.Result) error {
	const hint = "no plugin of the network gives it: leave it out of the annotation, or change the network"
	if a.MAC != "" {
		asked, err := net.ParseMAC(a.MAC)
		if err != nil {
			return err
		}
		if given, err := net.ParseMAC(a.macIn(r)); err == nil && !bytes.Equal(given, asked) {
			return conf.Refuse(fmt.Errorf("key %q: %s is asked for, %s was given; %s", "mac", asked, given, hint))
		}
	}
	for _, text := range a.IPs {
		address, _, _ := strings.Cut(text, "/")
		asked := net.ParseIP(address)
		if !slices.ContainsFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(asked) }) {
			return conf.Refuse(fmt.Errorf("key %q: %s is asked for, given was %v; %s", "ips", asked, addressesOf(r), hint))
		}
	}
	return nil
}

// macIn is the MAC of the interface in the pod as a result tells it, or as the kernel does.
func (a *attachment) macIn(r *types100.Result) string {
	for _, i := range r.Interfaces {
		if i.Sandbox != "" && i.Name == a.IfName && i.Mac != "" {
			return i.Mac
		}
	}
	return podnet.MAC(a.netns, a.IfName)
}

func addressesOf(r *types100.Result) []string {
	all := make([]string, len(r.IPs))
	for i, ip := range r.IPs {
		all[i] = ip.Address.String()
	}
	return all
}

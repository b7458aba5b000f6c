package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// ipam is the address management of one built-in attachment. host-local runs in-process on
// the plugin's own backend and files, static is read from the configuration; any other type
// is executed. A plugin that is an executable runs its own IPAM.
type ipam struct {
	a      *delegates.Attachment
	config []byte // of the built-in
	args   string // CNI_ARGS
	path   []string
	exec   *executor

	typ        string // "" without ipam
	cniVersion string
}

func (c *Chain) newIPAM(config []byte, a *delegates.Attachment) *ipam {
	var keys struct {
		CNIVersion string `json:"cniVersion"`
	}
	_ = json.Unmarshal(config, &keys) // libcni has parsed it before
	return &ipam{a: a, config: config, args: a.Args.String(), path: c.Path, exec: c.exec, typ: ipamType(config), cniVersion: keys.CNIVersion}
}

func (i *ipam) add(ctx context.Context) (*types100.Result, error) {
	if i.typ == "" {
		return nil, nil
	}
	if err := delegates.Step(ctx, "%s: ipam %s: allocate", i.a.IfName, i.typ); err != nil {
		return nil, err
	}
	result, err := i.allocate(ctx)
	if err != nil {
		return nil, fmt.Errorf("ipam %s: %w", i.typ, err)
	}
	if len(result.IPs) == 0 {
		return nil, fmt.Errorf("ipam %s: it gave no address", i.typ)
	}
	return result, nil
}

func (i *ipam) allocate(ctx context.Context) (*types100.Result, error) {
	switch i.typ {
	case "host-local":
		h, err := newHostLocal(i.a, i.config, i.args)
		if err != nil {
			return nil, err
		}
		return h.add(ctx)
	case "static":
		r, err := static(i.config, i.args)
		return r, conf.Refuse(err)
	}
	path, err := i.exec.FindInPath(i.typ, i.path)
	if err != nil {
		return nil, err
	}
	r, err := invoke.ExecPluginWithResult(ctx, path, i.config, i.env("ADD"), i.exec)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

func (i *ipam) check(ctx context.Context) error {
	switch i.typ {
	case "":
		return nil
	case "host-local":
		h, err := newHostLocal(i.a, i.config, i.args)
		if err == nil {
			err = h.check(ctx)
		}
		return i.named(err)
	case "static":
		return nil // static: the addresses are in the configuration
	}
	if knows, err := version.GreaterThanOrEqualTo(i.cniVersion, "0.4.0"); err == nil && !knows {
		return nil // CNI has CHECK since 0.4.0
	}
	return i.execute(ctx, "CHECK")
}

// checkType checks that the type can be run, within the bounds of the node.
func (i *ipam) checkType() error {
	if i.typ == "host-local" { // before the record is written: a refused request is not undone
		h, err := newHostLocal(i.a, i.config, i.args)
		if err == nil {
			err = h.checkBounds()
		}
		return i.named(conf.Refuse(err))
	}
	if i.builtIn() {
		return nil
	}
	_, err := i.exec.FindInPath(i.typ, i.path)
	if errors.Is(err, errPlexus) {
		return conf.Refuse(fmt.Errorf("ipam: key %q: %w", "ipam.type", err))
	}
	if err != nil {
		return conf.Refuse(fmt.Errorf("ipam %s: it is neither host-local nor static nor in %s: install it there or correct \"ipam.type\"", i.typ, strings.Join(i.path, ":")))
	}
	return nil
}

// builtIn reports whether the type runs without an executable.
func (i *ipam) builtIn() bool { return i.typ == "" || i.typ == "host-local" || i.typ == "static" }

func (i *ipam) del(ctx context.Context) error {
	if i.typ == "" || i.typ == "static" {
		return nil
	}
	if err := delegates.Step(ctx, "%s: ipam %s: release", i.a.IfName, i.typ); err != nil {
		return err
	}
	if i.typ == "host-local" {
		h, err := newHostLocal(i.a, i.config, i.args)
		if err != nil {
			return nil // ADD cannot read it either: nothing is reserved
		}
		return i.named(h.del(ctx))
	}
	return i.execute(ctx, "DEL")
}

// gc runs GC of an executable; Engine.GC collects the addresses of host-local. config has
// the valid attachments.
func (i *ipam) gc(ctx context.Context, config []byte) error {
	if i.builtIn() {
		return nil
	}
	with := *i
	with.config = config
	return with.execute(ctx, "GC")
}

// named adds the type to an error.
func (i *ipam) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ipam %s: %w", i.typ, err)
}

func (i *ipam) execute(ctx context.Context, command string) error {
	path, err := i.exec.FindInPath(i.typ, i.path)
	if err == nil {
		err = invoke.ExecPluginWithoutResult(ctx, path, i.config, i.env(command), i.exec)
	}
	return i.named(err)
}

func (i *ipam) env(command string) *invoke.Args {
	return &invoke.Args{
		Command: command, ContainerID: i.a.Sandbox, NetNS: i.a.Netns, IfName: i.a.IfName,
		PluginArgsStr: i.args, Path: strings.Join(i.path, string(os.PathListSeparator)),
	}
}

// static reads addresses, routes and dns from the configuration. Addresses
// from the runtime (runtimeConfig.ips) or from args.cni.ips replace those of
// the configuration, those of CNI_ARGS come in addition (plugins/ipam/static).
func static(config []byte, args string) (*types100.Result, error) {
	var c struct {
		IPAM struct {
			Addresses []struct {
				Address string `json:"address"`
				Gateway net.IP `json:"gateway"`
			} `json:"addresses"`
			Routes []*types.Route `json:"routes"`
			DNS    types.DNS      `json:"dns"`
		} `json:"ipam"`
		RuntimeConfig struct {
			IPs []string `json:"ips"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs []string `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	result := &types100.Result{Routes: c.IPAM.Routes, DNS: c.IPAM.DNS}
	add := func(key, cidr string, gateway net.IP) error {
		ip, subnet, err := net.ParseCIDR(strings.TrimSpace(cidr))
		if err != nil {
			return fmt.Errorf("key %q: %.60q, want an address with its prefix like 10.0.0.7/24", key, cidr)
		}
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		result.IPs = append(result.IPs, &types100.IPConfig{Address: net.IPNet{IP: ip, Mask: subnet.Mask}, Gateway: gateway})
		return nil
	}
	env, err := conf.ParseArgs(args)
	if err != nil {
		return nil, err
	}
	override, key := c.RuntimeConfig.IPs, "runtimeConfig.ips"
	if len(override) == 0 {
		override, key = c.Args.CNI.IPs, "args.cni.ips"
	}
	if len(override) > 0 {
		for _, cidr := range override {
			if err := add(key, cidr, nil); err != nil {
				return nil, err
			}
		}
		return result, nil
	}
	for _, a := range c.IPAM.Addresses {
		if err := add("ipam.addresses.address", a.Address, a.Gateway); err != nil {
			return nil, err
		}
	}
	for cidr := range strings.SplitSeq(env.Get("IP"), ",") {
		if cidr == "" {
			continue
		}
		if err := add("CNI_ARGS IP", cidr, nil); err != nil {
			return nil, err
		}
	}
	for text := range strings.SplitSeq(env.Get("GATEWAY"), ",") {
		if text == "" {
			continue
		}
		gateway := net.ParseIP(strings.TrimSpace(text))
		if gateway == nil {
			return nil, fmt.Errorf("CNI_ARGS GATEWAY: %.60q is no address", text)
		}
		for _, ip := range result.IPs {
			if ip.Address.Contains(gateway) {
				ip.Gateway = gateway
			}
		}
	}
	return result, nil
}

package plugin

import (
	"cmp"
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
	chain   *Chain
	a       *delegates.Attachment
	config  []byte // of the built-in
	typ     string // "" without ipam
	local   *hostLocal
	refused error // of host-local's configuration
}

// Types of IPAM that run without an executable.
const (
	typeHostLocal = "host-local"
	typeStatic    = "static"
)

func (c *Chain) newIPAM(config []byte, a *delegates.Attachment) *ipam {
	var keys struct {
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	_ = json.Unmarshal(config, &keys) // libcni has parsed it before
	i := &ipam{chain: c, a: a, config: config, typ: keys.IPAM.Type}
	if i.typ == typeHostLocal {
		i.local, i.refused = newHostLocal(a, config, c.Network.AddArgs())
	}
	return i
}

func (i *ipam) add(ctx context.Context) (*types100.Result, error) {
	if i.typ == "" {
		return nil, nil
	}
	if err := delegates.Step(ctx, "%s: ipam %s: allocate", i.a.IfName, i.typ); err != nil {
		return nil, err
	}
	result, err := i.allocate(ctx)
	if err == nil && len(result.IPs) == 0 {
		err = errors.New("it gave no address")
	}
	if err != nil {
		return nil, i.named(err)
	}
	return result, nil
}

func (i *ipam) allocate(ctx context.Context) (*types100.Result, error) {
	switch {
	case i.refused != nil:
		return nil, i.refused
	case i.typ == typeHostLocal:
		return i.local.add(ctx)
	case i.typ == typeStatic:
		r, err := static(i.config, i.chain.Network.AddArgs())
		return r, conf.Refuse(err)
	}
	path, err := i.chain.Runner.FindInPath(i.typ, i.chain.Path)
	if err != nil {
		return nil, err
	}
	r, err := invoke.ExecPluginWithResult(ctx, path, i.config, i.env("ADD", i.chain.Network.AddArgs()), i.chain.Runner)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

func (i *ipam) check(ctx context.Context) error {
	switch {
	case i.refused != nil:
		return i.named(i.refused)
	case i.typ == typeHostLocal:
		return i.named(i.local.check(ctx))
	case i.builtIn(): // static: the addresses are in the configuration
		return nil
	}
	if knows, err := version.GreaterThanOrEqualTo(i.chain.list.CNIVersion, "0.4.0"); err == nil && !knows {
		return nil // CNI has CHECK since 0.4.0
	}
	return i.execute(ctx, "CHECK", i.config)
}

// checkType checks that the type can be run, within the bounds of the node.
func (i *ipam) checkType() error {
	switch {
	case i.refused != nil:
		return i.named(i.refused)
	case i.typ == typeHostLocal: // before the record is written: a refused request is not undone
		return i.named(conf.Refuse(i.local.checkBounds()))
	case i.builtIn():
		return nil
	}
	return i.chain.findIPAM(i.typ)
}

// findIPAM finds the executable of an IPAM plugin.
func (c *Chain) findIPAM(typ string) error {
	_, err := c.Runner.FindInPath(typ, c.Path)
	if errors.Is(err, errPlexus) {
		return conf.Refuse(fmt.Errorf("ipam: key %q: %w", "ipam.type", err))
	}
	if err != nil {
		return conf.Refuse(fmt.Errorf("ipam %s: it is not in %s: install it there or correct \"ipam.type\"", typ, strings.Join(c.Path, ":")))
	}
	return nil
}

// builtIn reports whether the type runs without an executable.
func (i *ipam) builtIn() bool { return i.typ == "" || i.typ == typeHostLocal || i.typ == typeStatic }

func (i *ipam) del(ctx context.Context) error {
	if i.typ == "" || i.typ == typeStatic {
		return nil
	}
	if err := delegates.Step(ctx, "%s: ipam %s: release", i.a.IfName, i.typ); err != nil {
		return err
	}
	switch {
	case i.refused != nil:
		return nil // ADD refuses it too: nothing is reserved
	case i.typ == typeHostLocal:
		return i.named(i.local.del(ctx))
	}
	return i.execute(ctx, "DEL", i.config)
}

// gc runs GC of an executable; Engine.GC collects the addresses of host-local. config has
// the valid attachments.
func (i *ipam) gc(ctx context.Context, config []byte) error {
	if i.builtIn() {
		return nil
	}
	return i.execute(ctx, "GC", config)
}

// named adds the type to an error.
func (i *ipam) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ipam %s: %w", i.typ, err)
}

func (i *ipam) execute(ctx context.Context, command string, config []byte) error {
	path, err := i.chain.Runner.FindInPath(i.typ, i.chain.Path)
	if err == nil {
		err = invoke.ExecPluginWithoutResult(ctx, path, config, i.env(command, i.a.Args), i.chain.Runner)
	}
	if err != nil {
		return &ExecutableError{"ipam " + i.typ, err}
	}
	return nil
}

func (i *ipam) env(command string, args conf.Args) *invoke.Args {
	return &invoke.Args{
		Command: command, ContainerID: i.a.Sandbox, NetNS: i.a.Netns, IfName: i.a.IfName,
		PluginArgsStr: args.String(), Path: strings.Join(i.chain.Path, string(os.PathListSeparator)),
	}
}

// static reads addresses, routes and dns from the configuration. Addresses
// from the runtime (runtimeConfig.ips) or from args.cni.ips replace those of
// the configuration, those of CNI_ARGS come in addition (plugins/ipam/static).
func static(config []byte, args conf.Args) (*types100.Result, error) {
	type address struct {
		Address string `json:"address"`
		Gateway net.IP `json:"gateway"`
	}
	var c struct {
		IPAM struct {
			Addresses []address      `json:"addresses"`
			Routes    []*types.Route `json:"routes"`
			DNS       types.DNS      `json:"dns"`
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
	add := func(key string, all ...address) error {
		for _, a := range all {
			ip, subnet, err := net.ParseCIDR(strings.TrimSpace(a.Address))
			if err != nil {
				return fmt.Errorf("key %q: %.60q, want an address with its prefix like 10.0.0.7/24", key, a.Address)
			}
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			result.IPs = append(result.IPs, &types100.IPConfig{Address: net.IPNet{IP: ip, Mask: subnet.Mask}, Gateway: a.Gateway})
		}
		return nil
	}
	addTexts := func(key string, texts []string) error {
		for _, text := range texts {
			if err := add(key, address{Address: text}); err != nil {
				return err
			}
		}
		return nil
	}
	switch {
	case len(c.RuntimeConfig.IPs) > 0:
		return result, addTexts("runtimeConfig.ips", c.RuntimeConfig.IPs)
	case len(c.Args.CNI.IPs) > 0:
		return result, addTexts("args.cni.ips", c.Args.CNI.IPs)
	}
	if err := cmp.Or(add("ipam.addresses.address", c.IPAM.Addresses...), addTexts("CNI_ARGS IP", listOf(args, "IP"))); err != nil {
		return nil, err
	}
	for _, text := range listOf(args, "GATEWAY") {
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

// listOf are the elements of an argument, separated by commas.
func listOf(args conf.Args, key string) []string {
	return strings.FieldsFunc(args.Get(key), func(r rune) bool { return r == ',' })
}

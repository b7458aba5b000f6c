package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/plexus-cni/plexus/conf"
)

// addPlugins runs ADD over the chain as libcni would. The cache is written at the end
// of the transaction (Transaction.cache): DEL hands its result to executables, and finds by
// it what is attached when the record is lost. An ADD that is cut short before has none,
// as one that is cut short in a plugin.
func (c *chain) addPlugins(ctx context.Context, list *readList) (types.Result, error) {
	for _, err := range []*types.Error{utils.ValidateContainerID(c.sandbox), utils.ValidateNetworkName(list.Name), utils.ValidateInterfaceName(c.entry.IfName)} {
		if err != nil {
			return nil, err
		}
	}
	var result types.Result
	for i, p := range list.Plugins {
		var err error
		if result, err = c.addPlugin(ctx, i, p, result); err != nil {
			return nil, fmt.Errorf("plugin type=%q failed (add): %w", p.Network.Type, err)
		}
	}
	// As it is now: the default route may go to another attachment.
	data, err := c.cached(list.Bytes, result)
	if err != nil {
		return nil, err
	}
	c.entry.cache = func() error { return c.remember(data) }
	return result, nil
}

// Cached is what libcni keeps of an attachment (cachedInfo in libcni/api.go of
// github.com/containernetworking/cni).
type Cached struct {
	Kind           string          `json:"kind"`
	ContainerID    string          `json:"containerId"`
	Config         []byte          `json:"config"`
	IfName         string          `json:"ifName"`
	NetworkName    string          `json:"networkName"`
	Netns          string          `json:"netns,omitempty"`
	CNIArgs        [][2]string     `json:"cniArgs,omitempty"`
	CapabilityArgs map[string]any  `json:"capabilityArgs,omitempty"`
	Result         json.RawMessage `json:"result,omitempty"`
}

// cached is what libcni would keep of the attachment.
func (c *chain) cached(config []byte, result types.Result) ([]byte, error) {
	answer, err := encodeResult(result)
	if err != nil {
		return nil, err
	}
	of := c.runtimeConf()
	return json.Marshal(&Cached{
		libcni.CNICacheV1, of.ContainerID, config, of.IfName, c.entry.List.Name, of.NetNS, of.Args, of.CapabilityArgs, answer,
	})
}

// remember writes libcni's cache.
func (c *chain) remember(data []byte) error {
	return writeFile(c.cacheFile(), data, 0o600, 0o700)
}

func (c *chain) cacheFile() string {
	return filepath.Join(c.Journal.DataDir(), "results", fmt.Sprintf("%s-%s-%s", c.entry.List.Name, c.sandbox, c.entry.IfName))
}

// addPlugin runs ADD of plugin i behind the result of the one before it.
func (c *chain) addPlugin(ctx context.Context, i int, p *libcni.PluginConfig, before types.Result) (types.Result, error) {
	a, err := c.planned(i)
	if err != nil {
		return nil, err
	}
	if before != nil {
		with, err := libcni.InjectConf(&libcni.PluginConfig{Network: p.Network, Bytes: a.Conf}, map[string]any{"prevResult": before})
		if err != nil {
			return nil, err
		}
		a.Conf = with.Bytes
	}
	if _, ok := c.builtIn(p.Network.Type); ok {
		return c.addBuiltin(ctx, p.Network.Type, a, before)
	}
	return c.addExecutable(ctx, p.Network.Type, a.Conf)
}

// addBuiltin runs ADD of a built-in delegate, with the addresses that its IPAM plugin gives.
func (c *chain) addBuiltin(ctx context.Context, typ string, a conf.Attachment, before types.Result) (types.Result, error) {
	if err := c.step(ctx, "ADD", typ); err != nil {
		return nil, err
	}
	var err error
	if a.IPAM, err = c.ipam(a, c.entry.Args.String()).add(ctx); err != nil {
		return nil, err
	}
	result, err := c.Delegates[typ].Add(ctx, a, c.entry.State[typ])
	if err != nil {
		return nil, err
	}
	c.native = append(c.native, result.Interfaces...)
	return behind(before, result, c.entry.List.CNIVersion)
}

// addExecutable runs ADD of an executable.
func (c *chain) addExecutable(ctx context.Context, typ string, config []byte) (types.Result, error) {
	path, err := c.FindInPath(typ, c.tx.Path)
	if err != nil {
		return nil, err
	}
	if err := c.step(ctx, "ADD", typ); err != nil {
		return nil, err
	}
	output, err := c.exec.ExecPlugin(ctx, path, config, c.environment("ADD"))
	if err != nil {
		return nil, err
	}
	return parseResult(ctx, typ, config, output)
}

// environment is that of a plugin (CNI specification 1.1.0, section 2,
// "Parameters"). What comes later counts.
func (c *chain) environment(command string) []string {
	return append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+c.sandbox, "CNI_NETNS="+c.netns,
		"CNI_ARGS="+c.entry.Args.String(), "CNI_IFNAME="+c.entry.IfName, "CNI_PATH="+strings.Join(c.tx.Path, string(os.PathListSeparator)))
}

// cache writes libcni's cache.
func (tx *Transaction) cache() error {
	var errs []error
	for _, entry := range tx.Attachments {
		if entry.cache != nil {
			if err := entry.cache(); err != nil {
				errs = append(errs, fmt.Errorf("cache the result of %s (network %s): %w", entry.IfName, entry.Name, err))
			}
			entry.cache = nil
		}
	}
	return errors.Join(errs...)
}

package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// addPlugins runs ADD over the chain as libcni would, which caches the result when the
// API server is asked (Transaction.cache): DEL hands it to executables, and finds by it
// what is attached when the record is lost. An ADD that is cut short before has none in
// the cache, as one that is cut short in a plugin.
func (c *chain) addPlugins(ctx context.Context, list *readList) (types.Result, error) {
	for _, err := range []*types.Error{utils.ValidateContainerID(c.sandbox), utils.ValidateNetworkName(list.Name), utils.ValidateInterfaceName(c.entry.IfName)} {
		if err != nil {
			return nil, err
		}
	}
	var result types.Result
	var output []byte
	for i, p := range list.Plugins {
		var err error
		if result, output, err = c.addPlugin(ctx, i, p, result); err != nil {
			return nil, fmt.Errorf("plugin type=%q failed (add): %w", p.Network.Type, err)
		}
	}
	c.entry.cache = func() error {
		last := *list.NetworkConfigList
		last.Plugins = last.Plugins[len(last.Plugins)-1:]
		told := libcni.NewCNIConfigWithCacheDir(c.tx.Path, c.Journal.DataDir(), &replay{output: output})
		_, err := told.AddNetworkList(context.WithoutCancel(ctx), &last, c.runtimeConf())
		return err
	}
	return result, nil
}

// addPlugin runs ADD of plugin i behind the result of the one before it. output is
// what it answered.
func (c *chain) addPlugin(ctx context.Context, i int, p *libcni.PluginConfig, before types.Result) (result types.Result, output []byte, err error) {
	a, err := c.planned(i)
	if err != nil {
		return nil, nil, err
	}
	config := []byte(a.Conf)
	if before != nil {
		behind, err := libcni.InjectConf(&libcni.PluginConfig{Network: p.Network, Bytes: config}, map[string]any{"prevResult": before})
		if err != nil {
			return nil, nil, err
		}
		config = behind.Bytes
	}
	path, environ := builtinPath+p.Network.Type, []string{"CNI_COMMAND=ADD", "CNI_ARGS=" + c.entry.Args.String()}
	if _, ok := c.builtIn(p.Network.Type); !ok {
		if path, err = c.FindInPath(p.Network.Type, c.tx.Path); err != nil {
			return nil, nil, err
		}
		environ = c.environment("ADD")
	}
	if output, err = c.ExecPlugin(ctx, path, config, environ); err != nil {
		return nil, nil, err
	}
	result, err = parseResult(ctx, config, output)
	return result, output, err
}

// parseResult reads what a plugin has answered. libcni knows what one means that
// names no version.
func parseResult(ctx context.Context, config, output []byte) (types.Result, error) {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(output, &head); err != nil || head.CNIVersion == "" {
		return invoke.ExecPluginWithResult(ctx, "", config, &invoke.Args{}, &replay{output: output})
	}
	return create.Create(head.CNIVersion, output)
}

// environment is that of a plugin (CNI specification 1.1.0, section 2,
// "Parameters"). What comes later counts.
func (c *chain) environment(command string) []string {
	return append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+c.sandbox, "CNI_NETNS="+c.netns,
		"CNI_ARGS="+c.entry.Args.String(), "CNI_IFNAME="+c.entry.IfName, "CNI_PATH="+strings.Join(c.tx.Path, string(os.PathListSeparator)))
}

// cache has libcni cache the results, which it has not seen.
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

// replay is an invoke.Exec that answers what a plugin has answered.
type replay struct {
	version.PluginDecoder
	output []byte
}

// FindInPath is invoke.Exec.
func (*replay) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }

// ExecPlugin is invoke.Exec.
func (r *replay) ExecPlugin(context.Context, string, []byte, []string) ([]byte, error) {
	return r.output, nil
}

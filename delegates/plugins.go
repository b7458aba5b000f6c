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
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

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
		if err := c.entry.ended(); err != nil { // the one before
			return nil, err
		}
		var err error
		if result, err = c.addPlugin(ctx, i, p, result); err != nil {
			return nil, failedAdd(p.Network.Type, err)
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

// addExecutable runs ADD of an executable. Its answer holds when Entry.ended has said that
// it has ended well. That takes the kernel some time, in which the answer is read.
func (c *chain) addExecutable(ctx context.Context, typ string, config []byte) (types.Result, error) {
	path, err := c.FindInPath(typ, c.tx.Path)
	if err != nil {
		return nil, err
	}
	if err := c.step(ctx, "ADD", typ); err != nil {
		return nil, err
	}
	running, err := c.exec.exec(ctx, path, config, c.environment("ADD"))
	if err != nil {
		return nil, err
	}
	answered := running.output
	result, err := parseResult(ctx, config, answered)
	if err != nil || isError(answered) {
		if errEnd := running.ended(c.Stderr); errEnd != nil {
			return nil, errEnd
		}
		return parseResult(ctx, config, running.output)
	}
	c.entry.end = func() error {
		err := running.ended(c.Stderr)
		if err == nil && len(running.output) > len(answered) {
			_, err = parseResult(ctx, config, running.output)
		}
		return failedAdd(typ, err)
	}
	return result, nil
}

// isError reports whether a plugin seems to have answered with an error (CNI
// specification 1.1.0, section 5, "Error"). Its exit status says so.
func isError(output []byte) bool {
	var e types.Error
	return json.Unmarshal(output, &e) == nil && (e.Code != 0 || e.Msg != "")
}

func failedAdd(typ string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("plugin type=%q failed (add): %w", typ, err)
}

// ended waits for the end of the executable that was executed last.
func (entry *Entry) ended() error {
	end := entry.end
	if entry.end = nil; end == nil {
		return nil
	}
	return end()
}

// ended waits for all that was executed.
func (tx *Transaction) ended() error {
	var errs []error
	for _, entry := range tx.Attachments {
		if err := entry.ended(); err != nil {
			errs = append(errs, fmt.Errorf("add %s (network %s): %w", entry.IfName, entry.Name, err))
		}
	}
	return errors.Join(errs...)
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

package delegates

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"
)

// addBuiltins runs ADD over a chain of built-ins as libcni would, which caches the
// result when there is time (Transaction.cache): only a DEL whose record is lost
// reads it. DEL of executables needs theirs.
func (c *chain) addBuiltins(ctx context.Context, list *readList) (types.Result, error) {
	environ := []string{"CNI_COMMAND=ADD", "CNI_ARGS=" + c.entry.Args.String()}
	var result types.Result
	var outputs [][]byte
	for i, p := range list.Plugins {
		a, err := c.planned(i)
		if err != nil {
			return nil, err
		}
		config := []byte(a.Conf)
		if result != nil {
			behind, err := libcni.InjectConf(&libcni.PluginConfig{Network: p.Network, Bytes: config}, map[string]any{"prevResult": result})
			if err != nil {
				return nil, err
			}
			config = behind.Bytes
		}
		output, err := c.ExecPlugin(ctx, builtinPath+p.Network.Type, config, environ)
		if err == nil {
			result, err = create.CreateFromBytes(output)
		}
		if err != nil {
			return nil, fmt.Errorf("plugin type=%q failed (add): %w", p.Network.Type, err)
		}
		outputs = append(outputs, output)
	}
	c.entry.cache = func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("internal error: %v", p)
			}
		}()
		told := libcni.NewCNIConfigWithCacheDir(c.tx.Path, c.Journal.DataDir(), &replay{outputs: outputs})
		_, err = told.AddNetworkList(context.WithoutCancel(ctx), list.NetworkConfigList, c.runtimeConf())
		return err
	}
	return result, nil
}

// cache has libcni cache the results that it has not seen.
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

// replay is an invoke.Exec that answers what plugins have answered.
type replay struct {
	version.PluginDecoder
	outputs [][]byte
}

// FindInPath is invoke.Exec.
func (*replay) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }

// ExecPlugin is invoke.Exec.
func (r *replay) ExecPlugin(context.Context, string, []byte, []string) ([]byte, error) {
	if len(r.outputs) == 0 {
		return nil, errors.New("there is no further output")
	}
	output := r.outputs[0]
	r.outputs = r.outputs[1:]
	return output, nil
}

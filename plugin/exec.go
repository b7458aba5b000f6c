package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// "Paths" that no executable has: of a built-in, and of what DEL misses.
const builtinPath, missingPath = "built-in:", "missing:"

// ExecutableError is the error of an executable that does not undo its part of an attachment.
type ExecutableError struct {
	Plugin string // its type; "ipam TYPE" of an IPAM plugin that plexus executes
	Err    error
}

func (e *ExecutableError) Error() string { return e.Plugin + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *ExecutableError) Unwrap() error { return e.Err }

// OnlyExecutables reports whether an error is of executables alone: plexus has undone its own
// part.
func OnlyExecutables(err error) bool {
	switch e := err.(type) { //nolint:errorlint // this function unwraps
	case *ExecutableError:
		return true
	case interface{ Unwrap() error }:
		return OnlyExecutables(e.Unwrap())
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !OnlyExecutables(err) })
	}
	return false
}

// FindInPath is invoke.Exec: built-ins are found first.
func (c *Chain) FindInPath(typ string, path []string) (string, error) {
	if c.isBuiltin(typ) {
		return builtinPath + typ, nil
	}
	found, err := c.Runner.FindInPath(typ, path)
	switch {
	case err == nil:
		return found, nil
	case !errors.Is(err, errPlexus):
		err = fmt.Errorf("plugin %q is neither built in nor in %s: install it there or correct \"type\"", typ, strings.Join(path, ":"))
	case c.Executed:
		err = fmt.Errorf("plugin %q attached this pod before plexus came, and %s is plexus by now: put the former executable where CNI_PATH has it first", typ, found)
	}
	err = types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	if c.deleting { // libcni would leave out the others
		c.delErrs = append(c.delErrs, &ExecutableError{typ, err})
		return missingPath + typ, nil
	}
	return "", err
}

// insideOnly are the plugins whose changes are all inside of the pod's network namespace, and
// whose DEL fails when the namespace is gone.
var insideOnly = []string{"sbr"}

// ExecPlugin is invoke.Exec: one verb of one plugin.
func (c *Chain) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	command := lookup(environ, "CNI_COMMAND")
	typ, isBuiltin := strings.CutPrefix(path, builtinPath)
	var out []byte
	var err error
	switch name := filepath.Base(path); {
	case isBuiltin:
		out, err = c.execBuiltin(ctx, command, typ, stdin)
	case strings.HasPrefix(path, missingPath):
		return nil, nil // FindInPath has noted it
	case command == "DEL" && c.Netns == "" && slices.Contains(insideOnly, name):
	default:
		typ = name
		if command == "CHECK" {
			if stdin = c.forCheck(name, stdin); stdin == nil {
				return nil, nil
			}
		}
		if err = delegates.Step(ctx, "%s: %s %s", c.Network.IfName, strings.ToLower(command), name); err == nil {
			out, err = c.Runner.ExecPlugin(ctx, path, stdin, environ)
		}
	}
	if err == nil || command != "DEL" {
		return out, err
	}
	if isBuiltin {
		err = fmt.Errorf("%s: %w", typ, err)
	} else {
		err = &ExecutableError{typ, err}
	}
	c.delErrs = append(c.delErrs, err) // libcni goes on with the others
	return nil, nil
}

// step announces a verb of the built-in.
func (b *Builtin) step(ctx context.Context, command string) error {
	return delegates.Step(ctx, "%s: %s %s", b.IfName, strings.ToLower(command), b.Type)
}

// BeginDel announces DEL of the built-in, before its Detach. An ipam that had the interface when
// it gave the addresses has it when it takes them back; its error does not keep the built-in from
// being detached.
func (b *Builtin) BeginDel(ctx context.Context) error {
	if err := b.step(ctx, "DEL"); err != nil {
		return err
	}
	if b.isLate() {
		b.releaseErr = new(b.ipam.del(ctx))
	}
	return nil
}

// isLate reports whether the built-in's ipam needs the interface.
func (b *Builtin) isLate() bool {
	return b.Network != nil && b.Network.InterfaceFirst() && !b.ipam.builtIn()
}

func (c *Chain) execBuiltin(ctx context.Context, command, typ string, stdin []byte) ([]byte, error) {
	b := c.builtins[slices.IndexFunc(c.builtins, func(b *Builtin) bool { return b.Type == typ })]
	switch command {
	case "ADD":
		return c.addBuiltin(ctx, b, stdin)
	case "CHECK":
		if err := b.step(ctx, command); err != nil {
			return nil, err
		}
		return nil, b.check(ctx)
	case "DEL":
		return nil, c.delBuiltin(ctx, b)
	case "STATUS": // Chain.Status has called Ready
		return nil, nil
	case "GC": // the engine sweeps once for all networks
		return nil, b.ipam.gc(ctx, stdin)
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND %q", command), "")
}

// addBuiltin attaches a built-in, unless the engine has attached it with its neighbours. It
// returns the result of the plugins before it in the list, with its own appended.
func (c *Chain) addBuiltin(ctx context.Context, b *Builtin, stdin []byte) ([]byte, error) {
	if b.Result == nil {
		if err := c.Allocate(ctx, b); err != nil {
			return nil, err
		}
		if err := b.Delegate.Attach(ctx, []*delegates.Attachment{b.Attachment}); err != nil {
			return nil, err
		}
	}
	c.nativeInterfaces = append(c.nativeInterfaces, b.Result.Interfaces...)
	all, err := appendToPrevious(stdin, b.Result)
	if err != nil {
		return nil, err
	}
	old, err := all.GetAsVersion(c.list.CNIVersion)
	if err != nil {
		return nil, err
	}
	return json.Marshal(old)
}

// Allocate requests the addresses of a built-in before it is attached, or lets Attach request
// them.
func (c *Chain) Allocate(ctx context.Context, b *Builtin) error {
	if err := b.step(ctx, "ADD"); err != nil {
		return err
	}
	allocate := func(ctx context.Context) (err error) {
		b.IPAM, err = b.ipam.add(ctx)
		return err
	}
	if b.isLate() {
		b.Attachment.Allocate = allocate
		return nil
	}
	return allocate(ctx)
}

// appendToPrevious appends the result of a built-in to the prevResult of its configuration.
func appendToPrevious(config []byte, made *types100.Result) (*types100.Result, error) {
	var p types.PluginConf
	if err := json.Unmarshal(config, &p); err != nil {
		return nil, err
	}
	if p.RawPrevResult == nil {
		return made, nil
	}
	if err := version.ParsePrevResult(&p); err != nil {
		return nil, err
	}
	all, err := types100.NewResultFromResult(p.PrevResult)
	if err != nil {
		return nil, err
	}
	Append(all, made)
	all.Routes = append(all.Routes, made.Routes...)
	return all, nil
}

// Append appends interfaces and ips to a result. The interface numbers of the ips are
// shifted with them.
func Append(to, r *types100.Result) {
	shift := len(to.Interfaces)
	for _, i := range r.Interfaces {
		to.Interfaces = append(to.Interfaces, i.Copy())
	}
	for _, ip := range r.IPs {
		ip = ip.Copy()
		if ip.Interface != nil {
			ip.Interface = types100.Int(*ip.Interface + shift)
		}
		to.IPs = append(to.IPs, ip)
	}
}

func (b *Builtin) check(ctx context.Context) error {
	if b.Refused != nil {
		return conf.Refuse(b.Refused)
	}
	return errors.Join(b.Network.Check(ctx, b.Attachment), b.ipam.check(ctx))
}

func (c *Chain) delBuiltin(ctx context.Context, b *Builtin) error {
	if b.detachErr == nil {
		if err := b.BeginDel(ctx); err != nil {
			return err
		}
		switch {
		case b.Delegate != nil:
			b.SetDetached(b.Delegate.Detach(ctx, []*delegates.Attachment{b.Attachment})[0])
		case b.State != nil: // by a former version, perhaps
			b.SetDetached(fmt.Errorf("it is recorded as attached, and its configuration names no backend any more: %w", b.Refused))
		default:
			b.SetDetached(nil) // ADD refuses such a configuration: nothing was attached
		}
	}
	if b.releaseErr == nil {
		b.releaseErr = new(b.ipam.del(ctx))
	}
	return errors.Join(*b.detachErr, *b.releaseErr)
}

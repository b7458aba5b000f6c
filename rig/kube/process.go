package kube

import (
	"context"

	"github.com/plexus-cni/plexus/rig/process"
)

// daemon is a program of the cluster. What it prints goes to a file, to which a later
// one of the same name appends.
type daemon struct{ *process.Process }

// startDaemon starts argv, in the node's namespaces if one is given. It ends with this
// process: of itself, or with its node. New namespaces are given as flags of clone(2).
func startDaemon(name, log string, in *node, env []string, newNamespaces uintptr, argv ...string) (*daemon, error) {
	o := process.Options{Name: name, Log: log, Dir: "/", Env: env, Namespaces: newNamespaces}
	if in != nil {
		o.Enter = in.enter
	}
	p, err := process.Start(o, argv...)
	if err != nil {
		return nil, err
	}
	return &daemon{p}, nil
}

// await waits for a condition as poll does, and no longer than the process runs.
func (p *daemon) await(ctx context.Context, what string, condition func(ctx context.Context) (bool, error, error)) error {
	err := poll(ctx, what, func(ctx context.Context) (bool, error, error) {
		if err := p.Ended(); err != nil {
			return false, nil, err
		}
		return condition(ctx)
	})
	if err != nil && p.Ended() == nil {
		err = p.Explain(err)
	}
	return err
}

// stop ends the program by SIGTERM, or at once if it takes too long. One that was never
// started is stopped.
func (p *daemon) stop() {
	if p != nil {
		p.Stop()
	}
}

// kill is stop at once.
func (p *daemon) kill() {
	if p != nil {
		p.Kill()
	}
}

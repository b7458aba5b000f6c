package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/devices"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/node"
)

// host is the agent in a container: the node's root is a folder of it, and the
// agent puts plexus on the node.
type host struct {
	root      string
	install   bool
	settings  string
	daemonSet string
	namespace string
	paths     node.Paths

	image, account *os.Root // open since before the root was changed
	node           *node.Node

	mu           sync.Mutex
	notInstalled error // why plexus is not the runtime's first configuration; nil when it is
}

// accountDir is where the kubelet puts a service account's files.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// refresh is how often credentials and the runtime's folder are looked at
// without a notice.
const refresh = time.Minute

func (h *host) flags(f *flag.FlagSet) {
	h.paths = node.DefaultPaths()
	f.StringVar(&h.root, "host", "", "`folder` that is the node's root; the agent works in it from then on (default: it is there)")
	f.BoolVar(&h.install, "install", false, "put executables, credentials and the configuration on the node, and keep them there")
	f.StringVar(&h.settings, "settings", "", "JSON `file` of the image with further keys of the configuration, and the devices that the node offers")
	f.StringVar(&h.daemonSet, "daemonset", "", "`name` of the agent's own DaemonSet; with --install, plexus is taken off the node when it is deleted")
	f.StringVar(&h.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "`name` of the DaemonSet's namespace (default: POD_NAMESPACE in the environment)")
	f.StringVar(&h.paths.BinDir, "cni-bin-dir", h.paths.BinDir, "`folder` of CNI executables")
	f.StringVar(&h.paths.ConfDir, "cni-conf-dir", h.paths.ConfDir, "`folder` of the runtime's network configurations")
}

// enter opens the image's folders and changes the root to the node's. It is called before
// other goroutines open paths.
func (h *host) enter(s *agent.Settings) (err error) {
	h.paths.Socket, h.paths.DataDir = s.Socket, s.DataDir
	h.paths.CredDir = filepath.Join(h.paths.ConfDir, "plexus.d")
	settings := &node.Settings{}
	if h.install {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
		if h.image, err = os.OpenRoot(filepath.Dir(self)); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		if h.account, err = os.OpenRoot(accountDir); err != nil {
			return fmt.Errorf("install: service account: %w", err)
		}
	}
	if h.settings != "" {
		text, err := os.ReadFile(h.settings)
		if err != nil {
			return fmt.Errorf("settings: %w", err)
		}
		if settings, err = node.ParseSettings(text); err != nil {
			return err
		}
		if s.Devices, err = settings.Devices(); err != nil { // the other resources serve
			s.Log.Error("devices are not offered", "why", err.Error())
		}
	}
	if h.root != "" {
		if err := errors.Join(unix.Chroot(h.root), os.Chdir("/")); err != nil {
			return fmt.Errorf("make %s the root: %w", h.root, err)
		}
	}
	if !h.install {
		return nil
	}
	server, err := node.APIServer(os.Getenv)
	if err != nil {
		return err
	}
	s.Installed, h.notInstalled = h.installed, errors.New("plexus' configuration is not looked after yet")
	h.node = &node.Node{Paths: h.paths, Account: h.account.FS(), Server: server, Settings: settings, Log: s.Log}
	if s.Kubeconfig == "" {
		s.Kubeconfig = h.node.Kubeconfig()
	}
	return nil
}

// prepare installs executables and credentials on the node.
func (h *host) prepare(ctx context.Context) error {
	if h.node == nil {
		return nil
	}
	if _, err := h.node.Executables(ctx, h.image.FS()); err != nil {
		return err
	}
	_, err := h.node.Credentials(ctx)
	return err
}

// followFolder follows the runtime's folder until ctx is done.
func (h *host) followFolder(ctx context.Context) {
	if h.node == nil {
		return
	}
	t := time.NewTicker(refresh)
	defer t.Stop()
	(&node.Follower{Node: h.node, Tick: t.C, Observe: h.observe}).Run(ctx)
}

// observe stores whether plexus is the runtime's first configuration.
func (h *host) observe(state node.State, err error) {
	var refused *node.RefusedError
	if state.File != "" && !errors.As(err, &refused) {
		err = nil // the Follower has logged other errors
	} else if err == nil {
		err = fmt.Errorf("%s has no network that plexus could take for the cluster network: is its CNI plugin installed?", h.paths.ConfDir)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notInstalled = err
}

// installed returns the reason why the runtime does not call plexus, nil when it does.
func (h *host) installed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.notInstalled
}

// leave removes plexus from the node when its DaemonSet is removed.
func (h *host) leave(s agent.Settings) error {
	if h.node == nil || h.daemonSet == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	api, err := kube.Connect(s.Kubeconfig)
	if err != nil {
		return err
	}
	gone, why := node.Removed(ctx, func(ctx context.Context) (int, bool, error) {
		return api.DaemonSet(ctx, h.namespace, h.daemonSet)
	})
	s.Log.Info("the agent ends", "plexus is removed", gone, "why", why)
	if !gone {
		return nil
	}
	done, err := h.node.Remove(ctx, func(context.Context) ([]string, error) {
		sandboxes, err := journal.Open(s.DataDir).Sandboxes()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return sandboxes, err
	})
	places := devices.DefaultPlaces()
	err = errors.Join(err, os.Remove(s.Socket), places.Remove(s.Devices))
	s.Log.Info("plexus is taken off the node", "next", done.Next, "executables", done.Executables, "kept", done.Kept, "sandboxes", done.Sandboxes)
	return err
}

// onNode runs the agent on the node: it installs executables and credentials, serves requests,
// and then installs the configuration.
func onNode(ctx context.Context, h *host, s agent.Settings) int {
	fail := func(err error) int {
		s.Log.Error("ended", "why", err.Error())
		return 1
	}
	if err := h.enter(&s); err != nil {
		return fail(err)
	}
	if err := h.prepare(ctx); err != nil {
		return fail(err)
	}
	var following sync.WaitGroup
	err := agent.Serve(ctx, s, func() {
		following.Go(func() { h.followFolder(ctx) })
	})
	if ctx.Err() != nil { // the agent was stopped, it did not fail
		following.Wait()
		err = errors.Join(err, h.leave(s))
	}
	if err != nil {
		return fail(err)
	}
	return 0
}

package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// Options of a cluster. The zero value is a node without a CNI configuration, which
// is not ready before it is given one.
type Options struct {
	// Dir is an empty folder for all files; it stays. By default it is one of its
	// own, which Close removes.
	Dir string
	// ControlPlane leaves the node out: there are etcd and the API server alone.
	ControlPlane bool
	// CNI are files of /etc/cni/net.d, by name.
	CNI map[string]string
	// Plugins are executables that are copied to /opt/cni/bin.
	Plugins []string
	// Images are tar files, as BuildImage makes them, beside PauseImage and
	// BusyboxImage.
	Images []string
	// APIServer and Kubelet are further flags.
	APIServer, Kubelet []string
}

// Cluster is a Kubernetes of one node, which runs until Close.
type Cluster struct {
	options Options
	dir     string
	dirs    []string // of programs
	lock    *os.File
	ca      *authority
	client  *kubernetes.Clientset

	serverIP             string
	serverPort, etcdPort int

	etcd, apiserver, scheduler, controllers *daemon

	node                *node
	link                *link
	containerd, kubelet *daemon
	cgroups             bool
	localImport         bool
}

// folderPrefix is how the name of a folder of our own starts.
const folderPrefix = "plexus-kube-"

// Start starts a cluster and returns when pods can be created and, if there is a
// CNI configuration, scheduled. It needs root. What Prepare makes has to be there.
// If it fails it leaves nothing behind.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start Kubernetes: a node needs namespaces, mounts and control groups: run as root")
	}
	c := &Cluster{options: o, dir: o.Dir}
	if err := c.startAll(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start Kubernetes: %w", err), c.Close())
	}
	return c, nil
}

func (c *Cluster) startAll(ctx context.Context) error {
	cache, err := openCache()
	if err != nil {
		return err
	}
	if c.dirs, err = cache.programDirs(); err != nil {
		return err
	}
	if c.lock, err = acquire(ctx); err != nil {
		return err
	}
	if err := removeCgroups(ctx); err != nil { // of a cluster that was killed
		return err
	}
	if err := c.makeFolders(); err != nil {
		return err
	}
	c.serverIP = "127.0.0.1"
	if !c.options.ControlPlane {
		if err := c.startNode(ctx); err != nil {
			return err
		}
		if err := c.connect(ctx); err != nil {
			return err
		}
		c.serverIP = c.link.machine
	}
	if c.serverPort, err = freePort(c.serverIP, 6443); err != nil {
		return err
	}
	if c.etcdPort, err = freePort("127.0.0.1", 12379); err != nil {
		return err
	}
	for _, step := range []func() error{c.writePKI, c.writeKubeconfigs, c.connectClient, c.startEtcd, c.launchAPIServer} {
		if err := step(); err != nil {
			return err
		}
	}
	if c.options.ControlPlane {
		for _, step := range []func(context.Context) error{c.awaitAPIServer, c.addTypes, c.addAccount} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	c.cgroups = true
	if err := makeCgroups(); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{c.serve, c.startContainerd, c.importImages, c.awaitAPIServer} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := c.startControllers(); err != nil {
		return err
	}
	if err := c.startKubelet(); err != nil {
		return err
	}
	if err := c.addTypes(ctx); err != nil {
		return err
	}
	if err := c.awaitNamespace(ctx, "default"); err != nil {
		return err
	}
	if len(c.options.CNI) > 0 {
		return c.WaitNode(ctx)
	}
	return c.awaitNode(ctx, "the node is registered", func(*corev1.Node) error { return nil })
}

// makeFolders makes the cluster's folders and fills those of CNI.
func (c *Cluster) makeFolders() (err error) {
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", folderPrefix); err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
		if _, err := c.lock.WriteAt([]byte(c.dir), 0); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
	} else if c.dir, err = filepath.Abs(c.dir); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	for _, d := range []string{"cni/net.d", "cni/bin", "etcd", "images", "kubeconfigs", "log", "node", "pki", "run"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
	}
	if err := os.Chmod(c.path("etcd"), 0o700); err != nil { // etcd insists
		return fmt.Errorf("make a folder: %w", err)
	}
	for name, text := range c.options.CNI {
		if err := os.WriteFile(filepath.Join(c.ConfDir(), name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write CNI configuration: %w", err)
		}
	}
	for _, p := range c.options.Plugins {
		data, err := os.ReadFile(p)
		if err == nil {
			err = os.WriteFile(filepath.Join(c.BinDir(), filepath.Base(p)), data, 0o755)
		}
		if err != nil {
			return fmt.Errorf("copy CNI plugin: %w", err)
		}
	}
	return nil
}

// Close ends the cluster and removes what it made. Closing twice is no error.
func (c *Cluster) Close() error {
	if c.lock == nil {
		return nil
	}
	// Not the caller's context: it may be what ended the cluster.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if c.node != nil {
		c.node.close()
	}
	for _, p := range []*daemon{c.kubelet, c.containerd, c.controllers, c.scheduler, c.apiserver, c.etcd} {
		p.kill()
	}
	if c.link != nil {
		errs = append(errs, c.link.remove(ctx))
	}
	if c.cgroups {
		errs = append(errs, removeCgroups(ctx))
	}
	if c.options.Dir == "" && c.dir != "" {
		if err := os.RemoveAll(c.dir); err != nil {
			errs = append(errs, fmt.Errorf("remove the cluster's folder: %w", err))
		}
	}
	errs = append(errs, release(c.lock))
	c.lock = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close Kubernetes: %w", err)
	}
	return nil
}

// Dir is the folder of the cluster's files.
func (c *Cluster) Dir() string { return c.dir }

// Log is the file of what a program printed: etcd, kube-apiserver, kubelet ...
func (c *Cluster) Log(program string) string { return c.path("log/" + program + ".log") }

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// start starts one of the prepared programs.
func (c *Cluster) start(name string, in *node, args ...string) (*daemon, error) {
	program, err := c.program(name)
	if err != nil {
		return nil, err
	}
	return startDaemon(name, c.Log(name), in, c.environ(), 0, append([]string{program}, args...)...)
}

// program is the path of one of the prepared programs.
func (c *Cluster) program(name string) (string, error) {
	for _, d := range c.dirs {
		if p := filepath.Join(d, name); exists(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not among the prepared programs", name)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// environ is the environment of all processes: nothing of the caller's, who may
// have a proxy that knows nothing of the cluster.
func (c *Cluster) environ() []string {
	path := append([]string{}, c.dirs...)
	path = append(path, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	return []string{"PATH=" + strings.Join(path, ":"), "HOME=/root"}
}

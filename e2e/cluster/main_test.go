// Package cluster tests plexus on a real Kubernetes node: API server, kubelet and
// containerd of rig/kube, a real OVS-DPDK, and the stand-in for VPP.
//
// The tests run inside of the node's namespaces: there they see its sockets,
// network namespaces and folders as the node agent does. What only the machine can
// do, such as stopping the API server, they ask of the process outside.
package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/kube"
)

// place is what the tests inside have to know of the node.
type place struct {
	Kubeconfig, Server, AuditLog, Bin, Deploy, Control, Dir string
}

const (
	placeVariable = "PLEXUS_CLUSTER"
	binDir        = "../../bin"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(placeVariable); text != "" {
		os.Exit(inside(m, text))
	}
	os.Exit(outside())
}

// outside starts the node and runs this program again inside.
func outside() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := kube.Prepare(ctx, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin, err := filepath.Abs(binDir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var plugins []string
	for _, name := range []string{"bridge", "host-local", "loopback", "macvlan", "portmap", "plexus", "plexusd", "plexusbuiltin", "plexusctl", "ovsdpdk", "vppmemif", "userspace", "sriov"} {
		plugins = append(plugins, filepath.Join(bin, name))
	}
	began := time.Now()
	c, err := kube.Start(ctx, kube.Options{Plugins: plugins})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "cluster: up after %.1f s\n", time.Since(began).Seconds())
	status := runInside(ctx, c, bin)
	if err := c.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

func runInside(ctx context.Context, c *kube.Cluster, bin string) int {
	control := filepath.Join(c.Dir(), "control.sock")
	listener, err := net.Listen("unix", control)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server := &http.Server{Handler: controls(c)}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	text, err := json.Marshal(place{Kubeconfig: c.Kubeconfig(), Server: c.Server(), AuditLog: filepath.Join(c.Dir(), "log/audit.log"), Bin: bin, Deploy: filepath.Join(filepath.Dir(bin), "deploy"), Control: control, Dir: c.Dir()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := c.NodeCommand(ctx, append([]string{self}, os.Args[1:]...)...)
	cmd.Env = append(cmd.Env, placeVariable+"="+string(text))
	for _, key := range []string{"HOME", "GOCACHE", "PLEXUS_VPP_API"} {
		if v, ok := os.LookupEnv(key); ok {
			cmd.Env = append(cmd.Env, key+"="+v)
		}
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster: tests in the node:", err)
		return 1
	}
	return 0
}

// controls are what the tests inside may ask for.
func controls(c *kube.Cluster) http.Handler {
	mux := http.NewServeMux()
	do := func(path string, f func(context.Context) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := f(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	do("/apiserver/stop", func(context.Context) error { c.StopAPIServer(); return nil })
	do("/apiserver/start", c.StartAPIServer)
	do("/kubelet/restart", c.RestartKubelet)
	do("/containerd/restart", c.RestartContainerd)
	mux.HandleFunc("POST /image", func(w http.ResponseWriter, r *http.Request) {
		var i kube.Image
		err := json.NewDecoder(r.Body).Decode(&i)
		file := filepath.Join(c.Dir(), "image.tar")
		if err == nil {
			err = c.BuildImage(r.Context(), file, i)
		}
		if err == nil {
			err = c.ImportImage(r.Context(), file)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		token, err := c.Token(r.Context(), r.URL.Query().Get("namespace"), r.URL.Query().Get("account"))
		var file string
		if err == nil {
			file, err = c.KubeconfigForToken(token)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, file)
	})
	return mux
}

// control asks the process outside.
func (n *testNode) control(t testing.TB, path string, body io.Reader) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.Control)
	}}}
	resp, err := client.Post("http://machine"+path, "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, text)
	}
	return string(text)
}

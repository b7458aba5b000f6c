package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// confDir is where runtimes look for the node's CNI configuration.
const confDir = "/etc/cni/net.d"

// wire is one of add, del and check.
type wire struct {
	verb                              string
	conf, manifests                   string
	netns, sandbox, ifName, path, uid string
	dataDir                           string
	quiet                             bool
}

func wireCommand(o *options, use, verb, short string) *cobra.Command {
	w := &wire{verb: verb}
	c := &cobra.Command{
		Use:   use + " POD --netns PATH",
		Short: short,
		Long:  short + ".\n\nPOD is NAME or NAMESPACE/NAME. It does what a container runtime does with the configuration, and tells each step.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return w.run(cmd.Context(), o.named(args[0]), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	w.flags(c)
	if verb == "DEL" {
		c.Long += "\n\nWhere no configuration is left, DEL goes by the journal alone: of the sandbox that --netns or --sandbox (the beginning of its ID) names."
		c.Flags().StringVar(&w.dataDir, "data-dir", "", "by the journal in this `folder` alone, without a configuration")
		c.MarkFlagsMutuallyExclusive("conf", "data-dir")
	}
	return c
}

// flags adds those of a request, and returns their names.
func (w *wire) flags(c *cobra.Command) []string {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.StringVar(&w.netns, "netns", "", "network namespace of the pod, a path")
	f.StringVar(&w.conf, "conf", "", "plexus configuration (default: the first one of type plexus in "+confDir+")")
	f.StringVar(&w.manifests, "manifests", "", "folder of manifests, instead of the configuration's")
	f.StringVar(&w.sandbox, "sandbox", "", "container ID (default: derived from the path of the network namespace)")
	f.StringVar(&w.ifName, "ifname", "eth0", "name of the cluster network's interface")
	f.StringVar(&w.path, "cni-path", defaultPath(), "folders of CNI plugins, separated by ':'")
	f.StringVar(&w.uid, "uid", "", "UID of the pod")
	f.BoolVarP(&w.quiet, "quiet", "q", false, "do not tell the steps")
	var names []string
	f.VisitAll(func(one *pflag.Flag) { names = append(names, one.Name) })
	c.Flags().AddFlagSet(f)
	return names
}

// named is the pod that a word names, with its namespace if a flag says it.
func (o *options) named(pod string) string {
	if o.namespace == "" || strings.Contains(pod, "/") {
		return pod
	}
	return o.namespace + "/" + pod
}

func defaultPath() string {
	if path := os.Getenv("CNI_PATH"); path != "" {
		return path
	}
	return "/opt/cni/bin"
}

func (w *wire) run(ctx context.Context, pod string, stdout, stderr io.Writer) error {
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok {
		namespace, name = "default", pod
	}
	if w.netns == "" && w.verb != "DEL" {
		return fmt.Errorf("flag --netns is needed: the network namespace of the pod, such as /run/netns/%s", name)
	}
	if w.netns == "" && w.sandbox == "" {
		return fmt.Errorf("flag --netns or --sandbox is needed to know which pod to detach")
	}
	config, err := w.readConf()
	if err != nil {
		return err
	}
	if w.sandbox == "" {
		w.sandbox = sandboxOf(w.netns)
	}
	if config == nil {
		return w.delAlone(ctx, stdout, stderr)
	}
	if w.manifests != "" {
		if config, err = setManifests(config, w.manifests); err != nil {
			return err
		}
	}
	args := "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + name
	if w.uid != "" {
		args += ";K8S_POD_UID=" + w.uid
	}
	var out bytes.Buffer
	c := call.Call{
		As: "plexus",
		Getenv: call.Environ("CNI_COMMAND="+w.verb, "CNI_CONTAINERID="+w.sandbox, "CNI_NETNS="+w.netns,
			"CNI_IFNAME="+w.ifName, "CNI_PATH="+w.path, "CNI_ARGS="+args),
		Stdin: bytes.NewReader(config), Stdout: &out, Stderr: stderr,
	}
	if agent.Answer(w.telling(ctx, stderr), c) == 0 {
		_, err := out.WriteTo(stdout)
		return err
	}
	var failed struct {
		Code uint   `json:"code"`
		Msg  string `json:"msg"`
	}
	if err := json.Unmarshal(out.Bytes(), &failed); err != nil {
		return fmt.Errorf("%s pod %s/%s: %s", strings.ToLower(w.verb), namespace, name, out.String())
	}
	return fmt.Errorf("%s pod %s/%s: %s (CNI error %d)", strings.ToLower(w.verb), namespace, name, failed.Msg, failed.Code)
}

// telling has the steps of what is done with the context told.
func (w *wire) telling(ctx context.Context, stderr io.Writer) context.Context {
	if w.quiet {
		return ctx
	}
	began := time.Now()
	return delegates.WithSteps(ctx, func(step string) error {
		_, err := fmt.Fprintf(stderr, "%7.1f ms  %s\n", float64(time.Since(began).Microseconds())/1000, step)
		return err
	})
}

// delAlone is DEL by the journal alone.
func (w *wire) delAlone(ctx context.Context, stdout, stderr io.Writer) error {
	return reclaimAlone(w.telling(ctx, stderr), cmp.Or(w.dataDir, conf.DefaultDataDir), w.sandbox, true, nil, stdout, stderr)
}

// sandboxOf derives a container ID, so that add, del and check agree.
func sandboxOf(netns string) string {
	sum := sha256.Sum256([]byte(netns))
	return hex.EncodeToString(sum[:])
}

func setManifests(config []byte, dir string) ([]byte, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(config, &keys); err != nil {
		return nil, fmt.Errorf("plexus configuration: %w", err)
	}
	if keys["manifests"], err = json.Marshal(dir); err != nil {
		return nil, err
	}
	return json.Marshal(keys)
}

// readConf returns nil for a DEL that goes by the journal alone.
func (w *wire) readConf() ([]byte, error) {
	switch {
	case w.dataDir != "":
		return nil, nil
	case w.conf != "":
		return os.ReadFile(w.conf)
	}
	file, data, err := findConf(confDir)
	if err != nil {
		return nil, err
	}
	if file == "" && w.verb == "DEL" {
		return nil, nil
	}
	if file == "" {
		return nil, fmt.Errorf("no configuration of type plexus in %s: name one with --conf", confDir)
	}
	return data, nil
}

// findConf finds the first configuration of type plexus in a folder. In a
// list it is the first plugin of that type.
func findConf(dir string) (file string, data []byte, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return "", nil, err
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
		default:
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		d := conf.Definition{Config: data, Fallback: "plexus"}
		if found := d.PluginOfType("plexus"); found != nil {
			return file, found, nil
		}
	}
	return "", nil, nil
}

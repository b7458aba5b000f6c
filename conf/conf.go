package conf

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/version"
)

// Default paths and names.
const (
	DefaultConfDir   = "/etc/cni/multus/net.d" // Multus' confDir
	DefaultDataDir   = "/var/lib/plexus"
	DefaultNamespace = "kube-system" // Multus' multusNamespace, and its one system namespace
)

// How long one execution of a plugin may take.
const (
	DefaultPluginTimeout = 2 * time.Minute
	minPluginTimeout     = time.Second
	maxPluginTimeout     = time.Hour
)

// Conf is the plexus network configuration. The keys of a Multus
// configuration keep their meaning (Multus docs/configuration.md).
type Conf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`

	// The cluster network: an inline list whose first member (or the one with
	// masterplugin) it is, or the name of a NAD, a network, a file or a folder.
	Delegates       []json.RawMessage `json:"delegates"`
	ClusterNetwork  string            `json:"clusterNetwork"`
	DefaultNetworks []string          `json:"defaultNetworks"`

	Kubeconfig string `json:"kubeconfig"` // file
	ConfDir    string `json:"confDir"`    // folder of network files
	CNIDir     string `json:"cniDir"`     // Multus' name for dataDir
	KubeletDir string `json:"kubeletDir"` // the kubelet's root folder; "" is looked for
	BinDir     string `json:"binDir"`     // searched before CNI_PATH

	LogFile     string     `json:"logFile"`
	LogLevel    LogLevel   `json:"logLevel"`
	LogToStderr *bool      `json:"logToStderr"` // default true
	LogOptions  LogOptions `json:"logOptions"`

	Capabilities  map[string]bool            `json:"capabilities"`
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"` // of the runtime, see ofInterface

	ReadinessIndicatorFile string   `json:"readinessindicatorfile"`
	NamespaceIsolation     bool     `json:"namespaceIsolation"`
	GlobalNamespaces       string   `json:"globalNamespaces"` // separated by commas
	SystemNamespaces       []string `json:"systemNamespaces"`
	MultusNamespace        string   `json:"multusNamespace"`
	AuxiliaryCNIChainName  string   `json:"auxiliaryCNIChainName"`
	RetryDeleteOnError     bool     `json:"retryDeleteOnError"` // accepted; plexus always reports a failed DEL

	// What plexus adds.
	Manifests string     `json:"manifests"` // folder of pods and NADs
	DataDir   string     `json:"dataDir"`   // journal, locks, results
	Agent     Agent      `json:"agent"`
	Parallel  bool       `json:"parallel"` // of neighbouring built-ins no backend waits for another
	Result    ResultMode `json:"result"`
	// PluginTimeout is how long one execution of a plugin may take, such as "100s".
	PluginTimeout Duration `json:"pluginTimeout"`

	// Devices is what the agent offers to pods as resources, see package devices. Requests do
	// without it.
	Devices json.RawMessage `json:"devices"`

	Bounds // of what networks may name

	// Warnings are about keys that have no effect.
	Warnings []string `json:"-"`
}

// Agent says where the node agent is.
type Agent struct {
	Socket string `json:"socket"`
}

// LogOptions are the rotation settings of logFile, as in Multus.
type LogOptions struct {
	MaxAge     int  `json:"maxAge"`     // days
	MaxSize    int  `json:"maxSize"`    // megabytes
	MaxBackups int  `json:"maxBackups"` // files
	Compress   bool `json:"compress"`
}

// Duration is a duration in JSON, in the format of time.ParseDuration. The text is unparsed;
// the check of the configuration refuses a malformed one.
type Duration string

// Value is the duration, 0 when there is none.
func (d Duration) Value() time.Duration {
	v, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return v
}

// ResultMode is the form of ADD's result.
type ResultMode string

// The result modes.
const (
	ResultAuto           ResultMode = "auto"            // merged, interfaces where the runtime is CRI-O
	ResultMerged         ResultMode = "merged"          // every attachment, the cluster network's first
	ResultInterfaces     ResultMode = "interfaces"      // every interface, and the cluster network's addresses alone
	ResultDefaultNetwork ResultMode = "default-network" // the cluster network's alone, as Multus answers
)

// LogLevel is a Multus log level, or one that node configurations have beside Multus', which
// ignores it.
type LogLevel string

// The log levels, most talkative first.
const (
	LogDebug   LogLevel = "debug"
	LogVerbose LogLevel = "verbose"
	LogInfo    LogLevel = "info" // verbose to plexus
	LogWarning LogLevel = "warning"
	LogError   LogLevel = "error" // plexus logs warnings, too
	LogPanic   LogLevel = "panic"
)

// networkName matches the network names that CNI allows (CNI specification 1.1.0, section 1).
// No such name is a path outside of its folder.
var networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// Parse reads and checks a plexus configuration, or a Multus one. Multus ignores keys that it
// does not know, so they are warnings, but for slips.
func Parse(data []byte) (*Conf, error) {
	c := &Conf{}
	warnings, err := Decode("plexus configuration", data, c, refuseSlipsOfConf)
	if err != nil {
		return nil, err
	}
	c.Warnings = warnings
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("plexus configuration: %w", err)
	}
	c.setDefaults()
	return c, nil
}

// IsOwnType reports whether a plugin type wires all networks of a pod: plexus by its name, or by
// the name of a second plexus on the node (plexus-canary), or Multus, which plexus replaces.
func IsOwnType(name string) bool {
	return name == "plexus" || strings.HasPrefix(name, "plexus-") || IsMultus(name)
}

// IsMultus reports whether a plugin type is Multus, under one of its names.
func IsMultus(name string) bool { return name == "multus" || name == "multus-shim" }

func (c *Conf) check() error {
	var errs keyErrors
	if !IsOwnType(c.Type) {
		errs.bad("type", "%q, want plexus, plexus-NAME, multus or multus-shim", c.Type)
	}
	if !networkName.MatchString(c.Name) || len(c.Name) > maxName {
		errs.bad("name", "%q is no network name: 1 to %d letters, digits, '_', '.', '-', the first a letter or digit", c.Name, maxName)
	}
	if c.CNIVersion != "" && !knownVersion(c.CNIVersion) {
		errs.bad("cniVersion", "%q, known are %s", c.CNIVersion, strings.Join(version.All.SupportedVersions(), ", "))
	}
	c.LogLevel = LogLevel(strings.ToLower(string(c.LogLevel)))
	if !slices.Contains([]LogLevel{"", LogDebug, LogVerbose, LogInfo, LogWarning, LogError, LogPanic}, c.LogLevel) {
		errs.bad("logLevel", "%q, allowed are debug, verbose, info, warning, error, panic", c.LogLevel)
	}
	if !slices.Contains([]ResultMode{"", ResultAuto, ResultMerged, ResultInterfaces, ResultDefaultNetwork}, c.Result) {
		errs.bad("result", "%q, allowed are auto, merged, interfaces, default-network", c.Result)
	}
	if d := c.PluginTimeout.Value(); c.PluginTimeout != "" && (d < minPluginTimeout || d > maxPluginTimeout) {
		errs.bad("pluginTimeout", "%.60q, want a duration such as 100s or 2m, from %s to %s", c.PluginTimeout, minPluginTimeout, maxPluginTimeout)
	}
	for _, p := range [][2]string{
		{"confDir", c.ConfDir}, {"cniDir", c.CNIDir}, {"binDir", c.BinDir}, {"dataDir", c.DataDir}, {"manifests", c.Manifests}, {"kubeletDir", c.KubeletDir},
		{"kubeconfig", c.Kubeconfig}, {"logFile", c.LogFile}, {"readinessindicatorfile", c.ReadinessIndicatorFile}, {"agent.socket", c.Agent.Socket},
	} {
		if p[1] != "" && !path.IsAbs(p[1]) {
			errs.bad(p[0], "%q, want an absolute path", p[1])
		}
	}
	errs = append(errs, c.Bounds.check()...)
	for i, name := range c.DefaultNetworks {
		if name == "" {
			errs.bad(fmt.Sprintf("defaultNetworks[%d]", i), "it is empty")
		}
	}
	for i, raw := range c.Delegates {
		if !isObject(raw) {
			errs.bad(fmt.Sprintf("delegates[%d]", i), "want a network configuration, an object")
		}
	}
	if c.AuxiliaryCNIChainName != "" && !networkName.MatchString(c.AuxiliaryCNIChainName) {
		errs.bad("auxiliaryCNIChainName", "%q is no network name", c.AuxiliaryCNIChainName)
	}
	o := c.LogOptions
	for i, n := range []int{o.MaxAge, o.MaxSize, o.MaxBackups} {
		if n < 0 {
			errs.bad("logOptions."+[]string{"maxAge", "maxSize", "maxBackups"}[i], "%d, want 0 or more", n)
		}
	}
	return joinSome(errs)
}

func (c *Conf) setDefaults() {
	c.ConfDir = cmp.Or(c.ConfDir, DefaultConfDir)
	c.DataDir = cmp.Or(c.DataDir, c.CNIDir, DefaultDataDir)
	c.MultusNamespace = cmp.Or(c.MultusNamespace, DefaultNamespace)
	c.Result = cmp.Or(c.Result, ResultAuto)
	c.LogLevel = cmp.Or(c.LogLevel, LogError)
	if c.SystemNamespaces == nil {
		c.SystemNamespaces = []string{DefaultNamespace}
	}
}

// HasClusterNetwork reports whether the configuration names a network for
// every pod, without which ADD has nothing to begin with.
func (c *Conf) HasClusterNetwork() bool { return c.ClusterNetwork != "" || len(c.Delegates) > 0 }

func knownVersion(v string) bool { return slices.Contains(version.All.SupportedVersions(), v) }

func isObject(raw json.RawMessage) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(raw, &m) == nil && m != nil
}

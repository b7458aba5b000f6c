package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// inDaemon is where Multus' daemon has the node's folders.
const inDaemon = "/host"

// typeOf is the plugin of a network configuration, the first one of a list, "" when it has none.
func typeOf(data []byte) string {
	var c struct {
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	if json.Unmarshal(data, &c) != nil {
		return ""
	}
	if len(c.Plugins) > 0 {
		return c.Plugins[0].Type
	}
	return c.Type
}

// multusOf is the configuration that the runtime gives Multus: a file, or the one plugin of a
// list, with the list's name and version.
func multusOf(data []byte) ([]byte, error) {
	var list struct{ Plugins []json.RawMessage }
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	if len(list.Plugins) > 1 {
		return nil, fmt.Errorf("the list has %d plugins: Multus has to be alone in it, name the others in a network of every pod (delegates, defaultNetworks)", len(list.Plugins))
	}
	return (&conf.Definition{Config: data}).PluginOfType(typeOf(data)), nil
}

// convertConf makes plexus' configuration of Multus'.
func (m *Migration) convertConf(data []byte) error {
	data, err := multusOf(data)
	if err != nil {
		return err
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return err
	}
	keys["type"] = json.RawMessage(`"plexus"`)
	for key := range keys {
		if !conf.IsKey(key) { // of Multus' daemon, or without effect in Multus, too
			delete(keys, key)
			m.Dropped = append(m.Dropped, key)
		}
	}
	slices.Sort(m.Dropped)
	if err := translateDaemonPath(keys); err != nil {
		return err
	}
	if m.Conf, err = json.MarshalIndent(keys, "", "  "); err != nil {
		return err
	}
	if m.settings, err = conf.Parse(m.Conf); err != nil {
		return err
	}
	if !m.settings.HasClusterNetwork() {
		return errors.New("it names no cluster network: neither clusterNetwork nor delegates")
	}
	return nil
}

// translateDaemonPath corrects a clusterNetwork that is a file as Multus' daemon sees it.
func translateDaemonPath(keys map[string]json.RawMessage) error {
	var name string
	if json.Unmarshal(keys["clusterNetwork"], &name) != nil || !filepath.IsAbs(name) {
		return nil
	}
	_, err := os.Stat(name)
	if here, ok := strings.CutPrefix(name, inDaemon); err != nil && ok {
		if _, err = os.Stat(here); err == nil {
			keys["clusterNetwork"], err = json.Marshal(here)
		}
	}
	if err != nil {
		return fmt.Errorf("clusterNetwork: %w", err)
	}
	return nil
}

// cachedResult is a file of libcni's cache (libcni/api.go, cachedInfo).
type cachedResult struct {
	ContainerID    string          `json:"containerId"`
	Netns          string          `json:"netns"`
	CNIArgs        [][2]string     `json:"cniArgs"`
	CapabilityArgs map[string]any  `json:"capabilityArgs"`
	Result         json.RawMessage `json:"result"`

	text []byte // the whole file
}

// readResults reads libcni's cache, by file name. A file that cannot be read is left out.
func readResults(dir string) (map[string]*cachedResult, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("libcni's cache: %w", err)
	}
	all := map[string]*cachedResult{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		c := &cachedResult{text: data}
		if json.Unmarshal(data, c) == nil && c.ContainerID != "" {
			all[e.Name()] = c
		}
	}
	return all, nil
}

// resultName is what libcni calls the cached result of an attachment.
func resultName(network, sandbox, ifName string) string {
	return fmt.Sprintf("%s-%s-%s", network, sandbox, ifName)
}

// multusDelegate is what plexus reads of an element of Multus' cache (DelegateNetConf in
// pkg/types/types.go).
type multusDelegate struct {
	Name   string `json:"Name"`
	IfName string `json:"ifnameRequest"`
	Bytes  []byte `json:"Bytes"`
}

// convertSandbox makes a journal record of what Multus and libcni have cached of a
// sandbox.
func (m *Migration) convertSandbox(sandbox, path string, results map[string]*cachedResult, binDirs []string) (*journal.Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []multusDelegate
	var origins []json.RawMessage
	if err := errors.Join(json.Unmarshal(data, &all), json.Unmarshal(data, &origins)); err != nil || len(all) == 0 {
		return nil, fmt.Errorf("%s is not Multus' list of delegates", path)
	}
	tx := &journal.Transaction{
		Network: m.settings.Name, IfName: "eth0", Phase: journal.PhaseAttached, Started: time.Now().UTC(), Path: binDirs,
	}
	for i, d := range all {
		list, err := (&conf.Definition{Origin: fmt.Sprintf("delegate %d (%s)", i, d.Name), Fallback: fmt.Sprintf("%s-%d", m.settings.Name, i), Config: d.Bytes}).ParseList(m.settings.CNIVersion)
		if err != nil {
			return nil, err
		}
		ifName := d.IfName
		switch {
		case ifName != "":
		case i == 0:
			ifName = tx.IfName
		default:
			ifName = fmt.Sprintf("net%d", i)
		}
		entry := &journal.Entry{Executed: true, Origin: origins[i], Network: conf.Network{Name: d.Name, IfName: ifName, Default: i == 0, List: *list}}
		if entry.Name == "" {
			entry.Name = list.Name
		}
		name := resultName(list.Name, sandbox, ifName)
		if c := results[name]; c != nil {
			c.addTo(tx, entry)
			m.Results[name] = c.text
		} else {
			m.Missing = append(m.Missing, fmt.Sprintf("sandbox %s: libcni's cache has no usable %s: DEL of %s gets no CNI_ARGS, capability arguments and result", sandbox, name, ifName))
		}
		tx.Attachments = append(tx.Attachments, entry)
	}
	return &journal.Record{Sandbox: sandbox, Transactions: []*journal.Transaction{tx}}, nil
}

// addTo records what libcni has cached of an attachment.
func (c *cachedResult) addTo(tx *journal.Transaction, entry *journal.Entry) {
	entry.Args, entry.CapabilityArgs = conf.Args(c.CNIArgs), c.CapabilityArgs
	if tx.Netns == "" {
		tx.Netns = c.Netns
	}
	if tx.Pod == nil {
		tx.Pod = podOf(entry.Args)
	}
	entry.Result = c.Result // of an older version, or a plugin's own
	if r, err := types100.NewResult(c.Result); err == nil {
		if data, err := json.Marshal(r); err == nil {
			entry.Result = data
		}
	}
}

func podOf(args conf.Args) *conf.Pod {
	namespace, name := args.Get("K8S_POD_NAMESPACE"), args.Get("K8S_POD_NAME")
	if conf.CheckObjectName(namespace, name) != nil || strings.TrimSpace(name) == "" {
		return nil
	}
	return &conf.Pod{Namespace: namespace, Name: name, UID: args.Get("K8S_POD_UID")}
}

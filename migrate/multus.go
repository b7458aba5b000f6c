// Package migrate moves a node from Multus to plexus and back: the
// configuration, and what each knows of the pods that are running, so that the
// one undoes what the other has attached.
//
// What Multus' plugins have attached stays in their hands: plexus executes them
// for DEL, those that it has built in too, since their own state says how.
package migrate

import (
	"cmp"
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
	"github.com/plexus-cni/plexus/delegates"
)

// Node says where things are.
type Node struct {
	ConfDir  string   // of the runtime's network configurations
	CacheDir string   // libcni's, with the folder results; empty: Multus' (since 3.8)
	Multus   string   // Multus' cache of delegates; empty: as its configuration says
	BinDirs  []string // of executables
}

// Defaults of Multus (docs/configuration.md, cniDir) and of libcni.
const (
	DefaultConfDir = "/etc/cni/net.d"
	defaultMultus  = "/var/lib/cni/multus"
	aside          = ".before-plexus" // what a configuration that is replaced is called from then on
	plexusConf     = "00-plexus.conf"
	inDaemon       = "/host" // where Multus' daemon has the node's folders
)

// Migration is what there is to do.
type Migration struct {
	From    string              // file that is replaced
	Conf    []byte              // what replaces it
	Dropped []string            // keys that plexus has no use for
	Records []*delegates.Record // pods that are running
	Results map[string][]byte   // libcni's cached results, by file name
	Left    []string            // what cannot be moved, and why
	Missing []string            // what DEL will do without

	settings *conf.Conf
	moved    []string // files whose content is the journal's from then on
}

// delegate is what plexus reads of Multus' cache (DelegateNetConf in
// pkg/types/types.go).
type delegate struct {
	Name   string `json:"Name"`
	IfName string `json:"ifnameRequest"`
	Bytes  []byte `json:"Bytes"`
}

// FromMultus reads a node that Multus runs. Nothing is changed.
func FromMultus(n Node) (*Migration, error) {
	m := &Migration{Results: map[string][]byte{}}
	data, err := m.findConf(n.ConfDir)
	if err != nil {
		return nil, err
	}
	dir, err := m.convertConf(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.From, err)
	}
	if n.Multus != "" {
		dir = n.Multus
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cache of Multus: %w", err)
	}
	resultsDir := filepath.Join(cmp.Or(n.CacheDir, dir), "results")
	results, err := readResults(resultsDir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		rec, err := m.convertSandbox(e.Name(), filepath.Join(dir, e.Name()), results, n.BinDirs)
		if err != nil {
			m.Left = append(m.Left, fmt.Sprintf("sandbox %s: %v", e.Name(), err))
			continue
		}
		m.Records = append(m.Records, rec)
		m.moved = append(m.moved, filepath.Join(dir, e.Name()))
	}
	for name := range m.Results {
		if file := filepath.Join(resultsDir, name); file != filepath.Join(m.settings.DataDir, "results", name) {
			m.moved = append(m.moved, file)
		}
	}
	return m, nil
}

// findConf finds the first configuration of the folder, which has to be Multus'.
func (m *Migration) findConf(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("network configurations: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		m.From = filepath.Join(dir, e.Name())
		data, err := os.ReadFile(m.From)
		if err != nil {
			return nil, err
		}
		var c struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(data, &c) != nil || c.Type != "multus" && c.Type != "multus-shim" {
			return nil, fmt.Errorf("%s comes first in %s, and is not Multus' (type %q): Multus does not run this node", m.From, dir, c.Type)
		}
		return data, nil
	}
	return nil, fmt.Errorf("%s has no network configuration", dir)
}

// convertConf makes plexus' configuration of Multus' and says where Multus has
// its cache.
func (m *Migration) convertConf(data []byte) (cniDir string, err error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return "", err
	}
	keys["type"] = json.RawMessage(`"plexus"`)
	for key := range keys {
		if !conf.IsKey(key) { // the daemon's own, of Multus thick
			delete(keys, key)
			m.Dropped = append(m.Dropped, key)
		}
	}
	if err := hereNotThere(keys); err != nil {
		return "", err
	}
	if m.Conf, err = json.MarshalIndent(keys, "", "  "); err != nil {
		return "", err
	}
	if m.settings, err = conf.Parse(m.Conf); err != nil {
		return "", err
	}
	if !m.settings.HasClusterNetwork() {
		return "", errors.New("it names no cluster network: neither clusterNetwork nor delegates")
	}
	slices.Sort(m.Dropped)
	cniDir = defaultMultus
	if m.settings.CNIDir != "" {
		cniDir = m.settings.CNIDir
	}
	return cniDir, nil
}

// hereNotThere corrects a clusterNetwork that is a file as Multus' daemon sees it.
func hereNotThere(keys map[string]json.RawMessage) error {
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

func readResults(dir string) (map[string]*delegates.Cached, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("libcni's cache: %w", err)
	}
	all := map[string]*delegates.Cached{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		c := &delegates.Cached{}
		if json.Unmarshal(data, c) == nil && c.ContainerID != "" {
			all[e.Name()] = c
		}
	}
	return all, nil
}

// convertSandbox makes a journal record of what Multus and libcni have cached of
// a sandbox.
func (m *Migration) convertSandbox(sandbox, file string, results map[string]*delegates.Cached, path []string) (*delegates.Record, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []delegate
	var origins []json.RawMessage
	if err := errors.Join(json.Unmarshal(data, &all), json.Unmarshal(data, &origins)); err != nil || len(all) == 0 {
		return nil, fmt.Errorf("%s is not Multus' list of delegates", file)
	}
	tx := &delegates.Transaction{
		Network: m.settings.Name, IfName: "eth0", Phase: delegates.PhaseAttached, Started: time.Now().UTC(), Path: path,
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
		entry := &delegates.Entry{Executed: true, Origin: origins[i], Network: conf.Network{Name: d.Name, IfName: ifName, Default: i == 0, List: *list}}
		if entry.Name == "" {
			entry.Name = list.Name
		}
		name := fmt.Sprintf("%s-%s-%s", list.Name, sandbox, ifName)
		c := results[name]
		if c == nil {
			m.Missing = append(m.Missing, fmt.Sprintf("sandbox %s: libcni's cache has no usable %s: DEL of %s gets no CNI_ARGS, capability arguments and result", sandbox, name, ifName))
		} else {
			entry.Args, entry.CapabilityArgs = conf.Args(c.CNIArgs), c.CapabilityArgs
			if tx.Netns == "" {
				tx.Netns = c.Netns
			}
			if c.Result != nil {
				if r, err := normalResult(c.Result); err == nil {
					entry.Result = r
				}
			}
			if tx.Pod == nil {
				tx.Pod = podOf(entry.Args)
			}
			text, err := json.Marshal(c)
			if err != nil {
				return nil, err
			}
			m.Results[name] = text
		}
		tx.Attachments = append(tx.Attachments, entry)
	}
	return &delegates.Record{Sandbox: sandbox, Transactions: []*delegates.Transaction{tx}}, nil
}

func normalResult(raw json.RawMessage) (json.RawMessage, error) {
	r, err := types100.NewResult(raw)
	if err != nil {
		return raw, nil // of an older version, or a plugin's own
	}
	return json.Marshal(r)
}

func podOf(args conf.Args) *conf.Pod {
	namespace, name := args.Get("K8S_POD_NAMESPACE"), args.Get("K8S_POD_NAME")
	if conf.CheckObjectName(namespace, name) != nil || strings.TrimSpace(name) == "" {
		return nil
	}
	return &conf.Pod{Namespace: namespace, Name: name, UID: args.Get("K8S_POD_UID")}
}

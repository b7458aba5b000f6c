package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/devices"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/plugin"
)

// Finding is a problem that Validate has found in a document.
type Finding struct {
	Where   string // file and document
	Problem string // names the object and the key
	Warning bool   // it would work
}

func (f Finding) String() string {
	if f.Warning {
		return f.Where + ": warning: " + f.Problem
	}
	return f.Where + ": " + f.Problem
}

// Validate checks a file without touching the node: pods and networks of a
// manifest, a plexus configuration, or a network file. documents counts what
// was looked at.
//
// Pods are held against the networks of the same file, and against networks, which are those of
// the other files that are checked together.
func Validate(file string, data []byte, networks ...*conf.Definition) (documents int, findings []Finding) {
	v := &validator{networks: networks, where: file, builtin: engine.Builtin(slog.New(slog.NewTextHandler(io.Discard, nil)))}
	if isCNIFile(file, data) {
		v.cniFile(data)
		return 1, v.findings
	}
	all, err := kube.ParseManifests(file, data)
	for _, e := range unjoin(err) {
		v.findings = append(v.findings, Finding{Where: file, Problem: strings.TrimPrefix(e.Error(), file+": ")})
	}
	v.networks = append(v.networks, Networks(file, data)...)
	for _, d := range all {
		v.where = d.String()
		switch {
		case d.Pod != nil:
			v.pod(d.Pod)
		case d.Network != nil && len(bytes.TrimSpace(d.Network.Config)) > 0:
			v.network(d.Network, conf.DefaultCNIVersion)
		}
	}
	if len(all) == 0 && err == nil {
		v.findings = append(v.findings, Finding{Where: file, Problem: "no Pod, NetworkAttachmentDefinition or CNI configuration in it", Warning: true})
	}
	return len(all), v.findings
}

// Networks are the NetworkAttachmentDefinitions of a manifest, as far as it can be read.
func Networks(file string, data []byte) (all []*conf.Definition) {
	if isCNIFile(file, data) {
		return nil
	}
	documents, _ := kube.ParseManifests(file, data) // Validate tells the error
	for _, d := range documents {
		if d.Network != nil {
			all = append(all, d.Network)
		}
	}
	return all
}

// isCNIFile tells a CNI configuration from a manifest in JSON.
func isCNIFile(file string, data []byte) bool {
	switch filepath.Ext(file) {
	case ".conf", ".conflist":
		return true
	case ".json":
		var o struct {
			Kind string `json:"kind"`
		}
		return json.Unmarshal(data, &o) == nil && o.Kind == ""
	}
	return false
}

type validator struct {
	where    string
	builtin  plugin.Table
	networks []*conf.Definition
	findings []Finding
}

func (v *validator) problem(err error) {
	for _, e := range unjoin(err) {
		v.findings = append(v.findings, Finding{Where: v.where, Problem: e.Error()})
	}
}

func (v *validator) warn(warnings []string) {
	for _, w := range warnings {
		v.findings = append(v.findings, Finding{Where: v.where, Problem: w, Warning: true})
	}
}

func (v *validator) cniFile(data []byte) {
	var head struct {
		Type    string          `json:"type"`
		Devices json.RawMessage `json:"devices"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		_, err := (&conf.Definition{Origin: "CNI configuration", Config: data}).ParseList("") // names the line
		v.problem(err)
		return
	}
	for _, typ := range []string{"plexus", "multus", "multus-shim"} {
		if in := (&conf.Definition{Config: data}).PluginOfType(typ); in != nil {
			data, head.Type = in, typ // it may be in a list, as package node writes it
			break
		}
	}
	if head.Type == "" && len(head.Devices) > 0 { // settings of the agent
		_, err := devices.Parse(head.Devices)
		v.problem(err)
		return
	}
	if !conf.IsOwnType(head.Type) {
		v.network(&conf.Definition{Origin: "network configuration", Config: data}, conf.DefaultCNIVersion)
		return
	}
	c, err := conf.Parse(data)
	if err != nil {
		v.problem(err)
		return
	}
	v.warn(c.Warnings)
	if !c.HasClusterNetwork() {
		v.problem(errors.New(`plexus configuration: it names no cluster network: set "clusterNetwork" or "delegates"`))
	}
	for i, raw := range c.Delegates {
		v.network(&conf.Definition{Origin: fmt.Sprintf("delegates[%d]", i), Fallback: c.Name, Config: raw}, c.CNIVersion)
	}
	if len(v.findings) == len(c.Warnings) && len(c.Delegates) > 0 { // problems of all of them together
		_, err := conf.Resolve(c, nil, nil, "eth0", nil)
		v.problem(err)
	}
}

func (v *validator) pod(pod *conf.Pod) {
	for _, key := range []string{conf.NetworksAnnotation, conf.DefaultNetworkAnnotation} {
		_, warnings, err := conf.ParseSelections(fmt.Sprintf("Pod %s: annotation %s", pod, key), pod.Annotations[key], pod.Namespace)
		v.warn(warnings)
		v.problem(err)
		if err == nil {
			v.requests(pod, key)
		}
	}
}

func (v *validator) network(d *conf.Definition, cniVersion string) {
	list, err := d.ParseList(cniVersion)
	if err != nil {
		v.problem(err)
		return
	}
	origin := d.Origin
	for i, typ := range list.Types() {
		_, d, err := v.builtin.Of(typ, list.Plugins[i])
		if err == nil && d != nil {
			n, warnings, errParse := d.Parse(list.Name, list.Plugins[i])
			v.warn(warnings)
			if err = errParse; err == nil {
				v.warn(n.Hints())
			}
		}
		if err != nil {
			v.problem(fmt.Errorf("%s: %w", origin, err))
		}
	}
}

// unjoin takes apart what errors.Join put together.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, unjoin(e)...)
		}
		return all
	}
	return []error{err}
}

package agent

import (
	"runtime/debug"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// NodeInfo is GET /v1/node.
type NodeInfo struct {
	Node        string `json:"node"`
	Version     string `json:"version"`
	Protocol    int    `json:"protocol"`
	Ready       bool   `json:"ready"`
	Why         string `json:"why,omitempty"` // the agent is not ready
	Sandboxes   int    `json:"sandboxes"`
	Attachments int    `json:"attachments"`
	Unfinished  int    `json:"unfinished"` // transactions that are to be undone
	Damaged     int    `json:"damaged"`    // journal files that cannot be used, or in part
	Differences int    `json:"differences"`
	Unpublished int    `json:"unpublished"` // sandboxes whose network-status is not on the pod yet
	// Warnings are those of the runtime's last STATUS: files that are broken and keep no pod from
	// its networks.
	Warnings []string `json:"warnings,omitempty"`

	Vswitches []VswitchInfo `json:"vswitches,omitempty"`
}

// VswitchInfo is a vswitch that pods of the node are attached to.
type VswitchInfo struct {
	Delegate string `json:"delegate"`
	Address  string `json:"address"`
	Why      string `json:"why,omitempty"` // it does not work
}

// Attachments is GET /v1/attachments: the journal.
type Attachments struct {
	Node      string            `json:"node"`
	Sandboxes []*journal.Record `json:"sandboxes"`
	Damaged   []string          `json:"damaged"`
}

// Explanation is GET /v1/explain?pod=NAMESPACE/NAME: the networks that the pod's
// annotation names, the plan of an ADD now, the journal, and the state of the datapaths.
type Explanation struct {
	Node       string         `json:"node"`
	Pod        string         `json:"pod"`
	Annotation string         `json:"annotation"`
	Plan       []conf.Network `json:"plan"`
	Warnings   []string       `json:"warnings,omitempty"`
	Error      string         `json:"error,omitempty"` // why there is no plan
	// Unpublished is why the pod's network-status is not that of the journal.
	Unpublished string            `json:"unpublished,omitempty"`
	Journal     []*journal.Record `json:"journal"`
	Datapath    []engine.Datapath `json:"datapath"`
	History     []Event           `json:"history"`
}

// Checked is an element of POST /v1/check.
type Checked struct {
	Sandbox string `json:"sandbox"`
	Pod     string `json:"pod,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Reclaimed is POST /v1/reclaim?sandbox=&force=&abandon=.
type Reclaimed struct {
	Sandbox   string   `json:"sandbox"`
	Pod       string   `json:"pod,omitempty"`
	Abandoned []string `json:"abandoned,omitempty"` // what was given up, for people
	Kept      bool     `json:"kept,omitempty"`      // its pod runs, and has its other networks
}

// Version is that of the module, "devel" where the build does not say.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

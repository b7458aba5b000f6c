package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// peerCase is one input of a node, and what Multus did with it. In every text, $DIR is a
// folder of the case's own.
type peerCase struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Node is the node's configuration. World.config adds what every case needs.
	Node map[string]any `json:"node,omitempty"`
	// Files are written into $DIR, by their path in it. One that is no string is JSON.
	Files map[string]any `json:"files,omitempty"`
	NADs  []nad          `json:"nads,omitempty"`
	Pod   *pod           `json:"pod,omitempty"` // nil: the API server has none
	// Devices are the pod's devices in the kubelet's checkpoint, by resource.
	Devices map[string][]string `json:"devices,omitempty"`
	Request request             `json:"request,omitzero"`
	// Multus is the recording.
	Multus *recording `json:"multus,omitempty"`
}

type nad struct {
	Namespace   string            `json:"namespace,omitempty"` // default: the pod's
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Config      any               `json:"config,omitempty"` // JSON, or a string with the text
}

type pod struct {
	Namespace string `json:"namespace,omitempty"` // default: shop
	Name      string `json:"name,omitempty"`      // default: app
	// Annotations: one that is no string is JSON.
	Annotations map[string]any `json:"annotations,omitempty"`
	UID         string         `json:"uid,omitempty"` // in CNI_ARGS, if it is another
}

// request is what the container runtime asks.
type request struct {
	Verbs  []string `json:"verbs,omitempty"` // default: ADD, DEL
	Args   string   `json:"args,omitempty"`  // after those that every runtime gives
	IfName string   `json:"ifName,omitempty"`
}

// recording is what one program did in a case.
type recording struct {
	Version string `json:"version,omitempty"` // of the peer
	Steps   []step `json:"steps"`
	// Status is the annotation network-status after ADD.
	Status any `json:"status,omitempty"`
}

// step is one verb of the container runtime.
type step struct {
	Verb string `json:"verb"`
	// Error is the kind of failure, "" for success. Kinds of plexus' failures are not told.
	Error  string `json:"error,omitempty"`
	Answer any    `json:"answer,omitempty"`
	Calls  []call `json:"calls,omitempty"`
	// Routes are the default routes in the pod afterwards.
	Routes []string `json:"routes,omitempty"`

	message string // of the error
}

// call is one execution of a plugin.
type call struct {
	Verb   string            `json:"verb"`
	Type   string            `json:"type"`
	IfName string            `json:"ifName,omitempty"`
	Args   map[string]string `json:"args,omitempty"` // CNI_ARGS
	Config any               `json:"config,omitempty"`
}

// readCases reads the cases of all files, by file.
func readCases(t testing.TB) map[string][]*peerCase {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]*peerCase{}
	seen := map[string]bool{}
	for _, file := range files {
		if filepath.Base(file) == "differences.json" {
			continue
		}
		var cases []*peerCase
		readJSON(t, file, &cases)
		for _, c := range cases {
			if seen[c.Name] || c.Name == "" || c.About == "" {
				t.Fatalf("%s: case %q: its name is missing, or stands twice, or it is about nothing", file, c.Name)
			}
			seen[c.Name] = true
		}
		all[file] = cases
	}
	return all
}

// readJSON reads a file of which every key has to be known.
func readJSON(t testing.TB, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// textOf is a value as the text that an annotation or a file has.
func textOf(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(data)
}

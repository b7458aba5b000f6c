package kube

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// auditPolicy lets the API server record every request once it is answered.
//
//go:embed audit.yaml
var auditPolicy []byte

// Event is a request that the API server has answered. A watch is one from the
// time it was granted.
type Event struct {
	User, UserAgent string
	Groups          []string

	Verb                         string
	Group, Resource, Subresource string
	Namespace, Name              string
	URI                          string

	Code int // of the HTTP answer
	Time time.Time
}

// Audit are the requests that match, in the order in which they were answered; all
// if match is nil. Requests made before a restart of the API server are among them.
func (c *Cluster) Audit(match func(Event) bool) ([]Event, error) {
	text, err := os.ReadFile(c.auditLog())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	var events []Event
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' {
			break // it is being written
		}
		var entry struct {
			AuditID, Verb, UserAgent, RequestURI string
			User                                 struct {
				Username string
				Groups   []string
			}
			ObjectRef                struct{ APIGroup, Resource, Subresource, Namespace, Name string }
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp time.Time
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, fmt.Errorf("read the audit log: %w: %s", err, line)
		}
		if seen[entry.AuditID] {
			continue // the end of a watch
		}
		seen[entry.AuditID] = true
		o := entry.ObjectRef
		e := Event{
			User: entry.User.Username, UserAgent: entry.UserAgent, Groups: entry.User.Groups,
			Verb: entry.Verb, Group: o.APIGroup, Resource: o.Resource, Subresource: o.Subresource,
			Namespace: o.Namespace, Name: o.Name, URI: entry.RequestURI,
			Code: entry.ResponseStatus.Code, Time: entry.RequestReceivedTimestamp,
		}
		if match == nil || match(e) {
			events = append(events, e)
		}
	}
	return events, nil
}

func (c *Cluster) auditLog() string { return c.path("log/audit.log") }

package cluster_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// auditEvent is what the tests read of the API server's audit log
// (audit.k8s.io/v1).
type auditEvent struct {
	Stage     string
	Verb      string
	User      struct{ Username string }
	UserAgent string
	ObjectRef struct{ Resource, Subresource, Namespace, Name string }
	Status    struct{ Code int } `json:"responseStatus"`
}

func (e *auditEvent) String() string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s/%s", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Subresource), "/")
}

const agentUser = "system:serviceaccount:plexus-system:plexus"

// requests are those that plexus has made since the log had that many bytes.
func (n *testNode) requests(t testing.TB, since int64) []string {
	t.Helper()
	f, err := os.Open(n.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(since, 0); err != nil {
		t.Fatal(err)
	}
	var list []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.User.Username != agentUser || e.Stage != "ResponseComplete" || e.Verb == "watch" {
			continue
		}
		list = append(list, e.String())
	}
	return list
}

func (n *testNode) auditSize(t testing.TB) int64 {
	t.Helper()
	st, err := os.Stat(n.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// A warm node asks nothing of the API server to wire a pod, and tells it in one
// patch and an event for each interface; to detach a pod it says nothing at all.
func TestRequests(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	await(t, "the agent knows the networks", func() error { // one that has just been made is asked for
		n.apply(t, deployment("warm", 1, "lan,fast,shm"))
		n.must(t, "rollout", "status", "deployment/warm", "--timeout=90s")
		return nil
	})
	n.must(t, "delete", "deployment", "warm", "--cascade=foreground")
	n.nothingLeft(t)
	before := n.auditSize(t)
	n.apply(t, deployment("counted", 1, "lan,fast,shm"))
	n.must(t, "rollout", "status", "deployment/counted", "--timeout=90s")
	var made []string
	await(t, "what it got is told", func() error {
		made = n.requests(t, before)
		if slices.Sort(made); len(made) < 5 {
			return fmt.Errorf("requests %v", made)
		}
		return nil
	})
	if want := strings.Repeat("create events, ", 4) + "patch pods/status"; strings.Join(made, ", ") != want {
		t.Errorf("ADD made the requests %v, want %s", made, want)
	}
	before = n.auditSize(t)
	n.must(t, "delete", "deployment", "counted", "--cascade=foreground")
	n.nothingLeft(t)
	if made := n.requests(t, before); len(made) > 0 {
		t.Errorf("DEL made the requests %v, want none", made)
	}
}

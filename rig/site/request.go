package site

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
)

// MustCheck is Check, whose failure ends the test.
func (s *Site) MustCheck(sandbox string, p *node.Pod, pod string) {
	s.T.Helper()
	if err := s.Check(sandbox, p, pod); err != nil {
		s.T.Fatalf("CHECK %s: %v", pod, err)
	}
}

// SandboxID is a container ID of a test, unlike those of other tests.
func SandboxID(n int) string { return fmt.Sprintf("%03dc0ffee%03d", n, n) }

// Request is one CNI request of a pod.
type Request struct {
	Verb, Sandbox, Netns, IfName, Pod string
	Conf                              []byte // instead of the site's
	Env                               []string
	Runtime                           string // name of the process that executes plexus; default: the test's own
}

// Environ is the environment of a request.
func (s *Site) Environ(r Request) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "CNI_PATH=" + s.Path, "CNI_COMMAND=" + r.Verb,
		"CNI_CONTAINERID=" + r.Sandbox, "CNI_NETNS=" + r.Netns, "CNI_IFNAME=" + r.IfName,
	}
	if r.Pod != "" {
		env = append(env, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+r.Pod)
	}
	return append(env, r.Env...)
}

// Error is what a CNI plugin answers when it fails.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
	stderr  string
}

// Error is the answer in words.
func (e *Error) Error() string { return fmt.Sprintf("CNI error %d: %s", e.Code, e.Msg) }

// Call executes plexus as a container runtime does.
func (s *Site) Call(r Request) (stdout []byte, stderr string, err error) {
	if r.IfName == "" {
		r.IfName = "eth0"
	}
	conf := s.Conf
	if r.Conf != nil {
		conf = r.Conf
	}
	cmd := exec.Command(filepath.Join(BinDir(s.T), s.As))
	if r.Runtime != "" {
		script := filepath.Join(s.Dir, r.Runtime) // the kernel calls the process after the script
		if err := os.WriteFile(script, []byte("#!/bin/sh\n\"$@\"\nexit $?\n"), 0o755); err != nil {
			return nil, "", err
		}
		cmd = exec.Command(script, cmd.Path)
	}
	cmd.Env = s.Environ(r)
	cmd.Stdin = bytes.NewReader(conf)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		failed := &Error{stderr: errOut.String()}
		if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
			return nil, errOut.String(), fmt.Errorf("%s: %w: no CNI error: %q, stderr %q", r.Verb, err, out.String(), errOut.String())
		}
		return nil, errOut.String(), failed
	}
	return out.Bytes(), errOut.String(), nil
}

// Add attaches a pod, whose name is empty if none is told.
func (s *Site) Add(sandbox string, p *node.Pod, pod string) (*types100.Result, error) {
	out, _, err := s.Call(Request{Verb: "ADD", Sandbox: sandbox, Netns: p.Path(), Pod: pod})
	if err != nil {
		return nil, err
	}
	result := &types100.Result{}
	if err := json.Unmarshal(out, result); err != nil {
		return nil, fmt.Errorf("ADD: %w: %s", err, out)
	}
	return result, nil
}

// MustAdd is Add, whose failure ends the test.
func (s *Site) MustAdd(sandbox string, p *node.Pod, pod string) *types100.Result {
	s.T.Helper()
	result, err := s.Add(sandbox, p, pod)
	if err != nil {
		s.T.Fatalf("ADD %s: %v", pod, err)
	}
	return result
}

// Del detaches a pod; without p there is no CNI_NETNS.
func (s *Site) Del(sandbox string, p *node.Pod, pod string) error {
	netns := ""
	if p != nil {
		netns = p.Path()
	}
	_, _, err := s.Call(Request{Verb: "DEL", Sandbox: sandbox, Netns: netns, Pod: pod})
	return err
}

// MustDel is Del, whose failure ends the test.
func (s *Site) MustDel(sandbox string, p *node.Pod, pod string) {
	s.T.Helper()
	if err := s.Del(sandbox, p, pod); err != nil {
		s.T.Fatalf("DEL %s: %v", pod, err)
	}
}

// Check asks whether a pod is still as ADD left it.
func (s *Site) Check(sandbox string, p *node.Pod, pod string) error {
	_, _, err := s.Call(Request{Verb: "CHECK", Sandbox: sandbox, Netns: p.Path(), Pod: pod})
	return err
}

// InProcess makes a request within this process, as a daemon would.
func (s *Site) InProcess(r Request) ([]byte, error) {
	if r.IfName == "" {
		r.IfName = "eth0"
	}
	var out, stderr bytes.Buffer
	status := agent.Answer(context.Background(), call.Call{
		As: "plexus", Getenv: call.Environ(s.Environ(r)...),
		Stdin: bytes.NewReader(s.Conf), Stdout: &out, Stderr: &stderr,
	})
	if status == 0 {
		return out.Bytes(), nil
	}
	failed := &Error{stderr: stderr.String()}
	must.Decode(s.T, out.Bytes(), failed)
	return nil, failed
}

// Status asks whether ADD could be served.
func (s *Site) Status() error {
	_, _, err := s.Call(Request{Verb: "STATUS"})
	return err
}

// AttachmentID is an element of cni.dev/valid-attachments.
type AttachmentID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Gc asks for a garbage collection with the attachments that are valid.
func (s *Site) GC(valid ...AttachmentID) error {
	s.T.Helper()
	if valid == nil {
		valid = []AttachmentID{}
	}
	_, stderr, err := s.Call(Request{Verb: "GC", Conf: Changed(s.T, s.Conf, map[string]any{"cni.dev/valid-attachments": valid})})
	NoPanic(s.T, stderr)
	return err
}

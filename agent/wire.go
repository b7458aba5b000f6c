package agent

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// protocol is the version of the requests that this agent serves, and of its
// answers. Keys that one side does not know it ignores; see cmd/plexus/agent.go.
const protocol = 1

// Request is one execution of plexus, as it hands it to the agent: POST /v1/cni.
// Its body is pairs key=value, each ended by a NUL, then one more NUL, then
// standard input. The keys are version, id, as, and those of the environment, all
// of which begin with CNI_. plexus has no need of a JSON library for it, which would
// need longer to start than all the rest.
type Request struct {
	Version int
	ID      string            // the same when the request is made again
	As      string            // name of the executable
	Env     map[string]string // CNI_COMMAND, ...
	Stdin   []byte
}

func parseRequest(body []byte) (*Request, error) {
	pairs, stdin, ok := bytes.Cut(body, []byte("\x00\x00"))
	if !ok {
		return nil, errors.New("want pairs key=value, each ended by a NUL, then one more NUL, then standard input")
	}
	r := &Request{Env: map[string]string{}, Stdin: stdin}
	for pair := range strings.SplitSeq(string(pairs), "\x00") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%.80q is no pair key=value", pair)
		}
		switch {
		case key == "version":
			n, err := strconv.Atoi(value)
			if err != nil {
				return nil, fmt.Errorf("version %.20q, want a number", value)
			}
			r.Version = n
		case key == "id":
			r.ID = value
		case key == "as":
			r.As = value
		case strings.HasPrefix(key, "CNI_"):
			r.Env[key] = value
		}
	}
	if r.Version < 1 {
		return nil, fmt.Errorf("version %d, this agent serves %d", r.Version, protocol)
	}
	return r, nil
}

// CNIAnswer is what plexus is to write, and its exit status. Its body has the form
// of a request's, with standard output behind the pairs version, status, stderr.
type CNIAnswer struct {
	Status int
	Stdout []byte
	Stderr string
}

func (a *CNIAnswer) body() []byte {
	stderr := strings.ReplaceAll(a.Stderr, "\x00", "")
	pairs := fmt.Sprintf("version=%d\x00status=%d\x00stderr=%s\x00\x00", protocol, a.Status, stderr)
	return append([]byte(pairs), a.Stdout...)
}

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/plexus-cni/plexus/call"
)

// protocol is the version of the requests that this agent serves, and of its
// answers. Keys that one side does not know it ignores; see cmd/plexus/agent.go.
const protocol = 1

// parseRequest reads the body of POST /v1/cni, one execution of plexus: pairs key=value,
// each ended by a NUL, then one more NUL, then standard input. The keys are version, id
// (the same when the request is made again), as (the name of the executable), runtime (the name
// of the process that executed it; a plexus of a former version does not send it), and those of
// the environment, all of which begin with CNI_. plexus has no need of a JSON library for
// it, which would need longer to start than all the rest.
func parseRequest(body []byte) (*call.Call, error) {
	pairs, stdin, ok := bytes.Cut(body, []byte("\x00\x00"))
	if !ok {
		return nil, errors.New("want pairs key=value, each ended by a NUL, then one more NUL, then standard input")
	}
	version, env := 0, map[string]string{}
	c := &call.Call{Stdin: bytes.NewReader(stdin), Getenv: func(key string) string { return env[key] }}
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
			version = n
		case key == "id":
			c.ID = value
		case key == "as":
			c.As = value
		case key == "runtime":
			c.Runtime = value
		case strings.HasPrefix(key, "CNI_"):
			env[key] = value
		}
	}
	if version < 1 {
		return nil, fmt.Errorf("version %d, this agent serves %d", version, protocol)
	}
	return c, nil
}

// answerBody is the body of an answer: what plexus is to write, and its exit status. It has
// the form of a request's, with standard output behind the pairs version, status, stderr.
func answerBody(status int, stdout []byte, stderr string) []byte {
	pairs := fmt.Sprintf("version=%d\x00status=%d\x00stderr=%s\x00\x00", protocol, status, strings.ReplaceAll(stderr, "\x00", ""))
	return append([]byte(pairs), stdout...)
}

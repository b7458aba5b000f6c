package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
)

// The node agent speaks HTTP/1.0 on a unix socket: one request, one answer, then
// it closes (see package agent). net/http and net would make this executable
// start half as fast.

// protocol is the version of request and answer that this plexus speaks. Both
// sides ignore keys that they do not know; what an agent cannot serve it refuses,
// and plexusd does it.
const protocol = 1

// patience is how long an agent may be away, while it is restarted, before the
// runtime is told to try again.
const patience = 3 * time.Second

// attempts is how often an agent may have a request and go away: it may be the
// request that ends it.
const attempts = 4

// request is one execution of plexus, as the agent gets it.
type request struct {
	Version int `json:"version"`
	// ID is the same when the request is made again after the connection broke:
	// what is done by then is answered, not done again.
	ID    string            `json:"id"`
	As    string            `json:"as"`
	Env   map[string]string `json:"env"`
	Stdin string            `json:"stdin"`
}

// answer is what this process has to say.
type answer struct {
	Version int    `json:"version"`
	Status  int    `json:"status"`
	Stdout  string `json:"stdout"`
	Stderr  string `json:"stderr"`
}

// silentError is an agent that is not there.
type silentError struct {
	socket string
	err    error
}

func (e *silentError) Error() string {
	return fmt.Sprintf("the node agent at %s does not answer: %v: is plexusd serve running on this node? The runtime tries again", e.socket, e.err)
}

func (e *silentError) Unwrap() error { return e.err }

// ask hands the request to the agent. It connects again when the agent goes away
// in the middle of it. For ADD it is patient; other verbs plexusd does as well.
func ask(socket, as string, stdin []byte) (*answer, error) {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	r := request{Version: protocol, ID: hex.EncodeToString(id), As: as, Env: map[string]string{}, Stdin: string(stdin)}
	for _, key := range []string{"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"} {
		r.Env[key] = os.Getenv(key)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for had := 0; ; {
		a, sent, err := askOnce(socket, body)
		var silent *silentError
		if !errors.As(err, &silent) || r.Env["CNI_COMMAND"] != "ADD" && !sent {
			return a, err
		}
		if sent {
			if had++; had == attempts {
				return nil, err
			}
			deadline = time.Now().Add(patience)
		} else if time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// askOnce asks once. sent says that the agent had the request when it went away.
func askOnce(socket string, body []byte) (a *answer, sent bool, err error) {
	conn, err := connect(socket)
	if err != nil {
		return nil, false, &silentError{socket, err}
	}
	defer conn.Close()
	head := "POST /v1/cni HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return nil, true, &silentError{socket, err}
	}
	data, err := io.ReadAll(conn)
	if err != nil {
		return nil, true, &silentError{socket, err}
	}
	head2, text, ok := bytes.Cut(data, []byte("\r\n\r\n"))
	if !ok {
		return nil, true, &silentError{socket, errors.New("it ended in the middle of the request")}
	}
	line, _, _ := bytes.Cut(head2, []byte("\r\n"))
	if _, status, _ := bytes.Cut(line, []byte(" ")); !bytes.HasPrefix(status, []byte("200")) {
		if bytes.HasPrefix(status, []byte("503")) {
			return nil, true, &silentError{socket, fmt.Errorf("%s", bytes.TrimSpace(text))}
		}
		return nil, true, fmt.Errorf("the node agent at %s answers %s: %.500s", socket, line, text)
	}
	a = &answer{}
	if err := json.Unmarshal(text, a); err != nil {
		return nil, true, &silentError{socket, errors.New("it ended in the middle of its answer")}
	}
	if a.Version < 1 {
		return nil, true, fmt.Errorf("what answers at %s is no node agent: %.500s", socket, text)
	}
	return a, true, nil
}

// connect makes a blocking connection, which is all that one request needs.
func connect(socket string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		_ = syscall.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), socket), nil
}

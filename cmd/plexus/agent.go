package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The node agent speaks HTTP/1.0 on a unix socket: one request, one answer, then
// it closes (see package agent). Both bodies are pairs key=value, each ended by a
// NUL, then one more NUL, then a text: standard input, standard output. No
// environment has a NUL in it.

// protocol is the version of request and answer that this plexus speaks. Both
// sides ignore keys that they do not know; what an agent cannot serve it refuses,
// and plexusd does it.
const protocol = 1

// An agent may be away, while it is restarted, for patience before the runtime is
// told to try again; it is looked for every pause.
const (
	patience = 3 * time.Second
	pause    = 20 * time.Millisecond
)

// attempts is how often an agent may have a request and go away: it may be the
// request that ends it.
const attempts = 4

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 64 << 20

// answer is what this process has to say.
type answer struct {
	status         int
	stdout, stderr string
}

// askError is a request that is not served. silent: the agent is not there, or
// went away; sent: it had the request.
type askError struct {
	text         string
	silent, sent bool
}

func (e *askError) Error() string { return e.text }

func silence(socket, why string, sent bool) *askError {
	return &askError{"the node agent at " + socket + " does not answer: " + why + ": is plexusd serve running on this node? The runtime tries again", true, sent}
}

// ask hands the request to the agent. It connects again when the agent goes away
// in the middle of it. For ADD it is patient; other verbs plexusd does as well.
func ask(socket, as string, stdin []byte) (*answer, *askError) {
	body := requestOf(as, stdin)
	add := os.Getenv("CNI_COMMAND") == "ADD"
	deadline := time.Now().Add(patience)
	for had := 0; ; time.Sleep(pause) {
		a, err := askOnce(socket, body)
		if err == nil || !err.silent || !add && !err.sent {
			return a, err
		}
		if err.sent {
			if had++; had == attempts {
				return nil, err
			}
			deadline = time.Now().Add(patience)
		} else if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// requestOf is the body of a request. Its id is the same when it is made again
// after the connection broke: what is done by then is answered, not done again.
func requestOf(as string, stdin []byte) string {
	id := strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	var b strings.Builder
	for _, pair := range [][2]string{
		{"version", strconv.Itoa(protocol)}, {"id", id}, {"as", as},
	} {
		b.WriteString(pair[0] + "=" + pair[1] + "\x00")
	}
	for _, key := range []string{"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"} {
		b.WriteString(key + "=" + os.Getenv(key) + "\x00")
	}
	b.WriteByte(0)
	b.Write(stdin)
	return b.String()
}

// askOnce asks once.
func askOnce(socket, body string) (a *answer, failed *askError) {
	conn, err := connect(socket)
	if err != nil {
		return nil, silence(socket, err.Error(), false)
	}
	head := "POST /v1/cni HTTP/1.0\r\nContent-Type: application/octet-stream\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if err := send(conn, head+body); err != nil {
		_ = syscall.Close(conn)
		return nil, silence(socket, err.Error(), true)
	}
	// Waiting for the answer blocks no thread: the runtime of Go looks after one that is
	// blocked every few microseconds, on the processor that the agent needs. What that takes
	// to set up, the agent is at work already.
	_ = syscall.SetNonblock(conn, true)
	from := os.NewFile(uintptr(conn), socket)
	defer func() {
		if failed != nil {
			_ = from.Close() // else the end of this process does it
		}
	}()
	head, body, err = readAnswer(from)
	if err != nil {
		return nil, silence(socket, err.Error(), true)
	}
	line, _, _ := strings.Cut(head, "\r\n")
	switch _, status, _ := strings.Cut(line, " "); {
	case strings.HasPrefix(status, "503"):
		return nil, silence(socket, strings.TrimSpace(body), true)
	case !strings.HasPrefix(status, "200"):
		return nil, &askError{"the node agent at " + socket + " answers " + line + ": " + short(body), false, true}
	}
	if a = answerOf(body); a == nil {
		return nil, &askError{"what answers at " + socket + " is no node agent: " + short(body), false, true}
	}
	return a, nil
}

func short(text string) string { return text[:min(len(text), 500)] }

// answerOf reads the body of an answer, nil when it is none.
func answerOf(body string) *answer {
	pairs, stdout, ok := strings.Cut(body, "\x00\x00")
	if !ok {
		return nil
	}
	a := &answer{stdout: stdout}
	version := 0
	for pair := range strings.SplitSeq(pairs, "\x00") {
		key, value, _ := strings.Cut(pair, "=")
		var err error
		switch key {
		case "version":
			version, err = strconv.Atoi(value)
		case "status":
			a.status, err = strconv.Atoi(value)
		case "stderr":
			a.stderr = value
		}
		if err != nil {
			return nil
		}
	}
	if version < 1 {
		return nil
	}
	return a
}

// readAnswer reads head and body, which has the length that the head says.
func readAnswer(conn io.Reader) (head, body string, err error) {
	r := bufio.NewReaderSize(conn, 8<<10)
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", "", errEnded
		}
		if head += string(line); string(line) == "\r\n" {
			break
		}
		if text, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(text)); err != nil || length < 0 || length > maxAnswer {
				return "", "", errors.New("its answer has a strange length")
			}
		}
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return "", "", errEnded
	}
	return head, string(data), nil
}

var errEnded = errors.New("it ended in the middle of the request")

// connect makes a connection.
func connect(socket string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

// send writes all of a text. An agent that has gone is an error, not a signal.
func send(conn int, text string) error {
	for rest := []byte(text); len(rest) > 0; {
		n, err := syscall.SendmsgN(conn, rest, nil, nil, syscall.MSG_NOSIGNAL)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

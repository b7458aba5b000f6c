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

// The node agent speaks HTTP/1.1 on a unix socket: one request, the interim answer 102 as
// confirmation, the answer, then it closes (see package agent). An agent of a former version
// gets HTTP/1.0, and does not confirm. Both bodies are pairs key=value, each ended by a NUL,
// then one more NUL, then a text: standard input or standard output. No environment has a NUL
// in it.

// protocol is the version of request and answer that this plexus speaks. Both
// sides ignore keys that they do not know; plexusd serves a
// request that the agent refuses.
const protocol = 1

// An agent that restarts has this much patience before the runtime has to try again; plexus
// connects again after each pause.
const (
	patience = 3 * time.Second
	pause    = 20 * time.Millisecond
)

// attempts bounds how often a request is sent to an agent that then ends: the request may be
// the reason.
const attempts = 4

// confirmSuffix is the ending of the address to which an agent that confirms requests binds its
// socket (see package agent). A connected client gets the address from the kernel, even if the
// agent's process is stopped.
const confirmSuffix = ".102"

// confirmTimeout bounds the time of an agent to confirm a request. After it the agent counts as
// stopped, and plexusd serves the request. plexusd may then wait for a sandbox that the agent
// has locked: both waits together are below the 10 s of a verb.
const confirmTimeout = 1500 * time.Millisecond

// maxReply bounds an answer, in bytes.
const maxReply = 64 << 20

// reply is the output of this process.
type reply struct {
	status         int
	stdout, stderr string
}

// agentError is the error of a request that the agent did not serve. silent: the agent was not
// there, or ended; sent: it had the request. plexusd serves the request if it is not silent.
type agentError struct {
	text         string
	silent, sent bool
}

func (e *agentError) Error() string { return e.text }

func silentError(socket, why string, sent bool) *agentError {
	return &agentError{"the node agent at " + socket + " does not answer: " + why + ": is plexusd serve running on this node? The runtime tries again", true, sent}
}

func stoppedError(socket string) *agentError {
	return &agentError{"the node agent at " + socket + " has not taken the request: is its process stopped?", false, false}
}

// callAgent hands the request to the agent. It connects again when the agent goes away
// in the middle of it. For ADD it is patient; other verbs plexusd does as well.
func callAgent(socket, as string, stdin []byte) (*reply, *agentError) {
	body := requestOf(as, stdin)
	add := os.Getenv("CNI_COMMAND") == "ADD"
	deadline := time.Now().Add(patience)
	for had := 0; ; time.Sleep(pause) {
		a, err := tryAgent(socket, body)
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
// after the connection broke: the agent then returns the recorded result.
func requestOf(as string, stdin []byte) string {
	id := strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	var b strings.Builder
	for _, pair := range [][2]string{
		{"version", strconv.Itoa(protocol)}, {"id", id}, {"as", as}, {"runtime", runtimeName()},
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

// runtimeName is the name of the process that has executed plexus, "" when the kernel does not
// tell. The answer depends on it (key result of the configuration).
func runtimeName() string {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getppid()) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// tryAgent asks once.
func tryAgent(socket, body string) (a *reply, failed *agentError) {
	until := time.Now().Add(confirmTimeout)
	conn, err := connect(socket)
	if err == syscall.EAGAIN {
		return nil, stoppedError(socket) // the queue of waiting connections is full
	}
	if err != nil {
		return nil, silentError(socket, err.Error(), false)
	}
	head := "POST /v1/cni HTTP/1.0\r\n"
	confirms := confirms(conn)
	if confirms {
		head = "POST /v1/cni HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n"
	}
	head += "Content-Type: application/octet-stream\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if err := send(conn, head+body, func() bool { return confirms && time.Now().After(until) }); err != nil {
		_ = syscall.Close(conn)
		if err == syscall.EAGAIN {
			return nil, stoppedError(socket)
		}
		return nil, silentError(socket, err.Error(), true)
	}
	// The wait for the answer blocks no thread: the runtime of Go would check a blocked thread
	// every few microseconds, on the processor that the agent needs. The agent works during
	// the setup of the poller.
	_ = syscall.SetNonblock(conn, true)
	from := os.NewFile(uintptr(conn), socket)
	defer func() {
		if failed != nil {
			_ = from.Close() // otherwise the end of this process closes it
		}
	}()
	r := bufio.NewReaderSize(from, 8<<10)
	if confirms {
		_ = from.SetReadDeadline(until)
		if _, err := r.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
			if !withdraw(conn) {
				return nil, silentError(socket, "it has begun the request too late", true)
			}
			return nil, stoppedError(socket)
		}
		_ = from.SetReadDeadline(time.Time{})
	}
	head, body, err = readReply(r)
	if err != nil {
		return nil, silentError(socket, err.Error(), true)
	}
	line, _, _ := strings.Cut(head, "\r\n")
	switch _, status, _ := strings.Cut(line, " "); {
	case strings.HasPrefix(status, "503"):
		return nil, silentError(socket, strings.TrimSpace(body), true)
	case !strings.HasPrefix(status, "200"):
		return nil, &agentError{"the node agent at " + socket + " answers " + line + ": " + short(body), false, true}
	}
	if a = parseReply(body); a == nil {
		return nil, &agentError{"what answers at " + socket + " is no node agent: " + short(body), false, true}
	}
	return a, nil
}

func short(text string) string { return text[:min(len(text), 500)] }

// parseReply reads the body of an answer, nil when it is none.
func parseReply(body string) *reply {
	pairs, stdout, ok := strings.Cut(body, "\x00\x00")
	if !ok {
		return nil
	}
	a := &reply{stdout: stdout}
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

// withdraw closes the connection of an unconfirmed request, so that the agent cannot confirm
// and start it. It returns false when the agent has confirmed it before.
func withdraw(conn int) bool {
	_ = syscall.Shutdown(conn, syscall.SHUT_RDWR)
	n, _ := syscall.Read(conn, make([]byte, 1))
	return n <= 0
}

// readReply reads head and body, which has the length that the head says. It passes over
// interim answers.
func readReply(r *bufio.Reader) (head, body string, err error) {
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", "", errEnded
		}
		if head += string(line); string(line) == "\r\n" {
			if _, status, _ := strings.Cut(head, " "); !strings.HasPrefix(status, "1") {
				break
			}
			head = ""
		}
		if text, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(text)); err != nil || length < 0 || length > maxReply {
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

// connect makes a connection. It waits for takenWithin where the kernel queues no more
// connections for a process; then the error is EAGAIN.
func connect(socket string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := syscall.NsecToTimeval(int64(confirmTimeout)) // of connect and of each send (unix(7), socket(7))
	err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
	}
	if err == syscall.EINTR { // with a limit the kernel does not begin again by itself (signal(7))
		err = syscall.EAGAIN
	}
	if err != nil {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

// confirms reports whether the agent at the other end confirms requests.
func confirms(conn int) bool {
	peer, err := syscall.Getpeername(conn)
	at, ok := peer.(*syscall.SockaddrUnix)
	return err == nil && ok && strings.HasSuffix(at.Name, confirmSuffix)
}

// send writes all of a text, until late says that it takes too long: then the error is
// EAGAIN. An agent that has gone is an error, not a signal.
func send(conn int, text string, late func() bool) error {
	for rest := []byte(text); len(rest) > 0; {
		n, err := syscall.SendmsgN(conn, rest, nil, nil, syscall.MSG_NOSIGNAL)
		if err == syscall.EINTR || err == syscall.EAGAIN && !late() {
			continue
		}
		if err != nil {
			return err
		}
		if rest = rest[n:]; len(rest) > 0 && late() {
			return syscall.EAGAIN
		}
	}
	return nil
}

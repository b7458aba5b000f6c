package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
)

// Client sends requests to the node agent at a unix socket, over a connection for each.
type Client struct {
	Socket string
}

// AwayError is an agent that does not answer.
type AwayError struct {
	Socket string
	Err    error
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("the node agent at %s does not answer: %v: is plexusd serve running on this node?", e.Socket, e.Err)
}

func (e *AwayError) Unwrap() error { return e.Err }

// RefusedError is an answer of the agent with another status than 200.
type RefusedError struct {
	Status int    // of HTTP
	Text   string // the agent's own
}

func (e *RefusedError) Error() string { return e.Text }

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 256 << 20

// confirmTimeout is the time for an agent to confirm a request; the process of one that
// does not is stopped. The answer may take as long as the caller's context allows.
const confirmTimeout = 3 * time.Second

var errStopped = errors.New("it has not taken the question; is its process stopped?")

// Ask is one request, such as GET /v1/node. It returns the body of the answer, an
// *AwayError when there is none, a *RefusedError when its status is not 200.
func (c *Client) Ask(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(confirmTimeout, func() { cancel(errStopped) })
	defer limit.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { limit.Stop() }})
	target := url.URL{Scheme: "http", Host: "agent", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
			if err == nil && !confirms(conn) {
				limit.Stop() // an agent of a former version
			}
			return conn, err
		},
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStopped) {
			err = cause
		}
		return nil, &AwayError{c.Socket, reason(err)}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	_ = response.Body.Close() // all of it is read
	switch {
	case err != nil:
		return nil, &AwayError{c.Socket, fmt.Errorf("it ended in the middle of its answer: %w", err)}
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the node agent at %s answers %s %s with more than %d bytes", c.Socket, method, path, maxAnswer)
	case response.StatusCode != http.StatusOK:
		text := strings.TrimSpace(string(body))
		if text == "" {
			text = fmt.Sprintf("the node agent at %s answers %s %s with %s", c.Socket, method, path, response.Status)
		}
		return nil, &RefusedError{response.StatusCode, text}
	}
	return body, nil
}

// reason is an error without the socket's path, which AwayError has.
func reason(err error) error {
	var dial *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("it takes too long")
	case errors.Is(err, io.EOF):
		return errors.New("it closes the connection")
	case errors.As(err, &dial) && dial.Op == "dial":
		return dial.Err
	}
	return err
}

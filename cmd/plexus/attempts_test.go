package main

import (
	"context"
	"net"
	"testing"
	"time"
)

// A request that ends the agent each time, or an agent that hangs up each time,
// is told to the runtime: it is not made again for ever.
func TestAnAgentThatAlwaysHangsUp(t *testing.T) {
	for _, verb := range []string{"DEL", "ADD"} {
		t.Setenv("CNI_COMMAND", verb)
		for name, answer := range map[string]func(int, net.Conn){
			"hangs up": func(int, net.Conn) {},
			"503": func(_ int, conn net.Conn) {
				_, _ = conn.Write([]byte("HTTP/1.0 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater"))
			},
		} {
			s := newStandIn(t, answer)
			done := make(chan *agentError, 1)
			go func() {
				_, err := callAgent(s.socket, "plexus", []byte("{}"))
				done <- err
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			select {
			case err := <-done:
				if err == nil || !err.silent {
					t.Errorf("%s, %s: %v", verb, name, err)
				}
			case <-ctx.Done():
				t.Errorf("%s, %s: still asking after %d requests", verb, name, len(s.requests()))
			}
			cancel()
		}
	}
}

// What answers 200 and is no agent is not believed: DEL would undo nothing, ADD
// answer nothing.
func TestAnAnswerThatIsNone(t *testing.T) {
	t.Setenv("CNI_COMMAND", "DEL")
	for _, body := range []string{"", "{}", "\x00\x00", "status=0\x00\x00", "version=0\x00\x00", "version=x\x00\x00", "version=1\x00status=x\x00\x00", "version=1\x00status=0\x00"} {
		s := newStandIn(t, func(n int, conn net.Conn) {
			if n < 4 {
				say(body)(n, conn)
				return
			}
			say("version=1\x00status=3\x00\x00")(n, conn) // should it ask until it gets one
		})
		if a, err := callAgent(s.socket, "plexus", []byte("{}")); err == nil && a.status != 3 {
			t.Errorf("%q: believed: %+v", body, a)
		}
	}
}

package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// cniHandler answers plexus: POST /v1/cni.
type cniHandler struct {
	engines   *engines
	store     *store
	publisher *publisher
	telemetry *telemetry
	memory    *memory
	logs      call.LogFiles

	warnings atomic.Pointer[[]string] // of the last STATUS
}

// maxBody bounds a request, in bytes: standard input, and an environment.
const maxBody = call.MaxStdin + 1<<20

// ServeHTTP is http.Handler. The request is undone when plexus ends before the answer:
// its connection is the request's context.
func (h *cniHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var c *call.Call
	if err == nil {
		c, err = parseRequest(body)
	}
	if err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	defer h.memory.use()()
	var stderr lockedBuffer
	c.Stderr = &stderr
	began, report, command := time.Now(), func() {}, c.Getenv("CNI_COMMAND")
	status, out, err := c.Respond(func(stdin []byte) (any, error) {
		return c.Do(stdin, &h.logs, h.engines.open, func(e *engine.Engine, r *engine.Request) (any, error) {
			answer, err := h.serve(ctx, command, e, r)
			report = func() { h.report(command, e, r, err) }
			return answer, err
		})
	})
	body = answerBody(status, out, stderr.String())
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)                      // an error says that plexus has gone
	_ = http.NewResponseController(w).Flush() // the answer goes out before the handler returns
	took := time.Since(began)
	time.Sleep(answerFirst)
	report()
	h.log(c, status, err, took)
}

// statusWarnings are the warnings of the last STATUS.
func (h *cniHandler) statusWarnings() []string {
	if w := h.warnings.Load(); w != nil {
		return *w
	}
	return nil
}

// serve does the request, and has the publisher publish later what it did.
func (h *cniHandler) serve(ctx context.Context, command string, e *engine.Engine, r *engine.Request) (answer any, err error) {
	if h.publisher.serves(e.Source) {
		e.Later = func(pod *conf.Pod, publish func(context.Context) error) {
			h.publisher.publish(r.Sandbox, r.IfName, pod, publish)
		}
	}
	_, err = h.telemetry.observe(ctx, command, r.Sandbox, podName(r.Args), func(ctx context.Context) (err error) {
		answer, err = call.Serve(ctx, command, e, r)
		return err
	})
	switch command {
	case "DEL":
		h.publisher.drop(r.Sandbox, r.IfName)
	case "STATUS":
		h.warnings.Store(&r.Warnings)
	}
	return answer, err
}

// report notes in the store what a request has changed, and announces it on the pod.
func (h *cniHandler) report(command string, e *engine.Engine, r *engine.Request, err error) {
	var rec *journal.Record
	switch {
	case r.Conf == nil || err != nil:
	case command == "ADD":
		if rec, _ = e.Journal.Read(r.Sandbox); rec != nil { // nil when a DEL was faster
			h.store.add(rec)
		}
	case command == "DEL":
		h.store.remove(r.Sandbox)
	}
	announce(e, command, r, rec, err)
}

// log logs a request.
func (h *cniHandler) log(c *call.Call, status int, err error, took time.Duration) {
	level, why, pod := slog.LevelInfo, "", ""
	if err != nil {
		level, why = slog.LevelWarn, err.Error()
	}
	if args, err := conf.ParseArgs(c.Getenv("CNI_ARGS")); err == nil {
		pod = podName(args)
	}
	h.telemetry.log.Log(context.Background(), level, c.Getenv("CNI_COMMAND"), "sandbox", c.Getenv("CNI_CONTAINERID"), "pod", pod,
		"took", took.Round(time.Microsecond), "status", status, "why", why)
}

// lockedBuffer is for plugins that run together, and the log.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write is io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String is what was written.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

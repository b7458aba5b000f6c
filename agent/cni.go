package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

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
	logs      logFiles
}

// maxBody bounds a request, in bytes: standard input, and an environment.
const maxBody = maxStdin + 1<<20

// ServeHTTP is http.Handler. The request is undone when plexus ends before the answer:
// its connection is the request's context.
func (h *cniHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var request *Request
	if err == nil {
		request, err = parseRequest(body)
	}
	if err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	defer h.memory.use()()
	var out bytes.Buffer
	var stderr lockedBuffer
	call := Call{
		As: request.As, ID: request.ID, Getenv: func(key string) string { return request.Env[key] },
		Stdin: bytes.NewReader(request.Stdin), Stdout: &out, Stderr: &stderr,
	}
	began, report := time.Now(), func() {}
	status := call.respond(func(stdin []byte) (answer any, err error) {
		answer, report, err = h.serve(r.Context(), &call, stdin)
		return answer, err
	})
	send(w, &CNIAnswer{Status: status, Stdout: out.Bytes(), Stderr: stderr.String()})
	took := time.Since(began)
	time.Sleep(answerFirst)
	report()
	h.log(request, status, out.Bytes(), took)
}

// serve does the request. report is for after the answer.
func (h *cniHandler) serve(ctx context.Context, c *Call, stdin []byte) (answer any, report func(), err error) {
	report = func() {}
	r, settings, err := c.parse(stdin)
	if err != nil {
		return nil, report, err
	}
	log, done := h.logs.open(settings, c.Stderr)
	defer done()
	e, err := c.open(h.engines, r, settings, log)
	if err != nil {
		return nil, report, err
	}
	if h.publisher.serves(e.Source) {
		e.Later = func(pod *conf.Pod, publish func(context.Context) error) {
			h.publisher.publish(r.Sandbox, r.IfName, pod, publish)
		}
	}
	command := c.Getenv("CNI_COMMAND")
	err = h.telemetry.observe(ctx, command, r.Sandbox, podName(r.Args), func(ctx context.Context) (err error) {
		answer, err = serve(ctx, command, e, r)
		return err
	})
	if command == "DEL" {
		h.publisher.drop(r.Sandbox, r.IfName)
	}
	return answer, func() { h.report(command, e, r, err) }, err
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
func (h *cniHandler) log(request *Request, status int, out []byte, took time.Duration) {
	level, why, pod := slog.LevelInfo, "", ""
	if status != 0 {
		level = slog.LevelWarn
		var e answerError
		if json.Unmarshal(out, &e) == nil {
			why = e.Msg
		}
	}
	if args, err := conf.ParseArgs(request.Env["CNI_ARGS"]); err == nil {
		pod = podName(args)
	}
	h.telemetry.log.Log(context.Background(), level, request.Env["CNI_COMMAND"], "sandbox", request.Env["CNI_CONTAINERID"], "pod", pod,
		"took", took.Round(time.Microsecond), "status", status, "why", why)
}

// send sends the answer whole before the handler returns.
func send(w http.ResponseWriter, a *CNIAnswer) {
	body := a.body()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // an error says that plexus has gone
	_ = http.NewResponseController(w).Flush()
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

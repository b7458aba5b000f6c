package agent

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// metrics are what Prometheus reads. Durations are in seconds.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.HistogramVec
	steps     *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	reconcile *prometheus.CounterVec
	abandoned prometheus.Counter
}

func newMetrics(s *store, unpublished func() int) *metrics {
	buckets := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plexus_request_duration_seconds", Help: "Time to answer a request, by verb.", Buckets: buckets}, []string{"verb"}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plexus_step_duration_seconds", Help: "Time of one step of a transaction, until the next one.", Buckets: buckets}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plexus_failures_total", Help: "Failed requests, by verb and CNI error code."}, []string{"verb", "code"}),
		reconcile: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plexus_reconcile_findings_total", Help: "What comparing the journal with the world has found, by kind."}, []string{"kind"}),
		abandoned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plexus_abandoned_total", Help: "Attachments that an operator has given up, as executables did not undo them."}),
	}
	for _, kind := range []engine.Kind{engine.KindUnfinished, engine.KindMissing, engine.KindDifferent, engine.KindGone, engine.KindFailed, engine.KindLocked, engine.KindDamaged} {
		m.reconcile.WithLabelValues(string(kind))
	}
	m.registry.MustRegister(m.requests, m.steps, m.failures, m.reconcile, m.abandoned, &attachments{s},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "plexus_unpublished", Help: "Sandboxes whose pods do not know yet what they got: network-status is tried again."}, func() float64 { return float64(unpublished()) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// request counts a transaction that has ended.
func (m *metrics) request(e *Event, err error) {
	m.requests.WithLabelValues(e.Verb).Observe(e.Took / 1000)
	for i, s := range e.Steps {
		until := e.Took
		if i+1 < len(e.Steps) {
			until = e.Steps[i+1].At
		}
		m.steps.WithLabelValues(stepName(s.What)).Observe((until - s.At) / 1000)
	}
	if err != nil {
		m.failures.WithLabelValues(e.Verb, strconv.FormatUint(uint64(call.WireError(err, "").Code), 10)).Inc()
	}
}

// stepName is what steps of a kind have in common: of "net1: insert ports into
// OVSDB at unix:..." it is "insert ports".
func stepName(what string) string {
	if _, after, ok := strings.Cut(what, ": "); ok {
		what = after
	}
	words := strings.Fields(what)
	for i, word := range words {
		if i == 2 || strings.ContainsFunc(word, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' }) {
			words = words[:i]
			break
		}
	}
	if len(words) == 0 {
		return "other"
	}
	return strings.Join(words, " ")
}

// vswitches tells whether each vswitch works, at each scrape.
type vswitches struct{ watcher *watcher }

var vswitchDesc = prometheus.NewDesc("plexus_vswitch_up", "Whether a vswitch that pods are attached to works, by delegate and address.", []string{"delegate", "endpoint"}, nil)

// Describe is prometheus.Collector.
func (v *vswitches) Describe(to chan<- *prometheus.Desc) { to <- vswitchDesc }

// Collect is prometheus.Collector.
func (v *vswitches) Collect(to chan<- prometheus.Metric) {
	for _, one := range v.watcher.states() {
		up := 1.0
		if one.Why != "" {
			up = 0
		}
		to <- prometheus.MustNewConstMetric(vswitchDesc, prometheus.GaugeValue, up, one.Delegate, one.Address)
	}
}

// attachments counts what is in the journal, at each scrape.
type attachments struct{ store *store }

var attachmentsDesc = prometheus.NewDesc("plexus_attachments", "Attachments of pods on this node, by network, delegate and phase.", []string{"network", "delegate", "phase"}, nil)

var damagedDesc = prometheus.NewDesc("plexus_journal_damaged", "Journal files that cannot be used, or in part.", nil, nil)

// Describe is prometheus.Collector.
func (a *attachments) Describe(to chan<- *prometheus.Desc) { to <- attachmentsDesc; to <- damagedDesc }

// Collect is prometheus.Collector.
func (a *attachments) Collect(to chan<- prometheus.Metric) {
	count, damaged := map[[3]string]int{}, 0
	err := a.store.each(func(rec *journal.Record) {
		if rec.Damage != "" {
			damaged++
		}
		for _, tx := range rec.Transactions {
			for _, entry := range tx.Attachments {
				phase := tx.Phase
				if entry.Phase != "" {
					phase = entry.Phase
				}
				count[[3]string{entry.Name, strings.Join(entry.List.Types(), "+"), string(phase)}]++
			}
		}
	})
	to <- prometheus.MustNewConstMetric(damagedDesc, prometheus.GaugeValue, float64(damaged+len(unjoin(err))))
	for labels, n := range count {
		to <- prometheus.MustNewConstMetric(attachmentsDesc, prometheus.GaugeValue, float64(n), labels[:]...)
	}
}

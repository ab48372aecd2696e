package backend

import (
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"

	"sluice/poller"
)

// Every series is made here, before the first client; neither clients nor backends add labels.

var (
	requests = map[string]*metrics.Counter{
		// events came back
		"ok": metrics.NewCounter(`sluice_backend_requests_total{result="ok"}`),
		// another status or type
		"status": metrics.NewCounter(`sluice_backend_requests_total{result="status"}`),
		// events that cannot be read
		"malformed": metrics.NewCounter(`sluice_backend_requests_total{result="malformed"}`),
		// the backend was not reached
		"not_handled": metrics.NewCounter(`sluice_backend_requests_total{result="not_handled"}`),
		// sent, and the connection broke
		"broken": metrics.NewCounter(`sluice_backend_requests_total{result="broken"}`),
		// sent, and no answer in time
		"timeout": metrics.NewCounter(`sluice_backend_requests_total{result="timeout"}`),
	}
	requestsInFlight gauge
	_                = metrics.NewGauge(`sluice_backend_requests_in_flight`, requestsInFlight.value)
	requestTime      = poller.NewHistogram(`sluice_backend_request_duration_seconds`,
		poller.DurationBuckets)
	requestEvents = poller.NewHistogram(`sluice_backend_request_events`,
		[]float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512})
	requestRetries = metrics.NewCounter(`sluice_backend_retries_total`)

	waiting       gauge // connections with something to send and no request in flight
	_             = metrics.NewGauge(`sluice_backend_waiting`, waiting.value)
	buffered      gauge // bytes of events that wait or are in flight
	_             = metrics.NewGauge(`sluice_backend_buffered_bytes`, buffered.value)
	breakerOpened = metrics.NewCounter(`sluice_backend_breaker_opened_total`)

	readingPaused = metrics.NewCounter(`sluice_backend_paused_total`) // a connection's share was full

	// connections that the gateway has closed on account of the backend
	closed = map[string]*metrics.Counter{
		// not reached, or no answer
		"unavailable": metrics.NewCounter(`sluice_backend_closes_total{reason="unavailable"}`),
		// more messages than may wait
		"overflow": metrics.NewCounter(`sluice_backend_closes_total{reason="overflow"}`),
		// an answer that is none
		"error": metrics.NewCounter(`sluice_backend_closes_total{reason="error"}`),
	}

	// control messages that are malformed or not known
	controlsIgnored = metrics.NewCounter(`sluice_backend_ignored_total{what="control"}`)
	// messages without the prefix
	messagesIgnored = metrics.NewCounter(`sluice_backend_ignored_total{what="message"}`)
	// Set-Meta- beyond the bounds
	metasIgnored = metrics.NewCounter(`sluice_backend_ignored_total{what="meta"}`)

	controlRequests = map[string]*metrics.Counter{
		"ok":      metrics.NewCounter(`sluice_control_requests_total{result="ok"}`),
		"invalid": metrics.NewCounter(`sluice_control_requests_total{result="invalid"}`),
		"denied":  metrics.NewCounter(`sluice_control_requests_total{result="denied"}`),
		"limited": metrics.NewCounter(`sluice_control_requests_total{result="limited"}`),
		"failed":  metrics.NewCounter(`sluice_control_requests_total{result="failed"}`),
	}

	goodbyesWaiting gauge // ends of connections that the backend has not been told yet
	_               = metrics.NewGauge(`sluice_backend_goodbyes_waiting`, goodbyesWaiting.value)
	goodbyesDropped = metrics.NewCounter(`sluice_backend_goodbyes_dropped_total`)
)

// gauge is a number that goes up and down. Any goroutine.
type gauge struct{ atomic.Int64 }

func (g *gauge) value() float64 { return float64(g.Load()) }

package topics

import (
	"fmt"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// Names of topics come from clients, so no series has one as a label.

var (
	topicsHeld, subscriptionsHeld atomic.Int64
	retainedBytes, pendingBytes   atomic.Int64
	historyBytes                  atomic.Int64

	_ = gauge(`sluice_topics`, &topicsHeld)
	_ = gauge(`sluice_topic_subscriptions`, &subscriptionsHeld)
	_ = gauge(`sluice_topic_retained_bytes`, &retainedBytes) // kept for slow subscribers
	_ = gauge(`sluice_topic_pending_bytes`, &pendingBytes)   // accepted, and not fanned out yet
	_ = gauge(`sluice_topic_history_bytes`, &historyBytes)

	// published counts messages that this process accepted, received those that the broker brought;
	// delivered counts one for each recipient's connection.
	published = metrics.NewCounter(`sluice_topic_published_total`)
	received  = metrics.NewCounter(`sluice_topic_received_total`)
	delivered = metrics.NewCounter(`sluice_topic_delivered_total`)

	refusedBusy    = metrics.NewCounter(`sluice_topic_refused_total{reason="busy"}`)
	refusedFull    = metrics.NewCounter(`sluice_topic_refused_total{reason="full"}`)
	refusedName    = metrics.NewCounter(`sluice_topic_refused_total{reason="name"}`)
	refusedPayload = metrics.NewCounter(`sluice_topic_refused_total{reason="payload"}`)
	refusedBroker  = metrics.NewCounter(`sluice_topic_refused_total{reason="broker"}`)

	// slow counts subscribers that were overtaken, and slowDropped the messages that they did not
	// get.
	slow        = byPolicy(`sluice_topic_slow_subscribers_total{policy=%q}`)
	slowDropped = byPolicy(`sluice_topic_dropped_total{policy=%q}`)

	recoveredAll = metrics.NewCounter(`sluice_topic_recoveries_total{result="recovered"}`)
	recoveredNot = metrics.NewCounter(`sluice_topic_recoveries_total{result="lost"}`)
)

// What the broker does. A gap is told to the subscribers of one topic; its messages are those that
// came, and that the loops had no room for.
var (
	feedsDown atomic.Int64 // connections that publications come on, and that do not stand
	_         = metrics.NewGauge(`sluice_broker_up`, func() float64 {
		if feedsDown.Load() > 0 {
			return 0
		}
		return 1
	})

	brokerLost     = metrics.NewCounter(`sluice_broker_lost_total`)
	probesLost     = metrics.NewCounter(`sluice_broker_probes_lost_total`)
	publishErrors  = metrics.NewCounter(`sluice_broker_errors_total{reason="publish"}`)
	historyErrors  = metrics.NewCounter(`sluice_broker_errors_total{reason="history"}`)
	refusedForeign = metrics.NewCounter(`sluice_broker_errors_total{reason="message"}`)
	gaps           = metrics.NewCounter(`sluice_topic_gaps_total`)
	missedMessages = metrics.NewCounter(`sluice_topic_missed_total`)
)

func gauge(name string, n *atomic.Int64) *metrics.Gauge {
	return metrics.NewGauge(name, func() float64 { return float64(n.Load()) })
}

func byPolicy(format string) (m [slowPolicies]*metrics.Counter) {
	for p, name := range slowNames {
		m[p] = metrics.NewCounter(fmt.Sprintf(format, name))
	}
	return m
}

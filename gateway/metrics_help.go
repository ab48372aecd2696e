package gateway

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// metricHelp is the HELP text of each metric, those of the packages below and above included: here
// an operator reads all of them in one place. A test insists that none is missing.
var metricHelp = map[string]string{
	"sluice_build_info":                       "What was built; the value is 1.",
	"sluice_ready":                            "1 while new connections are welcome, as /readyz says.",
	"sluice_max_buffered_bytes":               "What sluice_buffered_bytes may become.",
	"sluice_upgrades_failed_total":            "Times that the next process could not take over.",
	"sluice_startup_seconds":                  "Time from the start of the process until it was ready.",
	"sluice_shutdown_seconds":                 "Time that the drain took; 0 before there was one.",
	"sluice_connections":                      "WebSockets that are open.",
	"sluice_connections_total":                "WebSockets accepted since the start.",
	"sluice_connections_moved_total":          "Connections taken over from another process, or by one.",
	"sluice_connections_passed_on_total":      "Sockets that a full loop gave to one with room.",
	"sluice_connections_compressed_total":     "Handshakes that agreed on compression.",
	"sluice_max_connections":                  "Connections that the process may hold.",
	"sluice_buffered_bytes":                   "Partial requests and messages, and unread replies, of all connections.",
	"sluice_handshake_duration_seconds":       "Time from accept to the end of a complete and valid request.",
	"sluice_handshakes_rejected_total":        "Requests that did not become a WebSocket, by reason.",
	"sluice_messages_received_total":          "Data messages received.",
	"sluice_messages_sent_total":              "Data messages sent, heartbeats included.",
	"sluice_bytes_received_total":             "Bytes read from clients.",
	"sluice_bytes_sent_total":                 "Bytes that the sockets took.",
	"sluice_heartbeats_sent_total":            "Heartbeats sent.",
	"sluice_slow_consumers_total":             "Clients cut off because they did not read, by reason.",
	"sluice_errors_total":                     "Connections ended for a fault, and faults of the gateway, by reason.",
	"sluice_addresses_barred_total":           "Connections turned away for their address, by reason.",
	"sluice_proxied_total":                    "What proxies said of their clients, by what became of it.",
	"sluice_closes_total":                     "WebSockets that ended, by close code; 1006 is none.",
	"sluice_tls_handshakes_total":             "TLS handshakes: what their connections went on with, or why not.",
	"sluice_tls_certificate_expiry_seconds":   "When the first of the certificates expires, in Unix time.",
	"sluice_tls_reloads_total":                "Times that the TLS files had changed, by result.",
	"sluice_tls_handshake_duration_seconds":   "Time of a TLS handshake, the client's part included.",
	"sluice_sockets_lingering":                "Closed sockets that keep unsent bytes for a peer that does not read.",
	"sluice_loop_lag_seconds":                 "How late a loop came to its timers.",
	"sluice_sessions":                         "Sessions held in memory; with Redis, connections attached to one.",
	"sluice_sessions_idle":                    "Sessions in memory that nobody is attached to, by segment.",
	"sluice_sessions_evicted_total":           "Sessions forgotten for want of room, by segment.",
	"sluice_sessions_expired_total":           "Sessions forgotten after the TTL.",
	"sluice_sessions_rejected_total":          "Connections refused because the session store was full.",
	"sluice_redis_up":                         "1 while Redis answers.",
	"sluice_redis_pending_messages":           "Messages counted and not yet confirmed by Redis.",
	"sluice_redis_commits_total":              "Commits that Redis confirmed.",
	"sluice_redis_commit_retries_total":       "Commits that were sent again.",
	"sluice_redis_commits_refused_total":      "Commits that Redis refused for good.",
	"sluice_redis_heals_total":                "Sessions restored after Redis had lost them.",
	"sluice_redis_commit_duration_seconds":    "Time from sending a batch of commits to its answer.",
	"sluice_redis_commit_batch_size":          "Commits in a batch.",
	"sluice_redis_cache_hits_total":           "Resumes answered from the client-side cache.",
	"sluice_redis_cache_misses_total":         "Resumes that Redis was asked about.",
	"sluice_redis_cache_invalidations_total":  "Cached sessions that Redis invalidated.",
	"sluice_backend_requests_total":           "Requests to backends, by result.",
	"sluice_backend_requests_in_flight":       "Requests to backends under way.",
	"sluice_backend_request_duration_seconds": "Time from a request to a backend to the end of its answer.",
	"sluice_backend_request_events":           "Events in a request to a backend.",
	"sluice_backend_retries_total":            "Requests to backends that were sent again.",
	"sluice_backend_waiting":                  "Connections that wait for their turn to ask a backend.",
	"sluice_backend_buffered_bytes":           "Events that wait for a backend.",
	"sluice_backend_breaker_opened_total":     "Times that a backend was taken for down.",
	"sluice_backend_closes_total":             "Clients closed because of their backend, by reason.",
	"sluice_backend_goodbyes_waiting":         "Ends of connections that a backend is still to be told.",
	"sluice_backend_goodbyes_dropped_total":   "Ends of connections that a backend was never told.",
	"sluice_backend_ignored_total":            "Events and control messages of backends that were not understood.",
	"sluice_backend_paused_total":             "Times that reading from a client paused for its backend.",
	"sluice_control_requests_total":           "Requests to the control address, by result.",
	"sluice_topics":                           "Topics with a subscriber or a history.",
	"sluice_topic_subscriptions":              "Subscriptions of connections to topics.",
	"sluice_topic_published_total":            "Messages published by this process.",
	"sluice_topic_received_total":             "Messages that came from the broker.",
	"sluice_topic_delivered_total":            "Messages sent to subscribers.",
	"sluice_topic_dropped_total":              "Messages that a subscriber missed, by reason.",
	"sluice_topic_refused_total":              "Publishes and subscriptions refused, by reason.",
	"sluice_topic_slow_subscribers_total":     "Subscribers that fell behind, by what was done.",
	"sluice_topic_pending_bytes":              "Published messages that some subscriber is still to be sent.",
	"sluice_topic_retained_bytes":             "Published messages held in rings.",
	"sluice_topic_history_bytes":              "Published messages held as history.",
	"sluice_topic_recoveries_total":           "Subscribers that came back and asked from an offset, by result.",
	"sluice_topic_gaps_total":                 "Times that a topic's subscribers were told of a gap.",
	"sluice_topic_missed_total":               "Messages of the broker that this process knows it missed.",
	"sluice_broker_up":                        "0 while a connection to the broker is down.",
	"sluice_broker_lost_total":                "Connections to the broker that were lost.",
	"sluice_broker_probes_lost_total":         "Probes of the broker's connections that did not come back.",
	"sluice_broker_errors_total":              "What the broker refused or could not be read, by reason.",
}

// notNamedWell are metrics of the library whose names Prometheus reserves for parts of histograms.
var notNamedWell = map[string]bool{
	"go_cgo_calls_count": true, "go_cpu_count": true, "go_gc_forced_count": true,
}

// helpOf is the HELP text of a metric, "" when there is none.
func helpOf(name string) string {
	switch help := metricHelp[name]; {
	case help != "":
		return help
	case strings.HasPrefix(name, "go_"):
		return "What the Go runtime says: see runtime/metrics and runtime.MemStats."
	case strings.HasPrefix(name, "process_"):
		return "What the kernel says of the process: see proc(5)."
	}
	return ""
}

// DescribeMetric sets the HELP text of a metric that an application adds. Before the first
// WriteMetrics, from an init function for instance.
func DescribeMetric(name, help string) { metricHelp[name] = help }

// helpWriter completes the HELP lines that the metrics library writes without their text, and mends
// what promtool finds in the library's own metrics. Each Write has whole lines.
type helpWriter struct{ w io.Writer }

func (h helpWriter) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+len(p)/4)
	for line := range bytes.Lines(p) {
		words := bytes.Fields(line)
		switch {
		case len(words) == 0 || notNamedWell[string(words[0])]:
			continue
		case len(words) < 3 || words[0][0] != '#':
		case notNamedWell[string(words[2])]:
			continue
		case string(words[1]) == "HELP" && len(words) == 3:
			if help := helpOf(string(words[2])); help != "" {
				out = fmt.Appendf(out, "# HELP %s %s\n", words[2], help)
				continue
			}
		case string(words[1]) == "TYPE" && bytes.HasSuffix(words[2], []byte("_total")):
			out = fmt.Appendf(out, "# TYPE %s counter\n", words[2])
			continue
		}
		out = append(out, line...)
	}
	if _, err := h.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

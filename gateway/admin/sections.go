package admin

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// section is a table of the page: the first column names, the others are numbers.
type section struct {
	ID    string
	Title string
	Head  []string // of the columns behind the first; none for one column of values
	Rows  [][]string
}

// sections are the tables of the page, those without a row left out.
func sections(last, before sample) (list []section) {
	for _, s := range []section{
		connectionsSection(last, before), messagesSection(last, before), loopsSection(last, before),
		processSection(last, before),
		byLabel(last, before, "refused", "Refused, by reason", "sluice_handshakes_rejected_total", nil),
		byLabel(last, before, "closes", "Closed, by code", "sluice_closes_total", closeMeaning),
		byLabel(last, before, "slow", "Slow consumers", "sluice_slow_consumers_total", nil),
		byLabel(last, before, "errors", "Faults", "sluice_errors_total", nil),
		sessionsSection(last, before), topicsSection(last, before), backendsSection(last, before),
	} {
		if len(s.Rows) > 0 {
			list = append(list, s)
		}
	}
	return list
}

func connectionsSection(last, before sample) section {
	n := last.readings
	return section{ID: "connections", Title: "Connections", Rows: [][]string{
		{"open", whole(n.sum("sluice_connections"))},
		{"room for", whole(n.sum("sluice_max_connections"))},
		{"accepted", perSecond(last, before, "sluice_connections_total")},
		{"refused", perSecond(last, before, "sluice_handshakes_rejected_total")},
		{"accepted in all", whole(n.sum("sluice_connections_total"))},
		{"buffered", size(n.sum("sluice_buffered_bytes"))},
	}}
}

func messagesSection(last, before sample) section {
	rows := [][]string{
		{"in", perSecond(last, before, "sluice_messages_received_total")},
		{"out", perSecond(last, before, "sluice_messages_sent_total")},
	}
	if last.counts {
		rows = append(rows, []string{"acknowledged", aSecond(acknowledgedRate(last, before))})
	}
	return section{ID: "messages", Title: "Messages", Rows: append(rows, [][]string{
		{"heartbeats", perSecond(last, before, "sluice_heartbeats_sent_total")},
		{"bytes in", bytesPerSecond(last, before, "sluice_bytes_received_total")},
		{"bytes out", bytesPerSecond(last, before, "sluice_bytes_sent_total")},
	}...)}
}

func loopsSection(last, before sample) section {
	s := section{ID: "loops", Title: "Loops", Head: []string{"connections", "lag", "busy"}}
	if len(last.loops) == 0 {
		s.Head = nil
		if lag, ok := last.readings.quantile(before.readings, "sluice_loop_lag_seconds", 0.99); ok {
			s.Rows = [][]string{{"lag (p99)", atMost(lag)}}
		}
		return s
	}
	const most = 64 // a page, not a report
	for i, l := range last.loops {
		if i == most {
			s.Rows = append(s.Rows, []string{fmt.Sprintf("and %d more", len(last.loops)-most), "", "", ""})
			break
		}
		share, ok := busy(last, before, i)
		s.Rows = append(s.Rows, []string{strconv.Itoa(i), whole(float64(l.Connections)),
			duration(l.Lag), percent(share, ok)})
	}
	return s
}

func processSection(last, before sample) section {
	used, ok := cores(last, before)
	cores := unknown
	if ok {
		cores = strconv.FormatFloat(used, 'f', 2, 64)
	}
	return section{ID: "process", Title: "Process", Rows: [][]string{
		{"memory", size(float64(last.resident))},
		{"Go heap", size(float64(last.heap))},
		{"goroutines", whole(float64(last.goroutines))},
		{"cores used", cores},
	}}
}

// byLabel has a row for each label of a metric that has counted anything.
func byLabel(last, before sample, id, title, name string, meaning map[string]string) section {
	s := section{ID: id, Title: title, Head: []string{"in all", "now"}}
	for _, l := range last.readings.labels[name] {
		if l.value == 0 {
			continue
		}
		label := strings.TrimSpace(strings.ReplaceAll(l.label, "_", " ") + " " + meaning[l.label])
		s.Rows = append(s.Rows, []string{label, whole(l.value), perSecond(last, before, seriesOf(last, name, l.label))})
	}
	slices.SortFunc(s.Rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return s
}

// seriesOf is the series of name with this label, as the exposition writes it.
func seriesOf(last sample, name, label string) string {
	for _, key := range []string{"reason", "code", "result", "policy"} {
		if series := name + "{" + key + `="` + label + `"}`; last.has(series) {
			return series
		}
	}
	return name
}

func (s sample) has(series string) bool { _, ok := s.readings.series[series]; return ok }

// closeMeaning is RFC 6455, section 7.4.1, and IANA's registry.
var closeMeaning = map[string]string{
	"1000": "normal", "1001": "going away", "1002": "protocol error", "1003": "unsupported data",
	"1005": "without a code", "1006": "without Close", "1007": "not UTF-8", "1008": "policy",
	"1009": "too big", "1010": "extension wanted", "1011": "internal error", "1012": "restart",
	"1013": "try again later", "1014": "bad gateway",
}

func sessionsSection(last, before sample) section {
	n := last.readings
	s := section{ID: "sessions", Title: "Sessions"}
	if n.sum("sluice_sessions") == 0 && !last.has("sluice_redis_up") {
		return s
	}
	s.Rows = append(s.Rows, []string{"held", whole(n.sum("sluice_sessions"))})
	if !last.has("sluice_redis_up") {
		s.Rows = append(s.Rows,
			[]string{"idle", whole(n.sum("sluice_sessions_idle"))},
			[]string{"forgotten for want of room", whole(n.sum("sluice_sessions_evicted_total"))})
		return s
	}
	up := "down"
	if n.series["sluice_redis_up"] == 1 {
		up = "up"
	}
	s.Rows = append(s.Rows,
		[]string{"Redis", up},
		[]string{"messages not confirmed", whole(n.sum("sluice_redis_pending_messages"))},
		[]string{"commits", perSecond(last, before, "sluice_redis_commits_total")},
		[]string{"commits sent again", perSecond(last, before, "sluice_redis_commit_retries_total")})
	const batches = "sluice_redis_commit_duration_seconds"
	if p99, ok := n.quantile(before.readings, batches, 0.99); ok {
		s.Rows = append(s.Rows, []string{"commit (p99)", atMost(p99)})
	}
	return s
}

func topicsSection(last, before sample) section {
	n := last.readings
	s := section{ID: "topics", Title: "Topics"}
	if n.sum("sluice_topics")+n.sum("sluice_topic_published_total")+n.sum("sluice_topic_received_total") == 0 {
		return s
	}
	s.Rows = [][]string{
		{"topics", whole(n.sum("sluice_topics"))},
		{"subscriptions", whole(n.sum("sluice_topic_subscriptions"))},
		{"published here", perSecond(last, before, "sluice_topic_published_total")},
		{"from the broker", perSecond(last, before, "sluice_topic_received_total")},
		{"delivered", perSecond(last, before, "sluice_topic_delivered_total")},
		{"slow subscribers", perSecond(last, before, "sluice_topic_slow_subscribers_total")},
		{"kept", size(n.sum("sluice_topic_retained_bytes") + n.sum("sluice_topic_history_bytes"))},
	}
	return s
}

func backendsSection(last, before sample) section {
	n := last.readings
	s := section{ID: "backends", Title: "Backends"}
	if n.sum("sluice_backend_requests_total")+n.sum("sluice_backend_requests_in_flight") == 0 {
		return s
	}
	s.Rows = [][]string{
		{"requests", perSecond(last, before, "sluice_backend_requests_total")},
		{"in flight", whole(n.sum("sluice_backend_requests_in_flight"))},
		{"clients waiting", whole(n.sum("sluice_backend_waiting"))},
		{"buffered", size(n.sum("sluice_backend_buffered_bytes"))},
		{"taken for down", whole(n.sum("sluice_backend_breaker_opened_total"))},
	}
	const requests = "sluice_backend_request_duration_seconds"
	if p99, ok := n.quantile(before.readings, requests, 0.99); ok {
		s.Rows = append(s.Rows, []string{"request (p99)", atMost(p99)})
	}
	for _, l := range n.labels["sluice_backend_requests_total"] {
		if l.value > 0 && l.label != "ok" {
			s.Rows = append(s.Rows, []string{strings.ReplaceAll(l.label, "_", " ") + " in all", whole(l.value)})
		}
	}
	return s
}

// unknown stands where there is no earlier sample to compare with.
const unknown = "–"

func perSecond(last, before sample, name string) string {
	return aSecond(rate(last, before, name))
}

func aSecond(value float64, ok bool) string {
	switch {
	case !ok:
		return unknown
	case value != 0 && math.Abs(value) < 10:
		return strconv.FormatFloat(value, 'f', 1, 64) + "/s"
	}
	return whole(math.Round(value)) + "/s"
}

func bytesPerSecond(last, before sample, name string) string {
	value, ok := rate(last, before, name)
	if !ok {
		return unknown
	}
	return size(value) + "/s"
}

// whole is a number with its thousands apart.
func whole(value float64) string {
	text := strconv.FormatFloat(math.Trunc(value), 'f', 0, 64)
	digits := strings.TrimPrefix(text, "-")
	sign := text[:len(text)-len(digits)]
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}

func size(value float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if value < 1024 && unit == "B" {
			return fmt.Sprintf("%.0f B", value)
		}
		if value < 1024 {
			return fmt.Sprintf("%.1f %s", value, unit)
		}
		value /= 1024
	}
	return fmt.Sprintf("%.1f TiB", value)
}

func percent(share float64, ok bool) string {
	if !ok {
		return unknown
	}
	return strconv.FormatFloat(share*100, 'f', 1, 64) + " %"
}

func duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// atMost is the bound of a histogram's bucket.
func atMost(seconds float64) string {
	if math.IsInf(seconds, 1) {
		return "beyond the last bucket"
	}
	return "≤ " + duration(time.Duration(seconds*float64(time.Second)))
}

// ago is how long a process has run, in its two largest units.
func ago(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

package load

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// judge says what was wrong, a sentence each.
func (r *Result) judge() (bad []string) {
	n := &r.Counters
	complain := func(count int64, format string, args ...any) {
		if count != 0 {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	complain(n.Abandoned, "%d of %d connections could not be opened: %s.", n.Abandoned, r.Spec.Conns, ListCounts(n.Reasons))
	complain(n.Lost, "%d connections ended when they should have been open: %s.", n.Lost, n.endings())
	complain(n.Missing, "%d of %d messages got no reply.", n.Missing, n.Sent)
	complain(n.Duplicated, "%d replies came twice.", n.Duplicated)
	complain(n.Overcount, "%d messages were counted that were not sent.", n.Overcount)
	complain(n.Corrupt, "%d replies were corrupt.", n.Corrupt)
	units := "messages could not be sent"
	if r.Spec.visits() {
		units = "visits could not begin"
	}
	complain(n.Unsent, "%d %s at their time: no connection was free.", n.Unsent, units)
	complain(n.ResumeWrong, "%d sessions came back with a total that was not what had been acknowledged.", n.ResumeWrong)
	complain(n.ByesWrong, "%d sessions were told goodbye with a total that was not what had been acknowledged.", n.ByesWrong)
	complain(n.BeatsMissing, "%d heartbeats did not come (one every %v was expected).", n.BeatsMissing, r.Spec.HeartbeatEvery)
	if r.Spec.Welcome {
		complain(n.Opened-n.Welcomes, "%d connections got no welcome frame.", n.Opened-n.Welcomes)
	}
	if r.Spec.Heartbeats == "expect" && n.Beats == 0 && r.Complete && r.TrafficSeconds > 1.5*r.Spec.HeartbeatEvery.Seconds() {
		complain(1, "no heartbeat came at all.")
	}
	if open := n.Sent - n.Replies - n.Missing - n.Unanswered; r.Tool.Died == 0 && (open < 0 || open > n.Corrupt) {
		complain(1, "the books do not balance: %d sent, %d answered, %d missing, %d unanswered, %d corrupt; this is a fault of the load generator.",
			n.Sent, n.Replies, n.Missing, n.Unanswered, n.Corrupt)
	}
	for _, o := range r.Spec.SLO {
		l := map[string]Latency{"connect": r.Connect, "handshake": r.Handshake, "message": r.Message, "heartbeat": r.Heartbeat}[o.Metric]
		got := time.Duration(l.At(o.Percentile)) * time.Microsecond
		if l.Count == 0 && r.Complete {
			complain(1, "the objective %v has nothing to be measured by.", o)
		} else if got > o.Limit {
			complain(1, "late: %v was asked for, and it was %v.", o, got)
		}
	}
	return bad
}

// ListCounts writes names with their counts, the most frequent first.
func ListCounts(m map[string]int64) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return m[keys[i]] > m[keys[j]] || m[keys[i]] == m[keys[j]] && keys[i] < keys[j] })
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s %d×", k, m[k])
	}
	return strings.Join(keys, ", ")
}

// endings is why connections ended: closed by the server, or by us for what it sent.
func (n *Counters) endings() string {
	var why []string
	if len(n.Closes) > 0 {
		why = append(why, "closed by the server with "+ListCloses(n.Closes))
	}
	if len(n.Faults) > 0 {
		why = append(why, ListCounts(n.Faults))
	}
	return strings.Join(why, "; ")
}

// ListCloses writes close codes with their names and counts, the most frequent first.
func ListCloses(m map[string]int64) string {
	named := make(map[string]int64, len(m))
	for code, n := range m {
		if name := closeNames[code]; name != "" {
			code += " (" + name + ")"
		}
		named[code] = n
	}
	return ListCounts(named)
}

var closeNames = map[string]string{
	"1000": "normal", "1001": "going away", "1002": "protocol error", "1003": "unsupported", "1005": "no code", "1006": "no Close frame",
	"1007": "not UTF-8", "1008": "policy", "1009": "too big", "1011": "internal error", "1012": "restart", "1013": "try again later",
}

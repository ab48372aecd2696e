package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice/bench/units"
)

// judge says what was wrong, a sentence each.
func (r *Result) judge() (bad []string) {
	n := &r.Counters
	fail := func(count int64, format string, args ...any) {
		if count != 0 {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	fail(n.Abandoned, "%d of %d connections could not be opened: %s.",
		n.Abandoned, r.Spec.Conns, ListCounts(n.Reasons))
	fail(n.Lost, "%d connections ended when they should have been open: %s.", n.Lost, n.endings())
	fail(n.Missing, "%d of %d messages got no reply%s.", n.Missing, n.Sent, r.example(NotExpected))
	fail(n.Duplicated, "%d replies came twice%s.", n.Duplicated, r.example(wrongTwice))
	fail(n.Reordered, "%d messages came out of order%s.", n.Reordered, r.example(wrongOrder))
	refused := int64(0)
	for _, times := range r.PublishErrors {
		refused += times
	}
	fail(refused, "%d publications were not taken: %s.", refused, ListCounts(r.PublishErrors))
	fail(n.Overcount, "%d messages were counted that were not sent%s.",
		n.Overcount, r.example(wrongOvercount))
	fail(n.Corrupt, "%d replies were corrupt%s.", n.Corrupt, r.example(wrongCorrupt))
	unit := "messages could not be sent"
	if r.Spec.visits() {
		unit = "visits could not begin"
	}
	fail(n.Unsent, "%d %s at their time: no connection was free.", n.Unsent, unit)
	fail(n.ResumeWrong, "%d sessions came back with a total that was not what had been acknowledged%s.",
		n.ResumeWrong, r.example(wrongResume))
	fail(n.ByesWrong, "%d sessions were told goodbye with a total that was not what had been acknowledged%s.",
		n.ByesWrong, r.example(wrongBye))
	fail(n.BeatsMissing, "%d heartbeats did not come (one every %v was expected).",
		n.BeatsMissing, r.Spec.HeartbeatEvery)
	if r.Spec.Welcome {
		fail(n.Opened-n.Welcomes, "%d connections got no welcome frame.", n.Opened-n.Welcomes)
	}
	if r.Spec.Heartbeats == "expect" && n.Beats == 0 && r.Complete &&
		r.TrafficSeconds > 1.5*r.Spec.HeartbeatEvery.Seconds() {
		fail(1, "no heartbeat came at all.")
	}
	open := n.Sent - n.Replies - n.Missing - n.Unanswered
	if r.Spec.replies() && (open < 0 || open > n.Corrupt) {
		fail(1, "the counts do not add up: %d sent, %d answered, %d missing, %d unanswered, %d corrupt; "+
			"this is a fault of the load generator.", n.Sent, n.Replies, n.Missing, n.Unanswered, n.Corrupt)
	}
	if len(bad) == 0 {
		bad = append(bad, r.behind()...)
	}
	for _, o := range r.Spec.SLO {
		l := map[string]Latency{"connect": r.Connect, "handshake": r.Handshake, "message": r.Message,
			"heartbeat": r.Heartbeat}[o.Metric]
		got := time.Duration(l.At(o.Percentile)) * time.Microsecond
		if l.Count == 0 && r.Complete {
			fail(1, "the objective %v was not measured: there were no values.", o)
		} else if got > o.Limit {
			fail(1, "too slow: the objective was %v, measured %v.", o, got)
		}
	}
	return bad
}

// example is the first wrong reply of a kind, to end a sentence with.
func (r *Result) example(kind string) string {
	for _, e := range r.WrongReplies {
		if e.Kind == kind {
			s := fmt.Sprintf("; the first was %s, expected %s", e.Got, e.Want)
			if e.Hint != "" {
				s += ". " + strings.TrimSuffix(e.Hint, ".")
			}
			return s
		}
	}
	return ""
}

// behind says who did not keep the schedule of the open loop. A server that answers late, but as
// fast as it is asked, keeps it: it has the same number of messages unanswered all the time, and so
// what counts is how many it finishes in the second half.
func (r *Result) behind() []string {
	s := &r.Spec
	if s.Rate == 0 || s.AllowBehind || !r.Complete || s.Scenario == Idle || s.Scenario == Storm ||
		r.Counters.Ramped == 0 {
		return nil
	}
	const share = 0.05 // of the schedule: what is less is taken for a hiccup, like 250 ms
	d := s.Duration.Seconds()
	grace := max(share*d, 0.25)
	due, rate := float64(int64(d*s.Rate+0.5)), s.Rate
	if s.Scenario == Fanout { // each publication is as many messages as it has subscribers
		due, rate = float64(r.Counters.Sent), float64(r.Counters.Sent)/d
	}
	if r.SendSeconds > d+grace {
		return []string{fmt.Sprintf("the load generator did not keep the schedule of %s/s: "+
			"it sent in %s what was due in %s (lower --rate, or give it more CPU).",
			units.Compact(s.Rate), units.Seconds(r.SendSeconds), units.Seconds(d))}
	}
	finished, half := float64(r.Counters.Finished), float64(r.Counters.Finished-r.Counters.Midway)
	if (due-finished)/rate <= grace || half >= (1-share)*due/2 {
		return nil
	}
	return []string{fmt.Sprintf("the server did not keep the schedule of %s/s: in its second half it "+
		"answered %s/s, and the last reply came after %s instead of %s.",
		units.Compact(rate), units.Compact(half/(d/2)), units.Seconds(r.ReplySeconds), units.Seconds(d))}
}

// ListCounts writes names with their counts, the most frequent first.
func ListCounts(m map[string]int64) string {
	names := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(m[b], m[a]) })
	for i, k := range names {
		names[i] = fmt.Sprintf("%s %d×", k, m[k])
	}
	return strings.Join(names, ", ")
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
	"1000": "normal", "1001": "going away", "1002": "protocol error", "1003": "unsupported",
	"1005": "no code", "1006": "no Close frame", "1007": "not UTF-8", "1008": "policy",
	"1009": "too big", "1011": "internal error", "1012": "restart", "1013": "try again later",
}

package load

import "maps"

// Counters are sums over all connections.
type Counters struct {
	Attempts  int64 `json:"attempts"`   // connects started, retries included
	DialNS    int64 `json:"dial_ns"`    // nanoseconds in the system calls of these connects
	Opened    int64 `json:"opened"`     // handshakes that ended in 101
	Ramped    int64 `json:"ramped"`     // of those, opened by the ramp
	Open      int64 `json:"open"`       // open now; at the end: open when closing began
	Abandoned int64 `json:"abandoned"`  // connections given up after all retries
	Lost      int64 `json:"lost_conns"` // closed by the server, or broken, when they should be open

	Sent       int64 `json:"sent"`       // messages written
	Replies    int64 `json:"replies"`    // the right reply to one of them
	Timely     int64 `json:"timely"`     // replies that came before the traffic's end
	Missing    int64 `json:"missing"`    // no reply came
	Duplicated int64 `json:"duplicated"` // a reply came twice
	Overcount  int64 `json:"overcount"`  // messages that the server counted but that were not sent
	Reordered  int64 `json:"reordered"`  // fanout: came after a later one; among the replies
	Gaps       int64 `json:"gaps"`       // fanout: markers of a gap that the server sent
	Corrupt    int64 `json:"corrupt"`    // replies that are not what they should be, and broken frames
	Unsent     int64 `json:"unsent"`     // due (open loop) when no connection was free
	// Unanswered were in flight on a connection that was lost or that the scenario dropped; they
	// are not Missing.
	Unanswered int64 `json:"unanswered"`
	Others     int64 `json:"others"` // messages from the server that are no reply to anything

	// Finished is the units (messages; visits in resume and churn) that were over by the traffic's
	// end, and Midway those of them that were by its middle.
	Finished int64 `json:"finished"`
	Midway   int64 `json:"midway"`

	Welcomes     int64 `json:"welcomes"`
	Resumed      int64 `json:"resumed"`       // returns that found their session
	ResumeWrong  int64 `json:"resume_wrong"`  // returns whose total was not what had been acknowledged
	Beats        int64 `json:"beats"`         // {"ts":…} frames
	BeatsMissing int64 `json:"beats_missing"` // with Heartbeats "expect"
	Pings        int64 `json:"pings"`         // answered
	Byes         int64 `json:"byes"`          // {"bye":true} frames
	ByesWrong    int64 `json:"byes_wrong"`    // whose total was not what had been acknowledged
	SlowCut      int64 `json:"slow_cut"`      // slow: clients that stopped reading and that the server cut
	Churned      int64 `json:"churned"`       // churn, resume: connections closed on purpose and opened again

	BytesIn  int64 `json:"bytes_in"`  // WebSocket bytes, headers of frames included
	BytesOut int64 `json:"bytes_out"` // the same

	// Reasons is why attempts failed: refused, reset, timeout, ports, http 503, …
	Reasons map[string]int64 `json:"reasons"`
	// Closes is how the server closed connections that should have been open, by the code of its
	// Close frame; "1006" is none.
	Closes map[string]int64 `json:"closes"`
	// Faults is what a server may not do: frames that break the protocol, which end their
	// connection; no session id to come back to.
	Faults map[string]int64 `json:"faults"`
}

func newCounters() Counters {
	return Counters{Reasons: map[string]int64{}, Closes: map[string]int64{}, Faults: map[string]int64{}}
}

func (n *Counters) clone() Counters {
	c := *n
	c.Reasons, c.Closes, c.Faults = maps.Clone(n.Reasons), maps.Clone(n.Closes), maps.Clone(n.Faults)
	return c
}

// add adds o to n.
func (n *Counters) add(o *Counters) {
	for _, p := range []struct{ to, from *int64 }{
		{&n.Attempts, &o.Attempts}, {&n.DialNS, &o.DialNS}, {&n.Opened, &o.Opened}, {&n.Ramped, &o.Ramped},
		{&n.Open, &o.Open}, {&n.Abandoned, &o.Abandoned}, {&n.Lost, &o.Lost}, {&n.Sent, &o.Sent},
		{&n.Replies, &o.Replies}, {&n.Missing, &o.Missing}, {&n.Duplicated, &o.Duplicated},
		{&n.Overcount, &o.Overcount}, {&n.Corrupt, &o.Corrupt}, {&n.Unsent, &o.Unsent},
		{&n.Unanswered, &o.Unanswered}, {&n.Welcomes, &o.Welcomes}, {&n.Resumed, &o.Resumed},
		{&n.ResumeWrong, &o.ResumeWrong}, {&n.Beats, &o.Beats},
		{&n.BeatsMissing, &o.BeatsMissing}, {&n.Pings, &o.Pings}, {&n.Byes, &o.Byes},
		{&n.ByesWrong, &o.ByesWrong}, {&n.SlowCut, &o.SlowCut}, {&n.Churned, &o.Churned},
		{&n.Reordered, &o.Reordered}, {&n.Gaps, &o.Gaps},
		{&n.Timely, &o.Timely}, {&n.Others, &o.Others},
		{&n.Finished, &o.Finished}, {&n.Midway, &o.Midway}, {&n.BytesIn, &o.BytesIn}, {&n.BytesOut, &o.BytesOut},
	} {
		*p.to += *p.from
	}
	for _, m := range []struct{ to, from map[string]int64 }{
		{n.Reasons, o.Reasons}, {n.Closes, o.Closes}, {n.Faults, o.Faults},
	} {
		for k, v := range m.from {
			m.to[k] += v
		}
	}
}

// kinds bounds how many keys a map of counts holds: they come from the other side.
const kinds = 64

// count adds one to m[key], or to m[others] when m is full.
func count(m map[string]int64, key, others string) {
	if _, known := m[key]; !known && len(m) >= kinds {
		key = others
	}
	m[key]++
}

// Package load is the load engine: it opens connections, sends messages on a schedule, checks every
// reply, and measures.
//
// # How it is built
//
// The clients are reactor clients on package reactor: no goroutine, buffer or timer of its own for
// a connection. One process runs all of it. When the connections need more descriptors than a
// process may have, there are as many loops as it takes, each on a thread with a descriptor table
// of its own. Workers tell Run what they have counted four times a second; latencies go into
// histograms that all workers share, in batches, so that none is sampled.
//
//	Run ── commands ──▶ worker ── Conn … Conn      (a loop each)
//	    ◀── events ────
//
// What a worker is doing is its phase (phase.go); what a connection is doing is its state
// (conn.go).
//
// # What it promises
//
// Open loop (Spec.Rate): every message has an intended send time on a fixed schedule, and its
// latency counts from there, however late it was sent and whatever the server did to the ones
// before. Result.Lag is how late the tool itself was; when that is not small against
// Result.Message, the figures are those of a loaded machine and not of the server. No message is
// skipped when the tool or the server falls behind.
//
// Verification: a reply must be the next count of its session, or the bytes that were sent. Replies
// that were lost, came twice, count a message twice or are corrupt are counted apart, and
// sent = answered + missing + corrupt + unanswered must hold, the last being those in flight on a
// connection that ended. A session's total is checked when it comes back, and when the server says
// goodbye.
//
// Fan-out: publications are numbered within their topic and carry the time at which they were due,
// on the clock that all workers share; every subscriber checks gaps, order and duplicates for
// itself, and that the last one came (fanout.go).
//
// A ramp with AutoRamp has as many handshakes under way as keep their latency in bounds, and rests
// when they fail (pace.go). Workers then take turns: one that makes all connects meets the answers
// in larger batches than fifty that make some each.
//
// # What it costs
//
// README.md in package bench has what it costs and how that was measured. A Conn takes 112 bytes,
// with its places in the loop's table and in the worker's list 136; a wss:// connection adds
// crypto/tls's state, some 3 KB.
//
// A tool with twice the CPU (it burned as much again as it used) measured the same server CPU,
// within the spreads of alternating runs, at 5,000 messages a second on a loaded machine: 26.7 and
// 27.0 µs a message. With server and tool ahead of everything else (chrt -r) the heavier tool made
// the server's messages a sixth cheaper: it keeps processors awake that would have slept. So
// compare servers at the same rate, and at one where Lag is small.
//
// # Limits
//
// Kernel memory is measured for the machine as a whole, so with the load generator beside the
// server it is that of both ends and of whatever else the machine does. Permessage-deflate is not
// offered. A session's replies must come in the order of its messages, which all known servers
// keep.
package load

// Package load is the load engine: it opens connections, sends messages on a schedule, checks every
// reply, and measures.
//
// # How it is built
//
// The clients are reactor clients on package poller: one loop a process, and no goroutine, buffer
// or timer of its own for a connection. When the connections need more descriptors than a process
// may have, Run starts the running program again with WorkerCommand; parent and workers exchange
// lines of JSON, and histograms are merged bucket by bucket, never sampled.
//
//	Run ── job, commands ──▶ Serve ── worker ──▶ Conn … Conn      (a process each)
//	    ◀── progress, result ─
//
// What a worker is doing is its phase (phase.go); what a connection is doing is its state (conn.go).
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
// on the clock that all processes share; every subscriber checks gaps, order and duplicates for
// itself, and that the last one came (fanout.go).
//
// # What it costs
//
// Memory: 296 bytes of live heap for a connection (a Conn of 128, netpoll's operator of 112, two
// method values of 16, its place in two lists), and resident 365 to 390 at 10,000 connections in a
// process, 350 to 365 at 19,000. Resident is the growth of the process's anonymous memory over the
// ramp, divided by the connections, after a collection that gives free pages back; Result.Tool has
// it for each run. The process itself has 5 MB before its first connection. A wss:// connection
// adds crypto/tls's state, some 3 KB.
//
// CPU, on 2 virtual CPUs with the server beside it: 45 to 60 µs for a connect with its handshake,
// 8 µs for a message with its reply when the loop is busy, and 25 to 45 at 20,000 and 5,000 a
// second, where nearly every message wakes it (up to 100 on a machine whose wake-ups are dear).
//
// A tool with twice the CPU (it burned as much again as it used) measured the same server CPU,
// within the spreads of alternating runs, at 5,000 messages a second on a loaded machine: 26.7 and
// 27.0 µs a message. With server and tool ahead of everything else (chrt -r) the heavier tool made
// the server's messages a sixth cheaper: it keeps processors awake that would have slept. So compare
// servers at the same rate, and at one where Lag is small.
//
// # Limits
//
// Kernel memory is measured for the machine as a whole, so with the load generator beside the
// server it is that of both ends and of whatever else the machine does. Permessage-deflate is not
// offered. A session's replies must come in the order of its messages, which all known servers
// keep.
package load

// Package bench makes load for WebSocket servers and says what each connection and message cost.
//
// Run makes one load, FindCapacity raises the number of connections until something gives. Both work with servers of
// Sluice's protocol, with those of its older form without a welcome frame, and with any echo server.
//
// # How it is built
//
// The clients are reactor clients on package poller: one loop a process, and no goroutine, buffer or timer for a connection.
// When the connections need more descriptors than a process may have, Run starts the running program again with
// WorkerCommand; parent and workers talk in lines of JSON, and histograms are added up bucket by bucket, never sampled.
//
//	Run ── job, commands ──▶ Serve ── worker ──▶ Conn … Conn      (a process each)
//	    ◀── progress, result ─
//
// # What it promises
//
// Open loop (Spec.Rate): every message has an intended send time on a fixed schedule and its latency counts from there,
// however late it was sent and whatever the server did to the ones before. How late the tool itself was is Result.Lag; when
// that is not small against Result.Message, the figures are those of a loaded machine and not of the server.
// Messages are not skipped when the tool or the server falls behind.
//
// Verification: a reply must be the next count of its session, or the bytes that were sent. What was lost, came twice, was counted
// twice or was corrupt is counted apart, and the books must balance: sent = answered + missing + corrupt + unanswered, the last
// being those in flight on a connection that ended. A session's total is checked when it comes back, and when
// the server says goodbye.
//
// # What it costs
//
// Memory: 296 bytes of live heap for a connection (a Conn of 128, netpoll's operator of 112, two method values of 16, its place in two
// lists), and resident 365 to 390 at 10,000 connections in a process, 350 to 365 at 19,000. Resident is the growth of the process' anonymous memory
// (/proc/self/smaps_rollup) over the ramp, divided by the connections, after a collection that gives free pages back; Result.Tool says it
// for each run. The process itself has 5 MB before its first connection. A wss:// connection adds crypto/tls's state, some 3 KB.
//
// CPU, on 2 virtual CPUs with the server beside it: 45 to 60 µs for a connect with its handshake, 8 µs for a message with its reply when the loop is
// busy, and 25 to 45 at 20,000 and 5,000 a second, where nearly every message wakes it (up to 100 on a machine whose wake-ups are dear).
//
// # Whether that bends what it measures
//
// Spec.ExtraCPU (`run --extra-cpu 1`) has each process burn as much CPU again as it uses. Medians and spreads of alternating runs of
//
//	sluice-bench run URL -c 5000 --ramp 2500 -r 5000 --server-pid PID --extra-cpu 0 (or 1)
//
// on 2 virtual CPUs that others were using too (load average 15 to 20):
//
//	                                   tool, µs a message   server, µs a message   server, µs a handshake
//	--extra-cpu 0, 4 runs                              43       26.7 (21 to 31)           50 (38 to 92)
//	--extra-cpu 1, 4 runs                              76       27.0 (21 to 31)           67 (54 to 74)
//	0, both real-time (chrt -r), 5 runs               103       51.5 (49 to 64)           82 (68 to 86)
//	1, both real-time (chrt -r), 6 runs               162       43.3 (37 to 55)           65 (62 to 70)
//
// So the server's figures stay within their spreads with the usual scheduling. With both ahead of everything else, when every message is a
// wake-up on its own, a tool twice as heavy makes the server's messages a sixth cheaper: it keeps processors awake that would have slept.
// When the tool has no CPU to itself it sends what is due in bunches, which spares the server wake-ups too; Result.Lag ("sent late by") shows that.
// Compare servers at the same rate, and at one where Lag is small.
//
// # Limits
//
// Kernel memory is measured for the machine as a whole (Usage), so with the load generator beside the server it is both ends' and
// whatever else the machine does in between. Permessage-deflate is not offered. A session's replies must come in
// the order of its messages, which all known servers keep.
package bench

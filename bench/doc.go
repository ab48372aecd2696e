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
// Measured on 2 virtual CPUs, 19,000 connections to one Sluice: 343 bytes of live heap for a connection, 400 to 410 of
// resident memory: a Conn of 144, the poller's 160 (netpoll's operator and two or three method values), the rest the process' own growth divided
// by the connections. 55 to 66 µs of CPU for a connect with its handshake, 10 µs for a message with its reply when the loop is busy, and
// several times that at low rates, where every message wakes it. Result.Tool says what it
// was in each run. It does not bend what it measures: built with the race detector, the tool took 1.4 times the CPU for a message and 1.7
// times for a handshake, and the server's figures stayed within their noise (5,000 messages/s over 10,000 connections, two runs
// each: 592 and 602 against 575 and 614 bytes a connection, 39 and 41 against 39 and 45 µs a handshake, 17.5 and 22.5 against
// 20.3 and 21.5 µs a message). A wss:// connection adds crypto/tls's state, some 3 KB.
//
// # Limits
//
// Kernel memory is measured for the machine as a whole (Usage), so with the load generator beside the server it is both ends' and
// whatever else the machine does in between. Permessage-deflate is not offered. A session's replies must come in
// the order of its messages, which all known servers keep.
package bench

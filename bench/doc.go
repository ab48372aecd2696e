// Package bench makes load for WebSocket servers and says what each connection and message cost.
//
// Run makes one load, FindCapacity raises the number of connections until something gives, Compare
// puts the same load on several servers in turn. Package report writes what they found.
//
//	bench            the face: Run, FindCapacity, Compare
//	bench/load       the engine: connections, schedule, verification, histograms
//	bench/reactor    the engine's event loop, with a descriptor table of its own
//	bench/wsclient   the client's side of the protocol, written independently of package gateway
//	bench/procfs     what processes and the machine use, from /proc
//	bench/baseline   the servers that Sluice is compared with
//	bench/compare    the comparison
//	bench/report     text, JSON, HTML and SVG of all of these; progress lines
//	bench/faults     kill, stop, delay and empty gateways and Redis under load
//	bench/launch     child processes that do not outlive this one
//	bench/units      numbers in few characters
//
// README.md in this folder says how Sluice is measured and holds all tables.
package bench

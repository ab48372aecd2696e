package bench

import (
	"time"
)

// Result is what a run found out. It marshals to the JSON that `--json` writes; the field names are stable.
// Times are microseconds where a name ends in US, seconds where it ends in Seconds, and sizes are bytes.
type Result struct {
	Spec     Spec      `json:"spec"`
	Started  time.Time `json:"started"`
	Machine  Machine   `json:"machine"`
	Complete bool      `json:"complete"` // false when the run was interrupted: everything else is "so far"

	RampSeconds    float64 `json:"ramp_seconds"`    // first connect to the last connection open or given up
	TrafficSeconds float64 `json:"traffic_seconds"` // start of traffic (or of the hold) to its end, without the drain of replies

	Counters Counters `json:"counters"`

	// Latencies. Message is measured from the intended send time in the open loop (Rate), and from the
	// send in the closed loop (Window). Lag is the tool's own share: how late it sent after the intended time.
	Connect   Latency `json:"connect"`   // connect() to connected
	Handshake Latency `json:"handshake"` // connected (TLS done) to 101
	Message   Latency `json:"message"`   // intended send to reply
	Heartbeat Latency `json:"heartbeat"` // |gap between two heartbeats − expected interval|
	Lag       Latency `json:"lag"`       // intended send to sent

	RecoverySeconds []float64 `json:"recovery_seconds,omitempty"` // storm: all dropped to all open again, one a storm
	DrainSeconds    float64   `json:"drain_seconds,omitempty"`    // first to last connection closed by the server

	Timeline []Point `json:"timeline"`

	Server *ServerUsage `json:"server,omitempty"` // with Spec.ServerPID
	Tool   ToolUsage    `json:"tool"`

	// Failures are the reasons for a non-zero exit status, one sentence each; empty when all is well.
	Failures []string `json:"failures"`
}

// OK reports whether the run found nothing to complain about.
func (r *Result) OK() bool { return len(r.Failures) == 0 }

// ConnectionsPerSecond is the rate at which the ramp opened connections.
func (r *Result) ConnectionsPerSecond() float64 {
	return ratio(float64(r.Counters.Ramped), r.RampSeconds)
}

// MessagesPerSecond is the rate of replies that were right, over the traffic phase.
func (r *Result) MessagesPerSecond() float64 {
	return ratio(float64(r.Counters.Replies), r.TrafficSeconds)
}

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// Counters are sums over all processes of the load generator.
type Counters struct {
	Attempts  int64 `json:"attempts"`   // connects started, retries included
	Opened    int64 `json:"opened"`     // handshakes that ended in 101
	Ramped    int64 `json:"ramped"`     // of those, opened by the ramp
	Open      int64 `json:"open"`       // open now; at the end: open when closing began
	Abandoned int64 `json:"abandoned"`  // connections given up after all retries
	Lost      int64 `json:"lost_conns"` // closed by the server, or broken, when they should have been open

	Sent       int64 `json:"sent"`       // messages written
	Replies    int64 `json:"replies"`    // the right reply to one of them
	Missing    int64 `json:"missing"`    // no reply came
	Duplicated int64 `json:"duplicated"` // a reply came twice
	Overcount  int64 `json:"overcount"`  // messages that the server counted but that were not sent
	Corrupt    int64 `json:"corrupt"`    // replies that were not what they should be (echo payload, JSON, frame)
	Unsent     int64 `json:"unsent"`     // intended (open loop) but there was no connection, or its queue was full
	Unanswered int64 `json:"unanswered"` // in flight on a connection that was lost or dropped by the scenario; not Missing

	Welcomes     int64 `json:"welcomes"`
	Resumed      int64 `json:"resumed"`       // returns that found their session
	ResumeWrong  int64 `json:"resume_wrong"`  // returns whose total was not what had been acknowledged
	Beats        int64 `json:"beats"`         // {"ts":…} frames
	BeatsMissing int64 `json:"beats_missing"` // with Heartbeats "expect"
	Pings        int64 `json:"pings"`         // answered
	Byes         int64 `json:"byes"`          // {"bye":true} frames
	ByesWrong    int64 `json:"byes_wrong"`    // whose total was not what had been acknowledged
	SlowCut      int64 `json:"slow_cut"`      // slow: clients that stopped reading and were cut by the server
	Churned      int64 `json:"churned"`       // churn, resume: connections closed on purpose and opened again

	BytesIn  int64 `json:"bytes_in"`  // WebSocket bytes, headers of frames included
	BytesOut int64 `json:"bytes_out"` // the same

	Reasons map[string]int64 `json:"reasons"` // attempts that failed, by reason: refused, reset, timeout, ports, http 503, …
	Closes  map[string]int64 `json:"closes"`  // connections that the server closed when they should have been open, by the code of its Close frame; "1006" is none
	Faults  map[string]int64 `json:"faults"`  // what a server may not do, by kind: frames that break the protocol, which end their connection; no session id to come back to
}

// Latency summarises an HdrHistogram (1 µs to 10 min, 3 significant digits). Values are microseconds.
type Latency struct {
	Count  int64   `json:"count"`
	MinUS  int64   `json:"min_us"`
	MeanUS float64 `json:"mean_us"`
	P50US  int64   `json:"p50_us"`
	P75US  int64   `json:"p75_us"`
	P90US  int64   `json:"p90_us"`
	P95US  int64   `json:"p95_us"`
	P99US  int64   `json:"p99_us"`
	P999US int64   `json:"p99_9_us"`
	P9999  int64   `json:"p99_99_us"`
	MaxUS  int64   `json:"max_us"`

	// HDR is the histogram itself in the V2 encoding of HdrHistogram, so that runs can be added up and any
	// percentile asked for later: hdrhistogram.Decode. Empty when Count is 0.
	HDR []byte `json:"hdr,omitempty"`
}

// Point is one moment of the run: one every 250 ms, of which two become one when there are 600, and again and again in longer runs.
type Point struct {
	Seconds  float64 `json:"seconds"` // since the start of the ramp
	Phase    string  `json:"phase"`   // "ramp", "traffic", "closing"
	Open     int64   `json:"open"`
	Opened   int64   `json:"opened"`  // so far
	Failed   int64   `json:"failed"`  // attempts that failed, so far
	Replies  int64   `json:"replies"` // so far
	RateHz   float64 `json:"rate_hz"` // replies per second since the last point
	P50US    int64   `json:"p50_us"`  // of the messages since the last point; 0 when none
	P99US    int64   `json:"p99_us"`
	MaxUS    int64   `json:"max_us"`
	BeatsHz  float64 `json:"beats_hz"`
	ServerCP float64 `json:"server_cpu,omitempty"` // cores, with Spec.ServerPID
	ServerMB float64 `json:"server_mb,omitempty"`  // RSS in MiB, with Spec.ServerPID

	beats int64 // so far
}

// Machine says where the run was made.
type Machine struct {
	Host      string `json:"host"`
	CPUs      int    `json:"cpus"`
	CPU       string `json:"cpu"`
	MemoryB   int64  `json:"memory_bytes"`
	Kernel    string `json:"kernel"`
	GoVersion string `json:"go"`
	NoFile    uint64 `json:"nofile"` // hard limit of descriptors of one process
}

// Usage is one sample of a process and its children from /proc, together with the machine's kernel memory.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"` // user + system, of the pid and all its descendants, since they began
	RSS        int64   `json:"rss"`
	PSS        int64   `json:"pss"`     // shared pages divided among those who share them
	USS        int64   `json:"uss"`     // Private_Clean + Private_Dirty: what would be freed if it exited
	Anon       int64   `json:"anon"`    // Anonymous: heap and stacks, without the pages of the binary
	FDs        int     `json:"fds"`     // descriptors open
	Threads    int     `json:"threads"` // kernel threads
	Processes  int     `json:"processes"`

	// Machine-wide, both ends of the connections when the load generator runs beside the server.
	KernelTCP  int64  `json:"kernel_tcp"`    // socket buffers: "mem" of /proc/net/sockstat × page size
	KernelSlab int64  `json:"kernel_slab"`   // sockets, epoll items, dentries, inodes
	SlabSource string `json:"slab_source"`   // where KernelSlab comes from: "slabinfo", "meminfo" (all of Slab), or "none"
	Available  int64  `json:"mem_available"` // MemAvailable

	at time.Time
}

// ServerUsage is the server's cost: three samples and what follows from them. What a run has not come to is zero.
type ServerUsage struct {
	Before Usage `json:"before"` // before the ramp
	Idle   Usage `json:"idle"`   // all connections open, before traffic
	After  Usage `json:"after"`  // traffic is over, all connections still open

	UserIdlePerConn    float64 `json:"user_idle_per_conn"`    // bytes: growth of Anon from Before to Idle / connections
	UserAfterPerConn   float64 `json:"user_after_per_conn"`   // bytes: the same to After
	RSSIdlePerConn     float64 `json:"rss_idle_per_conn"`     // bytes, of RSS
	RSSAfterPerConn    float64 `json:"rss_after_per_conn"`    // bytes, of RSS
	KernelIdlePerConn  float64 `json:"kernel_idle_per_conn"`  // bytes, machine-wide: client and server sockets together when both are here
	KernelAfterPerConn float64 `json:"kernel_after_per_conn"` // bytes
	CPUPerHandshakeUS  float64 `json:"cpu_per_handshake_us"`  // CPU from Before to Idle / connections opened
	CPUPerMessageUS    float64 `json:"cpu_per_message_us"`    // count, echo, when nobody came back: CPU from Idle to After / replies
	CPUPerBeatUS       float64 `json:"cpu_per_beat_us"`       // idle: CPU from Idle to After / heartbeats in between
	CPUPerVisitUS      float64 `json:"cpu_per_visit_us"`      // resume, churn, storm: CPU from Idle to After / returns, with what came before each
	CPUTrafficCores    float64 `json:"cpu_traffic_cores"`     // CPU from Idle to After / time between them

	beats int64 // heartbeats from Idle to After
	gone  bool  // the process has ended
}

// ToolUsage is the load generator's own cost: all of its processes together.
type ToolUsage struct {
	Processes         int     `json:"processes"`
	Died              int     `json:"died,omitempty"`              // of these, during the run
	CPUSeconds        float64 `json:"cpu_seconds"`                 // ramp and traffic
	BurntCPUSeconds   float64 `json:"burnt_cpu_seconds,omitempty"` // of these, for Spec.ExtraCPU; the figures below hold it too
	CPUPerHandshakeUS float64 `json:"cpu_per_handshake_us"`        // ramp
	CPUPerMessageUS   float64 `json:"cpu_per_message_us"`          // traffic of count and echo
	RSSPerConn        float64 `json:"rss_per_conn"`                // growth of Anon over the ramp / connections
	HeapPerConn       float64 `json:"heap_per_conn"`               // growth of the live Go heap over the ramp / connections
}

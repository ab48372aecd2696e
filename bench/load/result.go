package load

import (
	"time"

	"sluice/bench/procfs"
)

// Result is what a run found. It marshals to the JSON that `--json` writes; the field names are
// stable. Times are microseconds where a name ends in US, seconds where it ends in Seconds, and
// sizes are bytes.
type Result struct {
	Spec     Spec           `json:"spec"`
	Started  time.Time      `json:"started"`
	Machine  procfs.Machine `json:"machine"`
	Complete bool           `json:"complete"` // false: interrupted, and everything else is "so far"

	// RampSeconds is from the first connect to the last connection open or given up.
	RampSeconds float64 `json:"ramp_seconds"`
	// TrafficSeconds is how long the traffic (or the hold) was to be, or was until the
	// interruption.
	TrafficSeconds float64 `json:"traffic_seconds"`
	// SendSeconds and ReplySeconds are from the start of the traffic to the last message sent and
	// to the last reply.
	SendSeconds  float64 `json:"send_seconds"`
	ReplySeconds float64 `json:"reply_seconds"`

	// Published is how many publications of fanout were taken, and PublishErrors why others were
	// not.
	Published     int64            `json:"published,omitempty"`
	PublishErrors map[string]int64 `json:"publish_errors,omitempty"`

	Counters Counters `json:"counters"`

	Connect   Latency `json:"connect"`   // connect() to connected
	Handshake Latency `json:"handshake"` // connected (TLS done) to 101
	Message   Latency `json:"message"`   // intended send (Rate) or send (Window) to reply
	Heartbeat Latency `json:"heartbeat"` // |gap between two heartbeats − expected interval|
	Bye       Latency `json:"bye"`       // AwaitClose: from the end of the traffic to {"bye":true}
	Lag       Latency `json:"lag"`       // intended send to send: how late the tool itself was

	// RecoverySeconds is, for each storm, from all dropped to all open again.
	RecoverySeconds []float64 `json:"recovery_seconds,omitempty"`
	// DrainSeconds is from the first to the last connection that the server closed.
	DrainSeconds float64 `json:"drain_seconds,omitempty"`

	Timeline []Point `json:"timeline"`
	// Phases is what each phase cost, in their order.
	Phases []PhaseUsage `json:"phases"`

	// WrongReplies has the first of each kind.
	WrongReplies []WrongReply `json:"wrong_replies,omitempty"`

	Server *ServerUsage `json:"server,omitempty"` // with Spec.ServerPID
	Tool   ToolUsage    `json:"tool"`

	// Failures are the reasons for a non-zero exit status, one sentence each; empty when all is
	// well.
	Failures []string `json:"failures"`
}

// OK reports whether the run found nothing wrong.
func (r *Result) OK() bool { return len(r.Failures) == 0 }

// ConnectionsPerSecond is the rate at which the ramp opened connections.
func (r *Result) ConnectionsPerSecond() float64 {
	return ratio(float64(r.Counters.Ramped), r.RampSeconds)
}

// MessagesPerSecond is the rate of right replies during the traffic; those that came after its end
// do not count.
func (r *Result) MessagesPerSecond() float64 {
	return ratio(float64(r.Counters.Timely), r.TrafficSeconds)
}

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// Latency summarises an HdrHistogram (1 µs to 10 min, 3 significant digits). Values are
// microseconds.
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

	// HDR is the histogram in the V2 encoding of HdrHistogram, so that runs can be merged and any
	// percentile computed later (hdrhistogram.Decode). Empty when Count is 0.
	HDR []byte `json:"hdr,omitempty"`
}

// Point is one moment of the run: one every 250 ms. When there are 600, two become one, and so
// again in longer runs.
type Point struct {
	Seconds float64 `json:"seconds"` // since the start of the ramp
	Phase   string  `json:"phase"`   // as in PhaseUsage
	Open    int64   `json:"open"`
	Opened  int64   `json:"opened"`  // so far
	Failed  int64   `json:"failed"`  // attempts that failed, so far
	Replies int64   `json:"replies"` // so far
	RateHz  float64 `json:"rate_hz"` // replies per second since the last point
	P50US   int64   `json:"p50_us"`  // of the messages since the last point; 0 when none
	P99US   int64   `json:"p99_us"`
	MaxUS   int64   `json:"max_us"`
	BeatsHz float64 `json:"beats_hz"`

	HandshakeUS int64   `json:"handshake_us"`         // p99 of the handshakes since the last point; 0: none
	BeatUS      int64   `json:"beat_us"`              // p99 of the heartbeats' jitter since then
	DialUS      float64 `json:"dial_us"`              // the system calls of a connect since then, on average
	ToolCP      float64 `json:"tool_cpu"`             // cores
	ServerCP    float64 `json:"server_cpu,omitempty"` // cores, with Spec.ServerPID
	ServerMB    float64 `json:"server_mb,omitempty"`  // RSS in MiB, with Spec.ServerPID
}

// ServerUsage is the server's cost: three samples and what follows from them. What a run has not
// measured is zero. Bytes are growth since Before, divided by the connections.
type ServerUsage struct {
	Before procfs.Usage `json:"before"` // before the ramp
	Idle   procfs.Usage `json:"idle"`   // all connections open, before traffic
	After  procfs.Usage `json:"after"`  // traffic is over, all connections still open

	// MemoryUnknown says why the next four are not known, and therefore 0. AtMostPerConn is then
	// all that can be said: the whole of Anon at Idle, divided by the connections.
	MemoryUnknown    string  `json:"memory_unknown,omitempty"`
	AtMostPerConn    float64 `json:"at_most_per_conn"`
	UserIdlePerConn  float64 `json:"user_idle_per_conn"`  // of Anon
	UserAfterPerConn float64 `json:"user_after_per_conn"` // of Anon
	RSSIdlePerConn   float64 `json:"rss_idle_per_conn"`
	RSSAfterPerConn  float64 `json:"rss_after_per_conn"`
	// Machine-wide: client and server sockets together when both are on this machine.
	KernelIdlePerConn  float64 `json:"kernel_idle_per_conn"`
	KernelAfterPerConn float64 `json:"kernel_after_per_conn"`

	CPUPerHandshakeUS float64 `json:"cpu_per_handshake_us"` // Before to Idle / connections opened
	CPUPerMessageUS   float64 `json:"cpu_per_message_us"`   // Idle to After / replies, when nobody came back
	CPUPerBeatUS      float64 `json:"cpu_per_beat_us"`      // idle: Idle to After / heartbeats in between
	// CPUPerVisitUS is, in resume, churn and storm, Idle to After / returns, with what came before
	// each.
	CPUPerVisitUS   float64 `json:"cpu_per_visit_us"`
	CPUTrafficCores float64 `json:"cpu_traffic_cores"` // Idle to After / time between them

	beats int64 // heartbeats from Idle to After
	gone  bool  // the process has ended
}

// ToolUsage is the load generator's own cost: all of its loops together.
type ToolUsage struct {
	Loops             int     `json:"loops"`
	OwnTables         bool    `json:"own_tables,omitempty"` // each loop has a descriptor table
	CPUSeconds        float64 `json:"cpu_seconds"`          // ramp and traffic
	CPUPerHandshakeUS float64 `json:"cpu_per_handshake_us"` // ramp
	CPUPerMessageUS   float64 `json:"cpu_per_message_us"`   // traffic of count and echo
	RSSPerConn        float64 `json:"rss_per_conn"`         // growth of Anon over the ramp / connections
	HeapPerConn       float64 `json:"heap_per_conn"`        // growth of the live Go heap over the ramp / connections
}

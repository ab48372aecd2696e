package load

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Scenario is what the clients do.
type Scenario string

const (
	Idle   Scenario = "idle"   // hold the connections, answer pings, look at the heartbeats
	Count  Scenario = "count"  // send messages; every reply's count must be the next one of its session
	Echo   Scenario = "echo"   // send messages; every reply must be the message
	Resume Scenario = "resume" // count, leave, come back with ?session_id=; the total must be what was acknowledged
	Churn  Scenario = "churn"  // close and open connections at a steady rate
	Storm  Scenario = "storm"  // drop all connections and come back at once
	Slow   Scenario = "slow"   // some clients stop reading; the others must not suffer
)

// Scenarios lists them all, in the order of the documentation.
var Scenarios = []Scenario{Idle, Count, Echo, Resume, Churn, Storm, Slow}

// Spec says what load to make. The zero value of every field but Targets is a sensible default.
type Spec struct {
	Targets  []string `json:"targets"`  // ws:// or wss:// URLs; connections are dealt to them in turn
	Scenario Scenario `json:"scenario"` // default Count

	Conns int     `json:"conns"` // connections over all targets; default 1000
	Ramp  float64 `json:"ramp"`  // connects started per second, over all; default 2000. Too fast overflows the server's accept queue

	// Rate is the open loop: messages per second over all connections, each with an intended send time on a
	// fixed schedule from which its latency counts, whether or not earlier ones were answered. In resume and
	// churn it is visits per second. 0 is the closed loop.
	Rate float64 `json:"rate"`
	// Window is the closed loop: so many messages (resume, churn: visits) are outstanding over all
	// connections, the next is sent when one is answered. Default 64, at most Conns. Ignored when Rate is set.
	Window int `json:"window"`

	Duration time.Duration `json:"duration_ns"` // of the traffic, after the ramp; default 10 s
	Payload  int           `json:"payload"`     // bytes of a message; default 32; at most 1 MiB; -1 is an empty message
	Think    time.Duration `json:"think_ns"`    // closed loop: pause between a reply and the next message that takes its place
	Messages int           `json:"messages"`    // resume: messages counted per visit; default 5

	Heartbeats     string        `json:"heartbeats"`         // "ignore" (default) or "expect": a missing one is a failure
	HeartbeatEvery time.Duration `json:"heartbeat_every_ns"` // the interval that jitter is measured against; default 30 s

	ServerPID int `json:"server_pid"` // process to measure, with its children; 0: none

	Sources     []string    `json:"sources"` // local addresses to connect from; default: 127.0.0.1… for loopback targets, else the kernel's choice
	Headers     http.Header `json:"headers,omitempty"`
	Subprotocol string      `json:"subprotocol,omitempty"`
	Insecure    bool        `json:"insecure,omitempty"` // wss: do not check the certificate

	SLO         []Objective `json:"slo,omitempty"`          // latencies that make the run fail
	NoVerify    bool        `json:"no_verify,omitempty"`    // do not compare counts, payloads and totals with what they should be
	Welcome     bool        `json:"welcome,omitempty"`      // a connection without a welcome frame is a failure
	SessionIDs  string      `json:"session_ids,omitempty"`  // resume, storm: who makes the id: "server" (default) or "client" (servers that tell nobody)
	Reconnect   bool        `json:"reconnect,omitempty"`    // connections that the server ends come back, with their session, and are verified
	ExpectClose []int       `json:"expect_close,omitempty"` // close codes from the server that are no failure, e.g. 1001 when it is drained on purpose

	Storms       int     `json:"storms,omitempty"`        // storm: how many, one after the other; default 1
	SlowFraction float64 `json:"slow_fraction,omitempty"` // slow: share of clients that stop reading; default 0.1

	Timeout time.Duration `json:"timeout_ns"` // of a connect with its handshake; also how long to wait for the last replies; default 10 s
	Retries int           `json:"retries"`    // attempts after the first before a connection is given up; default 5; -1: none
	Settle  time.Duration `json:"settle_ns"`  // pause after the ramp and after the traffic, before the server is measured; default 1 s with ServerPID, else 0

	Processes int `json:"processes"` // of the load generator; default: as many as descriptors need

	// Progress, when set, is called with each Point of the timeline by one goroutine of Run.
	Progress func(Progress) `json:"-"`
	// OnPhase, when set, is called synchronously by Run, and the run goes on when it returns: "before" (nothing
	// is open), "idle" (all open), "after" (traffic is over, all still open), "closed"; without the middle two when none could be opened. For
	// those who measure the server themselves.
	OnPhase func(phase string) `json:"-"`
}

// Progress is how a run stands.
type Progress struct {
	Point
	Total    int           `json:"total"`    // connections wanted
	Sent     int64         `json:"sent"`     // messages so far
	Fraction float64       `json:"fraction"` // of the phase, 0 to 1
	ETA      time.Duration `json:"eta_ns"`   // until the end of the phase
	Elapsed  time.Duration `json:"elapsed_ns"`
}

// Objective is one latency that must hold: `p99=5ms`, or `handshake.p99=50ms`.
type Objective struct {
	Metric     string        `json:"metric"`     // connect, handshake, message (default) or heartbeat
	Percentile float64       `json:"percentile"` // 0 to 100; 100 is the maximum
	Limit      time.Duration `json:"limit_ns"`
}

// ParseObjective reads `p99=5ms`, `p99.9=20ms`, `max=1s`, each with an optional `connect.`, `handshake.`,
// `message.` or `heartbeat.` before it.
func ParseObjective(s string) (Objective, error) {
	o := Objective{Metric: "message"}
	bad := func(why string) (Objective, error) {
		return Objective{}, fmt.Errorf("objective %q: %s (write p99=5ms, max=1s or handshake.p99=50ms)", s, why)
	}
	what, limit, ok := strings.Cut(s, "=")
	if !ok {
		return bad("no '='")
	}
	for _, m := range []string{"connect", "handshake", "message", "heartbeat"} {
		if rest, found := strings.CutPrefix(what, m+"."); found {
			o.Metric, what = m, rest
			break
		}
	}
	switch {
	case what == "max":
		o.Percentile = 100
	case strings.HasPrefix(what, "p"):
		if n, err := fmt.Sscanf(what[1:]+" ", "%g ", &o.Percentile); n != 1 || err != nil {
			return bad("no percentile")
		}
	default:
		return bad("no percentile")
	}
	if !(o.Percentile > 0 && o.Percentile <= 100) {
		return bad("the percentile is not in (0, 100]")
	}
	d, err := time.ParseDuration(limit)
	if err != nil || d <= 0 {
		return bad("no positive duration")
	}
	o.Limit = d
	return o, nil
}

func (o Objective) String() string {
	p := "max"
	if o.Percentile < 100 {
		p = fmt.Sprintf("p%g", o.Percentile)
	}
	return o.Metric + "." + p + "=" + o.Limit.String()
}

// maxPayload bounds Spec.Payload: the reply of an echo has to fit a connection's carry buffer.
const maxPayload = 1 << 20

// withDefaults fills in the defaults and says what cannot be.
func (s Spec) withDefaults() (Spec, error) {
	if len(s.Targets) == 0 {
		return s, fmt.Errorf("no target: give at least one ws:// or wss:// URL")
	}
	for _, t := range s.Targets {
		u, err := url.Parse(t)
		if err != nil {
			return s, fmt.Errorf("target %q: %w", t, err)
		}
		if (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
			return s, fmt.Errorf("target %q: want ws://host:port/path or wss://host:port/path", t)
		}
	}
	s.Scenario = cmp.Or(s.Scenario, Count)
	s.Conns = cmp.Or(s.Conns, 1000)
	s.Ramp = cmp.Or(s.Ramp, 2000)
	s.Window = cmp.Or(s.Window, 64)
	s.Duration = cmp.Or(s.Duration, 10*time.Second)
	s.Payload = cmp.Or(s.Payload, 32)
	s.Messages = cmp.Or(s.Messages, 5)
	s.Heartbeats = cmp.Or(s.Heartbeats, "ignore")
	s.HeartbeatEvery = cmp.Or(s.HeartbeatEvery, 30*time.Second)
	s.SessionIDs = cmp.Or(s.SessionIDs, "server")
	s.Storms = cmp.Or(s.Storms, 1)
	s.SlowFraction = cmp.Or(s.SlowFraction, 0.1)
	s.Timeout = cmp.Or(s.Timeout, 10*time.Second)
	s.Retries = cmp.Or(s.Retries, 5)
	if s.ServerPID != 0 {
		s.Settle = cmp.Or(s.Settle, time.Second)
	}
	s.Window = min(s.Window, max(s.Conns, 1))
	return s, s.check()
}

// returns reports whether clients come back to their sessions, so that the ids are kept.
func (s *Spec) returns() bool {
	return s.Scenario == Resume || s.Scenario == Storm || s.Reconnect
}

func (s *Spec) check() error {
	known := false
	for _, k := range Scenarios {
		known = known || k == s.Scenario
	}
	switch {
	case !known:
		return fmt.Errorf("scenario %q: want one of %v", s.Scenario, Scenarios)
	case s.Conns < 1 || s.Conns > 10_000_000:
		return fmt.Errorf("conns %d: want 1 to 10,000,000", s.Conns)
	case !(s.Ramp > 0) || s.Rate < 0 || s.Rate != s.Rate || s.Rate > 1e8 || s.Ramp > 1e8:
		return fmt.Errorf("ramp %g, rate %g: want positive numbers per second", s.Ramp, s.Rate)
	case s.Window < 1:
		return fmt.Errorf("window %d: want at least 1", s.Window)
	case s.Duration < 0 || s.Think < 0 || s.Timeout < 0 || s.Settle < 0 || s.HeartbeatEvery < 0:
		return fmt.Errorf("durations must not be negative")
	case s.Payload < -1 || s.Payload > maxPayload:
		return fmt.Errorf("payload %d: want up to %d bytes (-1 for empty messages)", s.Payload, maxPayload)
	case s.Messages < 1 || s.Storms < 1:
		return fmt.Errorf("messages %d, storms %d: want at least 1", s.Messages, s.Storms)
	case s.Heartbeats != "ignore" && s.Heartbeats != "expect":
		return fmt.Errorf("heartbeats %q: want ignore or expect", s.Heartbeats)
	case s.SessionIDs != "server" && s.SessionIDs != "client":
		return fmt.Errorf("session ids %q: want server or client", s.SessionIDs)
	case !(s.SlowFraction >= 0 && s.SlowFraction < 1):
		return fmt.Errorf("slow fraction %g: want 0 to less than 1", s.SlowFraction)
	case s.Processes < 0 || s.Processes > 1000:
		return fmt.Errorf("processes %d: want 0 (automatic) to 1000", s.Processes)
	}
	return nil
}

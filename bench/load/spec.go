package load

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Scenario is what the clients do.
type Scenario string

// The scenarios. Idle, Echo, Churn and Custom work with any server; Count, Resume and Storm need
// the counting service (Storm also runs unverified); Slow needs a server that counts or echoes.
const (
	Idle   Scenario = "idle"   // hold the connections, answer pings, measure heartbeats
	Count  Scenario = "count"  // send messages; each reply's count must be the session's next
	Echo   Scenario = "echo"   // send messages; each reply must be the message
	Custom Scenario = "custom" // send Spec.Message; each reply must match Spec.Expect
	Resume Scenario = "resume" // count, leave, come back with ?session_id=; compare the total
	Churn  Scenario = "churn"  // close and open connections at a steady rate
	Storm  Scenario = "storm"  // drop all connections and come back at once
	Slow   Scenario = "slow"   // some clients stop reading; the others must not suffer
	Fanout Scenario = "fanout" // clients listen to topics; what comes must be what was published
)

// Scenarios lists them all, in the order of the documentation.
var Scenarios = []Scenario{Idle, Count, Echo, Custom, Resume, Churn, Storm, Slow, Fanout}

// ExpectNone, as Spec.Expect, says that the server does not reply.
const ExpectNone = "none"

// Spec says what load to make. The zero value of every field but Targets is a sensible default.
type Spec struct {
	Targets []string `json:"targets"` // ws:// or wss:// URLs; connections are dealt to them in turn
	// Scenario is Count by default, and Custom where Message or Expect is set.
	Scenario Scenario `json:"scenario"`

	Conns int `json:"conns"` // connections over all targets; default 1000
	// Ramp is connects started per second, over all; default 2000. Too fast overflows the server's
	// accept queue. AutoRamp is as fast as keeps the 90th percentile of handshakes below
	// RampLatency (default 50 ms); attempts that fail make it rest, and narrower.
	Ramp        float64       `json:"ramp"`
	AutoRamp    bool          `json:"auto_ramp,omitempty"`
	RampLatency time.Duration `json:"ramp_latency_ns,omitempty"`

	// Rate is the open loop: messages per second over all connections, each with an intended send
	// time on a fixed schedule from which its latency counts, whether or not earlier ones were
	// answered. In resume and churn it is visits per second. 0 is the closed loop.
	Rate float64 `json:"rate"`
	// Window is the closed loop: this many messages (resume, churn: visits) are outstanding over
	// all connections, and the next is sent when one is answered. Default 64, at most Conns.
	// Ignored when Rate is set.
	Window int `json:"window"`
	// AllowBehind accepts that the server, or the load generator, falls behind the schedule of
	// Rate. Without it that is a failure.
	AllowBehind bool `json:"allow_behind,omitempty"`

	// StartAt is when the ramp begins, so that runs on several machines begin together; default:
	// now.
	StartAt time.Time `json:"start_at,omitzero"`
	// Hold is how long the connections are held between the ramp and the traffic.
	Hold     time.Duration `json:"hold_ns,omitempty"`
	Duration time.Duration `json:"duration_ns"` // of the traffic, after the ramp; default 10 s
	Payload  int           `json:"payload"`     // bytes of a message; default 32; -1 for none; at most 1 MiB
	Think    time.Duration `json:"think_ns"`    // closed loop: pause between a reply and the next message
	Messages int           `json:"messages"`    // resume: messages counted per visit; default 5
	// FragmentPause has each message sent as two fragments, the second so much after the first. Its
	// latency counts from when the second is due. 0: in one frame.
	FragmentPause time.Duration `json:"fragment_pause_ns,omitempty"`

	// Message is Custom's message: {{id}} becomes the client's number, {{seq}} the message's number
	// on its connection, both from 1. Without it the message is Payload bytes.
	Message string `json:"message,omitempty"`
	// Expect is a regular expression that Custom's replies match; what does not match is counted
	// and is not a reply. {{id}} and {{seq}} stand for the numbers of the message that it answers.
	// Default: every message that comes is a reply. ExpectNone: there are no replies.
	Expect string `json:"expect,omitempty"`

	// Publish is where fanout publishes: an http:// URL that takes POST with ?topic= and the
	// message as the body, such as Sluice's control address. Clients name their topic in ?topic= of
	// the handshake, and the service subscribes them to it. Rate is publications a second.
	Publish    string `json:"publish,omitempty"`
	PublishKey string `json:"-"`      // fanout: sent as Authorization: Bearer
	Topics     int    `json:"topics"` // fanout: clients are dealt to so many in turn; default 1

	Heartbeats string `json:"heartbeats"` // "ignore" (default) or "expect": a missing one is a failure
	// HeartbeatEvery is the interval that heartbeats are measured against; default 30 s.
	HeartbeatEvery time.Duration `json:"heartbeat_every_ns"`

	ServerPID int `json:"server_pid"` // process to measure, with its children; 0: none
	// MorePIDs are measured with ServerPID as if they were one process, such as a proxy and what is
	// behind it.
	MorePIDs []int `json:"more_pids,omitempty"`

	// Sources are local addresses to connect from; default: as many of 127.0.0.0/8 as loopback
	// targets need, else the kernel's choice.
	Sources     []string    `json:"sources"`
	Headers     http.Header `json:"headers,omitempty"`
	Subprotocol string      `json:"subprotocol,omitempty"`
	Insecure    bool        `json:"insecure,omitempty"` // wss: do not check the certificate
	// Curves are the key exchanges that wss offers; default: those of crypto/tls.
	Curves []tls.CurveID `json:"curves,omitempty"`

	SLO      []Objective `json:"slo,omitempty"`       // latencies that make the run fail
	NoVerify bool        `json:"no_verify,omitempty"` // do not check counts, payloads and totals
	Welcome  bool        `json:"welcome,omitempty"`   // a connection without a welcome frame is a failure
	// SessionIDs says who makes the ids of resume and storm: "server" (default), or "client" for
	// servers that do not tell theirs.
	SessionIDs string `json:"session_ids,omitempty"`
	// Reconnect has connections that the server ends come back to their session, whose total is
	// checked.
	Reconnect bool `json:"reconnect,omitempty"`
	// ExpectClose are close codes from the server that are no failure, such as 1001 when it is
	// drained on purpose.
	ExpectClose []int `json:"expect_close,omitempty"`

	// AwaitClose is how long the server has, after the traffic, to close all connections, with a
	// code of ExpectClose. What is open then is a failure. 0: the clients close them.
	AwaitClose time.Duration `json:"await_close_ns,omitempty"`

	Storms       int     `json:"storms,omitempty"`        // storm: how many, one after the other; default 1
	SlowFraction float64 `json:"slow_fraction,omitempty"` // slow: share of clients that stop reading; default 0.1

	// Timeout is for a connect with its handshake, and for the last replies; default 10 s.
	Timeout time.Duration `json:"timeout_ns"`
	Retries int           `json:"retries"` // attempts after the first; default 5; -1: none
	// Settle is the pause before each measurement of the server; default 1 s with ServerPID.
	Settle time.Duration `json:"settle_ns"`

	// Loops of the load generator, a thread each; default: as many as descriptors need.
	Loops     int  `json:"loops"`
	ownTables bool // each loop has a table, also where one is enough for all

	// Progress, when set, is called with each Point of the timeline by one goroutine of Run.
	Progress func(Progress) `json:"-"`
	// OnPhase, when set, is called by Run, which goes on when it returns: "before" (nothing is
	// open), "idle" (all are open), "after" (traffic is over, all are still open), "closed";
	// without the middle two when no connection could be opened. It is for callers that measure the
	// server themselves, or that tell it to close (AwaitClose) after "after".
	OnPhase func(phase string) `json:"-"`
}

// Progress is how a run stands.
type Progress struct {
	Point
	Total    int           `json:"total"`    // connections asked for
	Sent     int64         `json:"sent"`     // messages so far
	Fraction float64       `json:"fraction"` // of the phase, 0 to 1
	ETA      time.Duration `json:"eta_ns"`   // until the end of the phase
	Elapsed  time.Duration `json:"elapsed_ns"`
}

// maxPayload bounds Spec.Payload, Spec.Message and what is accepted from a server as one message,
// in bytes.
const maxPayload = 1 << 20

// withDefaults fills in the defaults and refuses what cannot be.
func (s Spec) withDefaults() (Spec, error) {
	if len(s.Targets) == 0 {
		return s, errors.New("no target: give at least one ws:// or wss:// URL")
	}
	for _, t := range s.Targets {
		u, err := url.Parse(t)
		if err != nil {
			return s, fmt.Errorf("target %q: %w", t, err)
		}
		if (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
			return s, fmt.Errorf("target %q: must be ws://host:port/path or wss://host:port/path", t)
		}
	}
	if s.Message != "" || s.Expect != "" {
		s.Scenario = cmp.Or(s.Scenario, Custom)
	}
	s.Scenario = cmp.Or(s.Scenario, Count)
	s.Conns = cmp.Or(s.Conns, 1000)
	s.Ramp = cmp.Or(s.Ramp, 2000)
	s.RampLatency = cmp.Or(s.RampLatency, 50*time.Millisecond)
	s.Window = cmp.Or(s.Window, 64)
	s.Duration = cmp.Or(s.Duration, 10*time.Second)
	s.Payload = cmp.Or(s.Payload, 32)
	s.Messages = cmp.Or(s.Messages, 5)
	s.Topics = cmp.Or(s.Topics, 1)
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
	return s.Scenario == Resume || s.Scenario == Storm || s.Reconnect && s.Scenario != Custom
}

// replies reports whether the server answers messages.
func (s *Spec) replies() bool { return s.Scenario != Custom || s.Expect != ExpectNone }

func (s *Spec) check() error {
	switch {
	case !slices.Contains(Scenarios, s.Scenario):
		return fmt.Errorf("scenario %q: must be one of %v", s.Scenario, Scenarios)
	case s.Scenario != Custom && (s.Message != "" || s.Expect != ""):
		return fmt.Errorf("scenario %s: a message and what to expect are for the scenario custom",
			s.Scenario)
	case !s.replies() && s.Rate == 0:
		return errors.New("expect none: set a rate, because no reply says when to send the next message")
	case s.Conns < 1 || s.Conns > 10_000_000:
		return fmt.Errorf("conns %d: must be 1 to 10,000,000", s.Conns)
	case !(s.Ramp > 0) || s.Rate < 0 || s.Rate != s.Rate || s.Rate > 1e8 || s.Ramp > 1e8:
		return fmt.Errorf("ramp %g, rate %g: must be positive numbers per second", s.Ramp, s.Rate)
	case s.Window < 1:
		return fmt.Errorf("window %d: must be at least 1", s.Window)
	case s.Duration < 0 || s.Think < 0 || s.Timeout < 0 || s.Settle < 0 ||
		s.HeartbeatEvery < 0 || s.RampLatency < 0 || s.Hold < 0 || s.AwaitClose < 0:
		return errors.New("durations must not be negative")
	case s.FragmentPause < 0 || s.FragmentPause >= s.Timeout:
		return fmt.Errorf("fragment pause %v: must be less than the timeout, %v", s.FragmentPause, s.Timeout)
	case s.Payload < -1 || s.Payload > maxPayload || len(s.Message) > maxPayload/2:
		return fmt.Errorf("payload %d, message of %d bytes: must be up to %d and %d bytes "+
			"(payload -1 for empty messages)", s.Payload, len(s.Message), maxPayload, maxPayload/2)
	case s.Messages < 1 || s.Storms < 1:
		return fmt.Errorf("messages %d, storms %d: must be at least 1", s.Messages, s.Storms)
	case s.Heartbeats != "ignore" && s.Heartbeats != "expect":
		return fmt.Errorf("heartbeats %q: must be ignore or expect", s.Heartbeats)
	case s.SessionIDs != "server" && s.SessionIDs != "client":
		return fmt.Errorf("session ids %q: must be server or client", s.SessionIDs)
	case !(s.SlowFraction >= 0 && s.SlowFraction < 1):
		return fmt.Errorf("slow fraction %g: must be 0 to less than 1", s.SlowFraction)
	case s.Loops < 0 || s.Loops > 1000:
		return fmt.Errorf("loops %d: must be 0 (automatic) to 1000", s.Loops)
	}
	if err := s.checkPublish(); err != nil {
		return err
	}
	_, err := newTemplate(s)
	return err
}

// measured is the processes whose use is counted as the server's.
func (s *Spec) measured() []int { return append([]int{s.ServerPID}, s.MorePIDs...) }

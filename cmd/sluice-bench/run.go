package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"sluice/bench"
	"sluice/bench/report"
)

type runCmd struct {
	target
	Scenario       string        `short:"s" enum:",idle,count,echo,custom,resume,churn,storm,slow,fanout" default:"" placeholder:"NAME" help:"count (default): check each reply's count. idle: hold. echo: compare each reply with its message. custom (default with --message or --expect). resume: count, leave, come back, compare the total. churn: connect and close. storm: all drop and come back at once. slow: some clients stop reading. fanout: listen to topics; check all that is published."`
	Conns          int           `short:"c" default:"1000" help:"Connections."`
	Ramp           string        `default:"2000" help:"Connects started per second; auto: as fast as keeps handshakes below --ramp-latency."`
	RampLatency    time.Duration `default:"50ms" help:"With --ramp auto: bound on p90 of handshakes."`
	StartAt        string        `placeholder:"TIME" help:"Begin the ramp then, so that several machines begin together: 2026-11-25T20:30:00Z, 20:30 (UTC), or every:5m for the next full five minutes. Merge the results with merge."`
	Hold           time.Duration `help:"Hold the connections for this long between the ramp and the traffic."`
	Rate           float64       `short:"r" help:"Open loop: messages per second over all connections (resume, churn: visits), at intended times."`
	AllowBehind    bool          `help:"With --rate: it is no failure when the schedule is not kept."`
	Window         int           `short:"w" default:"64" help:"Closed loop: messages outstanding over all connections. Not used with --rate."`
	Duration       time.Duration `short:"d" default:"10s" help:"Of the traffic, after the ramp."`
	Think          time.Duration `help:"Closed loop: pause before the next message takes the place of an answered one."`
	FragmentPause  time.Duration `placeholder:"PAUSE" help:"Send each message as two fragments, the second so much after the first; its latency counts from then."`
	Messages       int           `default:"5" help:"resume: messages per visit."`
	Publish        string        `placeholder:"URL" help:"fanout: POST here with ?topic= publishes to clients that have named the topic in ?topic=; --rate times a second, --payload bytes. Sluice: http://127.0.0.1:5561/publish."`
	PublishKey     string        `placeholder:"KEY" help:"fanout: sent as Authorization: Bearer."`
	Topics         int           `default:"1" help:"fanout: clients are dealt to so many topics in turn."`
	Heartbeats     string        `default:"ignore" enum:"expect,ignore" help:"expect: a heartbeat that does not come is a failure."`
	HeartbeatEvery time.Duration `default:"30s" help:"The server's interval, against which jitter is measured."`
	Verify         bool          `default:"true" negatable:"" help:"Check every count, payload and total."`
	Welcome        bool          `help:"A connection without a welcome frame is a failure."`
	SessionIDs     string        `name:"session-ids" default:"server" enum:"server,client" help:"resume, storm: who makes the session ids. client: for servers that do not tell theirs."`
	Reconnect      bool          `help:"Connections that the server ends come back to their session, and its total is checked."`
	ExpectClose    []int         `placeholder:"CODE" help:"Close codes from the server that are no failure, such as 1001 when it is drained on purpose."`
	Storms         int           `default:"1" help:"storm: how many, one after the other."`
	SlowFraction   float64       `default:"0.1" help:"slow: share of clients that stop reading."`
	Retries        int           `default:"5" help:"Attempts after the first before a connection is given up. A Retry-After is obeyed, up to 30s."`
	Settle         time.Duration `help:"Pause before each measurement of the server (default 1s with --server-pid)."`
	Loops          int           `help:"Event loops of this tool, a thread each (default: as many as descriptors need)."`
	SLO            []string      `name:"slo" placeholder:"p99=5ms" help:"Fail when a latency is above this: p99=5ms, max=1s, handshake.p99=50ms, heartbeat.p99=1s."`
}

func (c *runCmd) Run(ctx context.Context, s *streams) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	done := c.progress(&spec, s)
	r, err := bench.Run(ctx, spec)
	done()
	if err != nil {
		return err
	}
	return c.write(s, r.OK(), pages{
		text: func(w io.Writer) error { return report.WriteText(w, r) },
		json: func(w io.Writer) error { return report.WriteJSON(w, r) },
		html: func(w io.Writer) error { return report.WriteHTML(w, r) }})
}

func (c *runCmd) spec() (bench.Spec, error) {
	if err := mustNotBeZero(map[string]bool{"conns": c.Conns == 0, "ramp": c.Ramp == "0",
		"window": c.Window == 0, "duration": c.Duration == 0, "messages": c.Messages == 0,
		"heartbeat-every": c.HeartbeatEvery == 0, "storms": c.Storms == 0, "topics": c.Topics == 0,
		"slow-fraction": c.SlowFraction == 0, "timeout": c.Timeout == 0}); err != nil {
		return bench.Spec{}, err
	}
	s, err := c.target.spec()
	if err != nil {
		return s, err
	}
	s.Scenario, s.Conns = bench.Scenario(c.Scenario), c.Conns
	if err := c.setRamp(&s); err != nil {
		return s, err
	}
	if s.StartAt, err = parseStart(c.StartAt, time.Now()); err != nil {
		return s, err
	}
	s.Hold = c.Hold
	s.Rate, s.AllowBehind, s.Window = c.Rate, c.AllowBehind, c.Window
	s.Duration, s.Think, s.Messages = c.Duration, c.Think, c.Messages
	s.FragmentPause = c.FragmentPause
	s.Publish, s.PublishKey, s.Topics = c.Publish, c.PublishKey, c.Topics
	s.Heartbeats, s.HeartbeatEvery = c.Heartbeats, c.HeartbeatEvery
	s.NoVerify, s.Welcome, s.SessionIDs = !c.Verify, c.Welcome, c.SessionIDs
	s.Reconnect, s.ExpectClose = c.Reconnect, c.ExpectClose
	s.Storms, s.SlowFraction, s.Retries = c.Storms, c.SlowFraction, c.Retries
	s.Settle, s.Loops = c.Settle, c.Loops
	if c.Retries == 0 {
		s.Retries = -1
	}
	for _, text := range c.SLO {
		o, err := bench.ParseObjective(text)
		if err != nil {
			return s, fmt.Errorf("--slo: %w", err)
		}
		s.SLO = append(s.SLO, o)
	}
	return s, nil
}

// setRamp takes in --ramp: a number, or auto.
func (c *runCmd) setRamp(s *bench.Spec) (err error) {
	s.RampLatency = c.RampLatency
	if c.Ramp == "auto" {
		s.AutoRamp = true
		return nil
	}
	if s.Ramp, err = strconv.ParseFloat(c.Ramp, 64); err != nil {
		return fmt.Errorf("--ramp %q: must be a number or auto", c.Ramp)
	}
	return nil
}

// parseStart parses --start-at; the zero time is now.
func parseStart(text string, now time.Time) (time.Time, error) {
	now = now.UTC()
	if text == "" {
		return time.Time{}, nil
	}
	if each, ok := strings.CutPrefix(text, "every:"); ok {
		d, err := time.ParseDuration(each)
		if err != nil || d < time.Second || d > 24*time.Hour {
			return time.Time{}, fmt.Errorf("--start-at %q: must be every:1s to every:24h", text)
		}
		return now.Truncate(d).Add(d), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at.UTC(), nil
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if at, err := time.Parse(layout, text); err == nil {
			start := now.Truncate(24 * time.Hour).Add(time.Duration(at.Hour())*time.Hour +
				time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second)
			if start.Before(now) {
				start = start.Add(24 * time.Hour)
			}
			return start, nil
		}
	}
	return time.Time{}, fmt.Errorf(
		"--start-at %q: must be 2026-11-25T20:30:00Z, 20:30, 20:30:15 or every:5m", text)
}

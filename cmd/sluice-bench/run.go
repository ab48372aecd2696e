package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"sluice/bench"
	"sluice/bench/report"
)

type runCmd struct {
	target
	Scenario       string        `short:"s" enum:",idle,count,echo,custom,resume,churn,storm,slow,fanout" default:"" placeholder:"NAME" help:"count (default): check each reply's count. idle: hold. echo: compare each reply with its message. custom (default with --message or --expect). resume: count, leave, come back, compare the total. churn: connect and close. storm: all drop and come back at once. slow: some clients stop reading. fanout: listen to topics; check all that is published."`
	Conns          int           `short:"c" default:"1000" help:"Connections."`
	Ramp           float64       `default:"2000" help:"Connects started per second."`
	Rate           float64       `short:"r" help:"Open loop: messages per second over all connections (resume, churn: visits), at intended times."`
	AllowBehind    bool          `help:"With --rate: it is no failure when the schedule is not kept."`
	Window         int           `short:"w" default:"64" help:"Closed loop: messages outstanding over all connections. Not used with --rate."`
	Duration       time.Duration `short:"d" default:"10s" help:"Of the traffic, after the ramp."`
	Think          time.Duration `help:"Closed loop: pause before the next message takes the place of an answered one."`
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
	Processes      int           `help:"Processes of this tool (default: as many as descriptors need)."`
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
	err = errors.Join(report.WriteText(s.out, r),
		writeFile(c.JSON, func(w io.Writer) error { return report.WriteJSON(w, r) }),
		writeFile(c.HTML, func(w io.Writer) error { return report.WriteHTML(w, r) }))
	if err == nil && !r.OK() {
		err = errFailed
	}
	return err
}

func (c *runCmd) spec() (bench.Spec, error) {
	if err := mustNotBeZero(map[string]bool{"conns": c.Conns == 0, "ramp": c.Ramp == 0,
		"window": c.Window == 0, "duration": c.Duration == 0, "messages": c.Messages == 0,
		"heartbeat-every": c.HeartbeatEvery == 0, "storms": c.Storms == 0, "topics": c.Topics == 0,
		"slow-fraction": c.SlowFraction == 0, "timeout": c.Timeout == 0}); err != nil {
		return bench.Spec{}, err
	}
	s, err := c.target.spec()
	if err != nil {
		return s, err
	}
	s.Scenario, s.Conns, s.Ramp = bench.Scenario(c.Scenario), c.Conns, c.Ramp
	s.Rate, s.AllowBehind, s.Window = c.Rate, c.AllowBehind, c.Window
	s.Duration, s.Think, s.Messages = c.Duration, c.Think, c.Messages
	s.Publish, s.PublishKey, s.Topics = c.Publish, c.PublishKey, c.Topics
	s.Heartbeats, s.HeartbeatEvery = c.Heartbeats, c.HeartbeatEvery
	s.NoVerify, s.Welcome, s.SessionIDs = !c.Verify, c.Welcome, c.SessionIDs
	s.Reconnect, s.ExpectClose = c.Reconnect, c.ExpectClose
	s.Storms, s.SlowFraction, s.Retries = c.Storms, c.SlowFraction, c.Retries
	s.Settle, s.Processes = c.Settle, c.Processes
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

package main

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"sluice/bench/baseline"
)

type baselineCmd struct {
	Name      string        `arg:"" help:"${baselines}"`
	Listen    string        `default:"127.0.0.1:8000" help:"Address to listen on; port 0 is any."`
	App       string        `default:"count" enum:"count,echo,topics" help:"count: sluice's protocol; echo: messages come back; topics: POST /publish?topic=T sends to clients of ?topic=T (gorilla, floor)."`
	Heartbeat time.Duration `default:"30s" help:"Between two heartbeats; negative is off."`
}

func (c *baselineCmd) Run(ctx context.Context, s *streams) error {
	return baseline.Serve(ctx, c.Name, c.Listen, baseline.Options{App: c.App, Heartbeat: c.Heartbeat,
		Ready: func(a net.Addr) { fmt.Fprintf(s.out, "listening on %s\n", a) }})
}

type versionCmd struct{}

func (versionCmd) Run(s *streams) error {
	version, revision := "unknown", ""
	if b, ok := debug.ReadBuildInfo(); ok {
		version = b.Main.Version
		for _, kv := range b.Settings {
			if kv.Key == "vcs.revision" {
				revision = " " + kv.Value
			}
		}
	}
	_, err := fmt.Fprintf(s.out, "sluice-bench %s%s\n", version, revision)
	return err
}

package main

import (
	"context"
	"crypto/tls"
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
	TLSCert   string        `type:"path" placeholder:"FILE" help:"gorilla: serve over TLS with this certificate, and --tls-key."`
	TLSKey    string        `type:"path" placeholder:"FILE" help:"gorilla: the certificate's key."`
}

func (c *baselineCmd) Run(ctx context.Context, s *streams) error {
	o := baseline.Options{App: c.App, Heartbeat: c.Heartbeat,
		Ready: func(a net.Addr) { fmt.Fprintf(s.out, "listening on %s\n", a) }}
	if c.TLSCert != "" || c.TLSKey != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return fmt.Errorf("load --tls-cert %s and --tls-key %s: %w", c.TLSCert, c.TLSKey, err)
		}
		o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	}
	return baseline.Serve(ctx, c.Name, c.Listen, o)
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

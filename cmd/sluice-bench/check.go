package main

import (
	"context"
	"time"

	"sluice/bench/check"
)

type checkCmd struct {
	URL      string        `arg:"" name:"url" help:"ws:// or wss:// URL."`
	App      string        `enum:"count,echo,other" default:"count" help:"What answers: count (counts, leaves, resumes), echo, other (connect and close only)."`
	Session  string        `placeholder:"ID" help:"Resume this session, as an earlier check printed it, in place of a new one."`
	Count    uint64        `placeholder:"N" help:"What --session has counted before."`
	Header   []string      `sep:"none" placeholder:"NAME:VALUE" help:"Header of the handshake; repeat for more."`
	Insecure bool          `help:"wss: do not check the certificate."`
	Timeout  time.Duration `default:"5s" help:"For each step."`
}

// Run prints a line for each step.
func (c *checkCmd) Run(ctx context.Context, s *streams) error {
	header, err := headers(c.Header)
	if err != nil {
		return err
	}
	result, err := check.Run(ctx, check.Config{
		URL: c.URL, App: c.App, Session: c.Session, Count: c.Count,
		Header: header, Insecure: c.Insecure, Timeout: c.Timeout,
	})
	if err != nil {
		return err
	}
	if err := result.WriteText(s.out); err != nil {
		return err
	}
	if !result.OK() {
		return errFailed
	}
	return nil
}

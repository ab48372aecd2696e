// Package faults puts gateways, Redis and the network between them through what goes wrong in
// production, under load, and checks every number that a client was told.
//
// With A the highest total that a client was told, R the total in Redis and S what was sent, A ≤
// R ≤ S must hold for every session. The client, a process of its own, writes a journal of all it
// sends and hears; check.go adds it up and compares it with what Redis holds in the end.
// faults.go and loss.go have what is done: the first leaves Redis with what it confirmed, the
// second does not, and the columns of its table say what is promised then.
//
// services.go is another load with another promise: messages to a service behind gateways, and
// publications to topics, are numbered, and service_books.go has what became of them.
package faults

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrBroken is a promise that was not kept. What it was has been written to the output.
var ErrBroken = errors.New("promises were broken")

// Options are what is run.
type Options struct {
	Fault string        // one fault only; empty for all
	Runs  int           // of each fault
	Load  time.Duration // of each run; a fault that lasts adds to it
	Bin   string        // the gateway; see launch.FindSluice
	Keep  bool          // keep the journals and logs of good runs too
	// Service is the command line of a sluice-bench service without options, for Services.
	Service []string
}

// Run runs faults under load and writes a table to out. It returns ErrBroken if a promise was not
// kept.
func Run(ctx context.Context, out io.Writer, o Options) error {
	list, err := named(o.Fault)
	if err != nil {
		return err
	}
	return runAll(ctx, out, list, o.Runs, plan{bin: o.Bin, seconds: o.Load, load: usualLoad}, o.Keep)
}

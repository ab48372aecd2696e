package bench

import (
	"context"
	"io"

	"sluice/bench/compare"
	"sluice/bench/load"
)

// WorkerCommand is the hidden first argument with which the running program is started again for
// further processes of the load generator; see Serve.
const WorkerCommand = load.WorkerCommand

// What a load is made of and what comes of it; package load documents the fields.
type (
	Spec         = load.Spec
	Scenario     = load.Scenario
	Objective    = load.Objective
	Progress     = load.Progress
	Result       = load.Result
	CapacitySpec = load.CapacitySpec
	Capacity     = load.Capacity

	CompareOptions = compare.Options
	Comparison     = compare.Report
)

// The scenarios.
const (
	Idle   = load.Idle
	Count  = load.Count
	Echo   = load.Echo
	Resume = load.Resume
	Churn  = load.Churn
	Storm  = load.Storm
	Slow   = load.Slow
	Fanout = load.Fanout
)

// ParseObjective parses a latency that must hold: p99=5ms, max=1s, handshake.p99=50ms.
func ParseObjective(s string) (Objective, error) { return load.ParseObjective(s) }

// Serve runs one worker of the load generator on standard input and output. The program that calls
// Run calls it when its first argument is WorkerCommand.
func Serve(in io.Reader, out io.Writer) error { return load.Serve(in, out) }

// Run makes one load and reports what it found.
func Run(ctx context.Context, spec Spec) (*Result, error) { return load.Run(ctx, spec) }

// FindCapacity raises the number of connections until something gives, and says what.
func FindCapacity(ctx context.Context, spec CapacitySpec) (*Capacity, error) {
	return load.FindCapacity(ctx, spec)
}

// Compare puts the same load on sluice and on other servers in turn.
func Compare(ctx context.Context, o CompareOptions) (*Comparison, error) { return compare.Run(ctx, o) }

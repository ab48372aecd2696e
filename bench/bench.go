package bench

import (
	"context"

	"sluice/bench/compare"
	"sluice/bench/load"
)

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

// Run makes one load and reports what it found.
func Run(ctx context.Context, spec Spec) (*Result, error) { return load.Run(ctx, spec) }

// Merge makes one result of those of several machines that ran at one time.
func Merge(results []*Result) (*Result, error) { return load.Merge(results) }

// FindCapacity raises the number of connections until something gives, and says what.
func FindCapacity(ctx context.Context, spec CapacitySpec) (*Capacity, error) {
	return load.FindCapacity(ctx, spec)
}

// Compare puts the same load on sluice and on other servers in turn.
func Compare(ctx context.Context, o CompareOptions) (*Comparison, error) { return compare.Run(ctx, o) }

// Package procfs reads from /proc what processes and the machine use.
//
// A full sample costs some hundred microseconds, and more where smaps_rollup belongs to a large
// process, so take full samples between the phases of a measurement only. Any goroutine may call
// these functions.
package procfs

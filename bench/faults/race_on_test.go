//go:build race

package faults

// With the race detector in the tests, the gateway has it too.
var buildFlags = []string{"-race"}

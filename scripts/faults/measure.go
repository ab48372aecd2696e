package main

import (
	"context"
	"io"
	"time"
)

func outage(ctx context.Context, out io.Writer, bin string, d time.Duration) error { return nil }
func storm(ctx context.Context, out io.Writer, bin string, n int) error            { return nil }
func throughput(ctx context.Context, out io.Writer, bin string, rate float64, conns int, d time.Duration) error {
	return nil
}

package backend

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// breaker stops requests to a backend that cannot be reached, so that handshakes are refused at
// once and not after a timeout, and lets one through at growing intervals to see whether it is
// back. It is shared by all loops, so it has atomics where a library's would have a mutex. Any
// goroutine.
type breaker struct {
	failures  atomic.Int32 // in a row
	openUntil atomic.Int64 // Unix nanoseconds; 0: closed, requests pass
	interval  atomic.Int64 // nanoseconds: how long it stays open after the next failed probe
}

const (
	breakAfter   = 5 // failures in a row
	shortestOpen = 100 * time.Millisecond
	longestOpen  = 5 * time.Second
)

// allow reports whether a request may start now; if not, after how long to ask again. While the
// breaker is open, the one request that is allowed in an interval is a probe: a number other than
// 0, to report its failure with.
func (b *breaker) allow(now time.Time) (ok bool, probe int64, wait time.Duration) {
	until := b.openUntil.Load()
	if until == 0 {
		return true, 0, 0
	}
	if wait = time.Duration(until - now.UnixNano()); wait > 0 {
		return false, 0, wait
	}
	// The one that moves the time on is the probe. Should it never be reported, the next interval
	// has another one.
	interval := time.Duration(b.interval.Load())
	if probe = now.Add(interval).UnixNano(); b.openUntil.CompareAndSwap(until, probe) {
		return true, probe, 0
	}
	return false, 0, interval
}

// open reports whether requests are being held back.
func (b *breaker) open() bool { return b.openUntil.Load() != 0 }

// succeeded records that the backend has answered. It reports whether that has closed the breaker.
func (b *breaker) succeeded() (closed bool) {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
	return b.open() && b.openUntil.Swap(0) != 0
}

// failed records that the backend could not be reached or did not answer in time; probe is what
// allow returned. It reports whether that has opened the breaker.
func (b *breaker) failed(now time.Time, probe int64) (opened bool) {
	failures := b.failures.Add(1)
	switch {
	case probe != 0:
		// Gateways that lost the backend together do not probe it together: the intervals differ by
		// up to a quarter.
		interval := min(2*time.Duration(b.interval.Load()), longestOpen)
		if b.openUntil.CompareAndSwap(probe, now.Add(interval-rand.N(interval/4)).UnixNano()) {
			b.interval.Store(int64(interval))
		}
		return false
	case failures < breakAfter || b.open():
		return false
	}
	b.interval.Store(int64(shortestOpen))
	return b.openUntil.CompareAndSwap(0, now.Add(shortestOpen).UnixNano())
}

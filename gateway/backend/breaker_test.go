package backend

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	var b breaker
	now := time.Unix(1000, 0)
	for i := 1; i < breakAfter; i++ {
		if b.failed(now, 0) || b.open() {
			t.Fatalf("open after %d failures, want %d", i, breakAfter)
		}
	}
	b.succeeded()
	for i := 1; i < breakAfter; i++ {
		b.failed(now, 0)
	}
	if b.open() {
		t.Fatal("failures that were not in a row opened it")
	}
	if !b.failed(now, 0) || !b.open() {
		t.Fatalf("closed after %d failures in a row", breakAfter)
	}
	for range 100 {
		if b.failed(now, 0) { // requests that had started before
			t.Fatal("opened twice")
		}
	}
	if ok, _, wait := b.allow(now); ok || wait != shortestOpen {
		t.Fatalf("allowed %v, wait %v; want %v", ok, wait, shortestOpen)
	}
	var last time.Duration
	for i := range 12 {
		now = now.Add(longestOpen)
		ok, probe, _ := b.allow(now)
		if !ok || probe == 0 {
			t.Fatalf("no probe after %v", longestOpen)
		}
		if ok, _, _ := b.allow(now); ok {
			t.Fatal("two probes in one interval")
		}
		b.failed(now, probe)
		_, _, wait := b.allow(now)
		if wait > longestOpen || i < 5 && wait <= last || i > 8 && wait < longestOpen*3/4 {
			t.Fatalf("probe %d: the next after %v, the one before after %v", i, wait, last)
		}
		last = wait
	}
	now = now.Add(longestOpen)
	if ok, _, _ := b.allow(now); !ok {
		t.Fatal("no probe")
	}
	if !b.succeeded() || b.open() {
		t.Fatal("a probe that succeeded has not closed it")
	}
	if ok, probe, _ := b.allow(now); !ok || probe != 0 {
		t.Fatal("closed, and holds requests back")
	}
}

func TestBreakerConcurrently(t *testing.T) {
	var b breaker
	var opened, probes atomic.Int32
	var all sync.WaitGroup
	now := time.Unix(1000, 0)
	for range 8 {
		all.Go(func() {
			for range 100 {
				if b.failed(now, 0) {
					opened.Add(1)
				}
			}
		})
	}
	all.Wait()
	for range 8 {
		all.Go(func() {
			if ok, _, _ := b.allow(now.Add(time.Second)); ok {
				probes.Add(1)
			}
		})
	}
	all.Wait()
	if opened.Load() != 1 || probes.Load() != 1 {
		t.Errorf("opened %d times, %d probes; want 1 of each", opened.Load(), probes.Load())
	}
}

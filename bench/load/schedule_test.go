package load

import (
	"context"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/bench/procfs"
)

// A server that answers 250 a second is asked 1,000: what it answers after the traffic's end is no
// throughput, and the run fails.
func TestBehind(t *testing.T) {
	t.Parallel()
	var one sync.Mutex
	s := (&server{onMessage: func(p *peer, _ int, _ []byte) {
		one.Lock()
		time.Sleep(4 * time.Millisecond)
		one.Unlock()
		p.reply(p.total(1))
	}}).start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	spec := Spec{Targets: []string{s.url}, Conns: 20, Rate: 1000, Duration: time.Second}
	for _, allow := range []bool{false, true} {
		spec.AllowBehind = allow
		r, err := Run(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "answered in the end", r.Counters.Replies, 1000)
		if got := r.MessagesPerSecond(); got > 250 {
			t.Errorf("%.0f/s, want at most the server's 250", got)
		}
		if r.ReplySeconds < 3.9 {
			t.Errorf("the last reply came after %.2f s, want some 4", r.ReplySeconds)
		}
		if allow {
			wantOK(t, r)
		} else {
			wantFailure(t, r, "did not keep the schedule of 1k/s")
		}
	}
}

func TestWhoIsBehind(t *testing.T) {
	for _, tc := range []struct {
		name             string
		send             float64 // seconds until all was sent
		midway, finished int64   // of 1000 in 10 s
		want             string
	}{
		{"all kept", 10, 500, 1000, ""},
		{"answers 2 s late, but all the time", 10, 300, 800, ""},
		{"a hiccup of 0.4 s at the end", 10, 500, 960, ""},
		{"a third is lost on the way", 10, 330, 670, "the server did not keep the schedule of 100/s: " +
			"in its second half it answered 68/s"},
		{"slower and slower", 10, 490, 900, "the server did not"},
		{"the tool is 6 % late", 10.6, 500, 940, "the load generator did not keep the schedule of 100/s: " +
			"it sent in 10.60 s what was due in 10.00 s"},
	} {
		r := Result{Spec: Spec{Rate: 100, Duration: 10 * time.Second}, Complete: true, SendSeconds: tc.send,
			Counters: Counters{Ramped: 1, Midway: tc.midway, Finished: tc.finished}}
		got := strings.Join(r.behind(), "")
		if tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		r.Spec.AllowBehind = true
		if got := r.behind(); got != nil {
			t.Errorf("%s, which is allowed: %q", tc.name, got)
		}
	}
}

// Two reports that come close together are one point: 4,000 replies in a millisecond are not 4 M/s.
func TestPointsKeepTheirDistance(t *testing.T) {
	f := &crew{plan: plan{latencies: &latencies{}}, workers: []*member{{last: newCounters()}}}
	r := &run{crew: f, result: &Result{}, spec: Spec{Conns: 1}, began: time.Now()}
	at := func(ms int, replies int64) {
		f.workers[0].last.Replies = replies
		r.tick(r.began.Add(time.Duration(ms) * time.Millisecond))
	}
	at(250, 1000)
	at(251, 5000)
	at(500, 6000)
	want(t, "points", int64(len(r.result.Timeline)), 2)
	if got := r.result.Timeline[1].RateHz; math.Abs(got-20_000) > 1 {
		t.Errorf("%.0f/s, want 5,000 in a quarter of a second", got)
	}
	halved := halve([]Point{{Seconds: 3, RateHz: 10}, {Seconds: 4, RateHz: 50}})
	if len(halved) != 1 || halved[0].RateHz != 20 {
		t.Errorf("%+v, want 3 s of 10/s and 1 s of 50/s to be 4 s of 20/s", halved)
	}
}

func TestMemoryOfAWarmServerIsNotKnown(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name         string
		before, idle procfs.Usage
		conns        int64
		want         string
	}{
		{"fresh", procfs.Usage{Anon: 4 * mib, Peak: 9 * mib}, procfs.Usage{Anon: 14 * mib, RSS: 19 * mib}, 10_000, ""},
		{"grew by 6 B each", procfs.Usage{Anon: 4 * mib}, procfs.Usage{Anon: 4*mib + 60_000, RSS: 9 * mib},
			10_000, "grew by 58.6 KiB only"},
		{"shrank", procfs.Usage{Anon: 8 * mib}, procfs.Usage{Anon: 7 * mib, RSS: 9 * mib}, 10_000, "did not grow"},
		{"was larger before", procfs.Usage{Anon: 4 * mib, Peak: 20 * mib}, procfs.Usage{Anon: 7 * mib, RSS: 19 * mib},
			10_000, "had been as large as 20 MiB"},
		{"few connections", procfs.Usage{Anon: 4 * mib}, procfs.Usage{Anon: 5 * mib, RSS: 9 * mib}, 499, "too few"},
	} {
		tc.before.Processes, tc.idle.Processes = 1, 1
		s := ServerUsage{Before: tc.before, Idle: tc.idle}
		s.derive(&Result{Counters: Counters{Ramped: tc.conns}})
		if got := s.MemoryUnknown; tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if known := s.MemoryUnknown == ""; known != (s.UserIdlePerConn > 0) || s.AtMostPerConn <= 0 {
			t.Errorf("%s: %.0f B each, at most %.0f", tc.name, s.UserIdlePerConn, s.AtMostPerConn)
		}
	}
}

package sessions

import (
	"sync/atomic"
	"testing"
	"time"
)

// pump is an Owner that has one message unacknowledged at all times, until the benchmark has had enough.
type pump struct {
	a       Attachment
	left    *atomic.Int64
	done    chan struct{}
	elapsed *atomic.Int64 // ns from Add to Acknowledged, summed
	since   time.Time
}

func (p *pump) Attached(a Attachment, _ uint64, _ bool, _ error) { p.a = a }
func (p *pump) Detached(uint64, error)                           {}
func (p *pump) Acknowledged(uint64, uint64) {
	p.elapsed.Add(int64(time.Since(p.since)))
	p.next()
}

func (p *pump) next() {
	switch n := p.left.Add(-1); {
	case n >= 0:
		p.since = time.Now()
		p.a.Add()
	case n == -1:
		close(p.done)
	}
}

// BenchmarkRedisAcknowledged: 1,000 connections on two loops, each sending its next message when the last
// one is acknowledged, with Redis on the same machine.
func BenchmarkRedisAcknowledged(b *testing.B) {
	for _, mode := range []struct {
		name string
		args []string
	}{
		{"no-aof", nil},
		{"everysec", []string{"--appendonly", "yes", "--appendfsync", "everysec"}},
		{"always", []string{"--appendonly", "yes", "--appendfsync", "always"}},
	} {
		b.Run(mode.name, func(b *testing.B) {
			r := startRedis(b, mode.args...)
			s := newTestRedis(b, RedisConfig{URL: r.url(), ClientCache: true})
			loops := []*testLoop{newTestLoop(b, s), newTestLoop(b, s)}
			var left, elapsed atomic.Int64
			left.Store(int64(b.N))
			done := make(chan struct{})
			pumps := make([]*pump, 1000)
			for i := range pumps {
				pumps[i] = &pump{left: &left, done: done, elapsed: &elapsed}
				loops[i%2].on(func() { loops[i%2].Attach(NewID(), false, pumps[i]) })
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range loops {
				loops[i].on(func() {
					for j := i; j < len(pumps); j += 2 {
						pumps[j].next()
					}
				})
			}
			<-done
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
			b.ReportMetric(float64(elapsed.Load())/float64(b.N)/1e6, "ms/ack")
		})
	}
}

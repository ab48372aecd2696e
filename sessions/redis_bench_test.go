package sessions

import (
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// pump is an Owner that has one message unacknowledged at all times, until the benchmark has had
// enough.
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

// BenchmarkRedisAcknowledged: 1,000 connections on two loops, each sending its next message when
// the last one is acknowledged, with Redis on the same machine.
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
				loops[i%2].on(func() { loops[i%2].Attach(NewID(), "", false, pumps[i]) })
			}
			b.ReportAllocs()
			used := redisCPU(r)
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
			b.ReportMetric((redisCPU(r)-used)*1e6/float64(b.N), "redis-µs/ack")
			b.ReportMetric(float64(elapsed.Load())/float64(b.N)/1e6, "ms/ack")
		})
	}
}

// redisCPU is what the server's main thread has used, in seconds.
func redisCPU(r *redisServer) (sum float64) {
	for line := range strings.Lines(r.cli("info", "cpu")) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); strings.HasSuffix(name, "_main_thread") {
			v, _ := strconv.ParseFloat(value, 64)
			sum += v
		}
	}
	return sum
}

// BenchmarkRedisFootprint reports the heap bytes that an attachment costs: new and silent, after an
// acknowledged message, and gone with a message that Redis has not taken.
func BenchmarkRedisFootprint(b *testing.B) {
	const size = 20_000
	for b.Loop() {
		r := startRedis(b)
		s := newTestRedis(b, RedisConfig{URL: r.url(), ClientCache: true, DetachDeadline: time.Hour})
		l := newTestLoop(b, s)
		owners := make([]keeper, size)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		l.on(func() {
			for i := range owners {
				l.Attach(NewID(), "", false, &owners[i])
			}
		})
		b.ReportMetric(float64(heap()-before)/size, "B/silent")
		l.on(func() {
			for i := range owners {
				owners[i].a.Add()
			}
		})
		eventually(b, "all is stored", func() bool { return redisPending.Load() == 0 })
		l.on(func() {})
		b.ReportMetric(float64(heap()-before)/size, "B/counted")
		r.kill()
		l.on(func() {
			for i := range owners {
				owners[i].a.Add()
				owners[i].a.Detach(nil)
			}
		})
		b.ReportMetric(float64(heap()-before)/size, "B/unstored")
		runtime.KeepAlive(owners)
	}
}

type keeper struct{ a Attachment }

func (k *keeper) Attached(a Attachment, _ uint64, _ bool, _ error) { k.a = a }
func (k *keeper) Acknowledged(uint64, uint64)                      {}
func (k *keeper) Detached(uint64, error)                           {}

// BenchmarkRedisCommitScript reports what Redis itself needs for one commit, by its own account:
// the first of a session, and a later one.
func BenchmarkRedisCommitScript(b *testing.B) {
	const size, pipeline = 40_000, 100
	r := startRedis(b)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.addr()}, DisableCache: true})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	me := newInstance().name
	cost := func(delta uint64) float64 {
		r.cli("config", "resetstat")
		k := own(1, 0, delta)
		for at := 0; at < size; at += pipeline {
			commands := make([]rueidis.Completed, pipeline)
			for i := range commands {
				// In no order, as clients come: the processor has none of them in
				// its cache.
				key := scriptKey + strconv.Itoa((at+i)*7919%size)
				commands[i] = k.command(c.B(), key, me, "3600000", at+i == 0 && delta == 1)
			}
			for _, answer := range c.DoMulti(ctx, commands...) {
				if _, err := parseStored(answer); err != nil {
					b.Fatal(err)
				}
			}
		}
		_, stats, _ := strings.Cut(r.cli("info", "commandstats"), "cmdstat_evalsha:")
		_, stats, _ = strings.Cut(stats, "usec_per_call=")
		stats, _, _ = strings.Cut(stats, ",")
		each, err := strconv.ParseFloat(stats, 64)
		if err != nil {
			b.Fatal(err)
		}
		return each
	}
	for b.Loop() {
		r.cli("flushall")
		b.ReportMetric(cost(1), "redis-µs/first")
		b.ReportMetric(cost(2), "redis-µs/later")
	}
}

package poller

import (
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests here are about the order of things within rounds, not about time: they hold on a
// machine of any speed.

// due counts how many timers have fired.
type due struct {
	Timer
	n    *int
	then func()
}

func (d *due) Expire() {
	*d.n++
	if d.then != nil {
		d.then()
	}
}

func TestThousandsOfTimersInOneTickDoNotStarveSockets(t *testing.T) {
	testTimersAndSockets(t, 1)
}

func TestFavorTimers(t *testing.T) { testTimersAndSockets(t, 3) }

func testTimersAndSockets(t *testing.T, favor int) {
	l := runLoop(t, Config{Tick: time.Millisecond})
	budget := favor * expireBudget
	c, theirs := registered(t, l)
	defer unix.Close(theirs)
	const timers = 10*expireBudget + 1
	fired, most, before, whenRead, whenPosted := 0, 0, 0, -1, -1
	all := make(chan struct{})
	on(t, l, func() {
		l.FavorTimers(favor)
		c.onData = func() { whenRead = fired }
		l.OnRound(func() {
			most = max(most, fired-before)
			before = fired
		})
		for i := range timers {
			d := &due{n: &fired}
			d.Init(d)
			d.then = func() {
				if i == 0 { // a socket becomes ready, and another goroutine posts, when all the rest are due already
					unix.Write(theirs, []byte("x"))
					l.Post(func() { whenPosted = fired })
				}
				if fired == timers {
					close(all)
				}
			}
			l.ArmAt(&d.Timer, 0)
		}
	})
	wait(t, all, "the last timer")
	on(t, l, func() {
		if whenRead != budget {
			t.Errorf("the socket had its turn after %d timers, want %d: with the next round", whenRead, budget)
		}
		if whenPosted != budget {
			t.Errorf("the mailbox had its turn after %d timers, want %d: with the next round", whenPosted, budget)
		}
		if most != budget {
			t.Errorf("up to %d timers fired in a round, want %d", most, budget)
		}
		c.Close()
	})
}

// A chain of functions that put off the next one, and one of posts, go on for ever; everything else
// must go on too.
func TestEndlessLaterAndPostDoNotStarveSocketsOrTimers(t *testing.T) {
	l := runLoop(t, Config{Tick: time.Millisecond})
	c, theirs := registered(t, l)
	defer unix.Close(theirs)
	a := &alarm{fired: make(chan struct{})}
	a.Init(a)
	read := make(chan struct{})
	stop := false
	on(t, l, func() {
		var later, post func()
		later = func() {
			if !stop {
				l.Later(later)
			}
		}
		post = func() {
			if !stop {
				l.Post(post)
			}
		}
		later()
		post()
		l.Arm(&a.Timer, 5*time.Millisecond)
		c.onData = func() { close(read) }
	})
	unix.Write(theirs, []byte("x"))
	wait(t, read, "Readable")
	wait(t, a.fired, "timer")
	on(t, l, func() { stop = true; c.Close() })
}

// metronome re-arms itself for multiples of its period.
type metronome struct {
	Timer
	l            *Loop
	first, every time.Duration
	beats        int
	want         int
	done         chan struct{}
	t            *testing.T
}

func (m *metronome) Expire() {
	due := m.first + time.Duration(m.beats)*m.every
	// elapsed is the tick that is being handled, also when the loop is behind: a beat that came a
	// tick late or early once shows, however slow the machine.
	if got, want := m.l.wheel.elapsed, uint64(due/m.l.tick); got != want {
		m.t.Errorf("beat %d: at tick %d, want %d", m.beats, got, want)
	}
	if m.l.Now() < due {
		m.t.Errorf("beat %d: at %v, before it is due at %v", m.beats, m.l.Now(), due)
	}
	if m.beats++; m.beats == m.want {
		close(m.done)
		return
	}
	m.l.ArmAt(&m.Timer, due+m.every)
}

func TestPeriodicTimersKeepTheirPhase(t *testing.T) {
	l := runLoop(t, Config{Tick: time.Millisecond})
	var ms []*metronome
	on(t, l, func() {
		// Periods below, at and above the span of the wheel's first level, all out of phase.
		for i, every := range []int{1, 3, 7, 63, 64, 65, 200} {
			m := &metronome{t: t, l: l, every: time.Duration(every) * l.tick, want: 600 / every, done: make(chan struct{})}
			m.first = (l.Now()/l.tick + 2 + time.Duration(i)) * l.tick
			m.Init(m)
			l.ArmAt(&m.Timer, m.first)
			ms = append(ms, m)
		}
	})
	// The loop falls behind by many ticks now and then: late beats must not move those after them.
	for range 5 {
		on(t, l, func() {
			for behind := time.Now().Add(20 * time.Millisecond); time.Now().Before(behind); {
			}
		})
	}
	for _, m := range ms {
		wait(t, m.done, "the last beat")
	}
}

// ready is an eventfd that is ready until it is told to read.
type ready struct {
	FD
	onReadable func(*ready)
}

func (r *ready) Readable() { r.onReadable(r) }
func (r *ready) Writable() {}
func (r *ready) Hangup()   {}

func TestEventArrayStaysBounded(t *testing.T) {
	l := runLoop(t, Config{})
	const n = 4 * maxEvents
	rs := make([]*ready, n)
	now, most, round, readers := 0, 0, 0, 0
	pressed, drained := make(chan struct{}), make(chan struct{})
	on(t, l, func() {
		l.OnRound(func() {
			most, now = max(most, now), 0
			if round++; round == 50 {
				close(pressed)
			}
		})
		for i := range rs {
			fd, err := unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
			if err != nil {
				t.Errorf("eventfd %d of %d: %v", i, n, err)
				return
			}
			rs[i] = &ready{onReadable: func(*ready) { now++ }}
			if err := l.Register(&rs[i].FD, fd, rs[i]); err != nil {
				t.Error(err)
			}
		}
	})
	wait(t, pressed, "50 rounds with everything ready")
	on(t, l, func() {
		// One of those reported may have been netpoll's own wake-up.
		if most < maxEvents-1 || most > maxEvents {
			t.Errorf("up to %d descriptors were handled in a round, want %d", most, maxEvents)
		}
		p := reflect.ValueOf(l.poll).Elem()
		if got := p.FieldByName("events").Len(); got != maxEvents {
			t.Errorf("netpoll's event array has grown to %d, want %d", got, maxEvents)
		}
		barriers := p.FieldByName("barriers")
		for i := range barriers.Len() {
			if got := barriers.Index(i).FieldByName("ivs").Cap(); got != 0 {
				t.Fatalf("netpoll keeps %d I/O vectors for event %d, want none", got, i)
			}
		}
		for _, r := range rs {
			r.onReadable = func(r *ready) {
				var b [8]byte
				if _, err := unix.Read(r.SysFD(), b[:]); err != nil {
					t.Errorf("ready, but: %v", err)
				}
				r.Close()
				if readers++; readers == n {
					close(drained)
				}
			}
		}
	})
	wait(t, drained, "every descriptor's turn") // nobody is passed over for good
}

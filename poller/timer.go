package poller

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Arm has t fire once, no earlier than after from Now and at most one tick later than that when the
// loop keeps up. A timer that is armed already is moved. O(1), no allocation. Loop only.
func (l *Loop) Arm(t *Timer, after time.Duration) { l.ArmAt(t, l.now+min(after, farthest)) }

// farthest keeps sums of times from overflowing: 73 years, in which nobody waits. A timer beyond
// it, or beyond the reach of the wheel (21 years at the default tick), fires then.
const farthest = time.Duration(1) << 61

// ArmAt is Arm with an absolute time on Now's scale. A time that has passed fires with the next
// tick.
func (l *Loop) ArmAt(t *Timer, at time.Duration) {
	at = min(max(at, 0), 2*farthest-1)
	l.wheel.arm(t, uint64((at+l.tick-1)/l.tick))
}

// Disarm takes t off the wheel; it does not fire, not even when it is already due in this round.
// O(1). Loop only.
func (l *Loop) Disarm(t *Timer) { l.wheel.disarm(t) }

// Timers is how many timers are armed, without the loop's own. Loop only.
func (l *Loop) Timers() int {
	if l.lingerers.timer.Armed() {
		return l.wheel.n - 1
	}
	return l.wheel.n
}

// timerFD wakes the loop for the wheel. It is set to the next occupied slot in absolute monotonic
// time, so an idle loop sleeps and a busy one does not drift.
type timerFD struct {
	FD
	at time.Duration // what it is set to, on Now's scale; 0 when it is not set
}

func (t *timerFD) open(l *Loop) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("timerfd: %w (raise the descriptor limit?)", err)
	}
	if err := l.Register(&t.FD, fd, t); err != nil {
		unix.Close(fd)
		return fmt.Errorf("timerfd: epoll: %w", err)
	}
	return nil
}

// arm sets the timerfd when the wheel's next slot is due before what it is set to. A deadline that
// moved later is left alone: waking once for nothing is cheaper than a system call for each timer
// that is put off.
func (t *timerFD) arm(l *Loop) {
	next, ok := l.wheel.next()
	if !ok {
		return
	}
	at := time.Duration(next) * l.tick
	if t.at != 0 && t.at <= at {
		return
	}
	t.at = at
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(l.base + at))}
	if err := unix.TimerfdSettime(t.SysFD(), unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		// Not reachable with a valid descriptor and time; without the timer the loop would lose its
		// heartbeats in silence.
		panic("poller: timerfd_settime: " + err.Error())
	}
}

// Readable implements Events: the wheel itself is advanced at the end of the round.
func (t *timerFD) Readable() {
	var expirations [8]byte
	if _, err := unix.Read(t.SysFD(), expirations[:]); err != nil {
		return
	}
	lag := t.loop.now - t.at
	t.loop.lag.Store(int64(lag))
	t.loop.metrics.loopLag.Update(lag.Seconds())
	t.at = 0
}

func (t *timerFD) Writable() {}
func (t *timerFD) Hangup()   {}

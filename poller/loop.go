package poller

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

// Config sets up a Loop. The zero value is the default.
type Config struct {
	// Tick is the resolution of the timing wheel: a timer fires up to one Tick late, and a loop
	// with timers due wakes at most once a Tick for them. Too small costs wake-ups, too large makes
	// deadlines coarse. Default 10 ms, at least 1 ms.
	Tick time.Duration
	// Phase is when its ticks are, on CLOCK_MONOTONIC modulo Tick. Loops with much to do at each
	// tick should have different ones, so that they do not all want the processors at once.
	Phase time.Duration

	// ReadBuffer is the size of the loop's one read buffer, in bytes. Too small costs read calls on
	// busy sockets; too large only memory, once a loop. Default 64 KiB, at least 4 KiB.
	ReadBuffer int

	// OwnTable gives the loop a descriptor table of its own, and so as many descriptors as the
	// limit of open files allows a whole process. For Start only; see CanSplit and the package's
	// comment.
	OwnTable bool

	// Yields is for more loops than GOMAXPROCS, and for loops whose peers are answered by
	// goroutines that wait for the network: a loop that waits gives its place to the others at
	// once. It takes one descriptor more, and some CPU where there are as many places as loops.
	Yields bool

	// Metrics is where the loop counts. Loops may share one. Default: nobody reads what it counts.
	Metrics *Metrics
}

// expireBudget is how many timers one round fires before the sockets get their turn: about 2 ms of
// heartbeats.
const expireBudget = 512

// Loop is one reactor: a netpoll Poll, a mailbox and a timing wheel, all run by the goroutine that
// calls Run. What is registered with a Loop belongs to that goroutine; only Post and Close may be
// called from others.
type Loop struct {
	// Any goroutine.
	mail    sync.Mutex
	inbox   []func()
	shut    bool        // under mail: nothing is taken any more
	hasMail atomic.Bool // spares a quiet round the lock
	awake   atomic.Bool // a round is in hand and will look for mail: no wake-up needed
	poll    netpoll.Poll
	own     bool // the loop's thread has a descriptor table of its own
	wake    waker
	closing atomic.Bool   // own: Close was called
	ended   chan struct{} // closed when Run is over
	failure error         // what Run returned, once ended is closed
	busy    atomic.Int64  // nanoseconds: see Busy
	lag     atomic.Int64  // nanoseconds: see Lag
	metrics *Metrics

	// The loop only.
	start   time.Time     // the zero of Now
	now     time.Duration // read at the start of each round
	base    time.Duration // start on CLOCK_MONOTONIC, the timerfd's scale
	tick    time.Duration
	wheel   wheel
	expires int // most timers that a round fires
	timerfd timerFD
	yielder yielder
	outbox  []func() // inbox's other half, swapped while it is run
	later   []func()
	spare   []func() // later's other half
	onRound []func()
	onEnd   []func(error)
	over    bool  // Run is about to return: the poll's descriptors are closed, and their numbers may be another's
	dirty   []*FD // interests to settle and sockets to close when the round's callbacks have returned
	readBuf []byte

	lingerers lingerers
	Buffers   Buffers // pooled buffers of this loop, for carrying partial input and unsent output
}

// NewLoop opens a reactor for a goroutine of the caller's, which calls Run; Start is the simpler
// way, and the only one to a loop with a table of its own. It holds three descriptors until Close.
// It fails when descriptors are exhausted, or when the netpoll linked in is not the version this
// package was written for.
func NewLoop(cfg Config) (*Loop, error) {
	if cfg.OwnTable {
		return nil, errors.New("open loop: OwnTable is for Start, which has a thread for it")
	}
	return newLoop(cfg)
}

func newLoop(cfg Config) (*Loop, error) {
	if cfg.Tick == 0 {
		cfg.Tick = 10 * time.Millisecond
	}
	if cfg.ReadBuffer == 0 {
		cfg.ReadBuffer = 64 << 10
	}
	if cfg.Tick < time.Millisecond || cfg.ReadBuffer < 4<<10 {
		return nil, fmt.Errorf("open loop: tick %v below 1ms or read buffer %d below 4096 bytes", cfg.Tick, cfg.ReadBuffer)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = unexposed()
	}
	l := &Loop{
		tick: cfg.Tick, expires: expireBudget, readBuf: make([]byte, cfg.ReadBuffer),
		metrics: cfg.Metrics, own: cfg.OwnTable, ended: make(chan struct{}),
	}
	l.wheel.init()
	l.lingerers.init(l)
	if err := l.startClock(cfg.Phase); err != nil {
		return nil, fmt.Errorf("open loop: clock: %w", err)
	}
	poll, err := openPoll()
	if err != nil {
		return nil, fmt.Errorf("open loop: epoll: %w (raise the descriptor limit?)", err)
	}
	l.poll = poll
	if err = closeOnExec(poll); err == nil {
		err = hookRounds(poll, l.round)
	}
	if err == nil {
		err = l.timerfd.open(l)
	}
	if err == nil && l.own {
		err = l.wake.open(l)
	}
	if err == nil && cfg.Yields {
		err = l.yielder.open(poll)
	}
	if err != nil {
		if l.timerfd.op != nil {
			l.timerfd.Close()
			l.settle()
		}
		_ = poll.Close() // takes effect in Wait, which then closes the poll's descriptors
		_ = poll.Wait()
		return nil, fmt.Errorf("open loop: %w", err)
	}
	return l, nil
}

// startClock ties Now to the timerfd's clock. base is read after start, and again when the two
// readings were interrupted: were it the earlier one, the timerfd would go off before Now has come
// to the time it was set to, and the loop would spin for the difference each time. Both are moved
// back to the last tick of the phase.
func (l *Loop) startClock(phase time.Duration) error {
	for range 10 {
		var ts unix.Timespec
		l.start = time.Now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			return err
		}
		l.base = time.Duration(ts.Nano())
		if time.Since(l.start) < 20*time.Microsecond {
			break
		}
	}
	sinceTick := (l.base - phase) % l.tick
	l.start, l.base = l.start.Add(-sinceTick), l.base-sinceTick
	return nil
}

// Run handles events until Close; the goroutine that calls it is the loop from then on. Call it
// once. An error means that epoll_wait failed: nothing is reported any more, and the caller, who is
// still the loop, closes its descriptors.
func (l *Loop) Run() error {
	err := l.poll.Wait()
	l.mail.Lock()
	l.shut = true
	l.inbox = nil
	l.mail.Unlock()
	l.over = true
	l.settle()
	l.lingerers.leave()
	l.timerfd.Close()
	l.yielder.close()
	if l.own {
		l.wake.Close()
	}
	l.settle()
	if err != nil {
		err = fmt.Errorf("run loop: epoll_wait: %w", err)
	}
	l.failure = err
	for _, fn := range l.onEnd {
		fn(err)
	}
	if l.own {
		l.wake.release()
	}
	close(l.ended)
	return err
}

// OnEnd has fn run when Run is over, with what Run returns. It is called on the loop still, and
// closes what is registered: nothing reports it any more. Loop only, or before Run.
func (l *Loop) OnEnd(fn func(error)) { l.onEnd = append(l.onEnd, fn) }

// Start opens a loop, has setup prepare it, and runs it, all on a goroutine of the loop's own. It
// returns when setup has; Wait tells of the end. With Config.OwnTable that goroutine's thread has a
// descriptor table of its own, in which setup and all callbacks open what the loop is to serve, by
// Listen and Dial: numbers of other tables mean nothing there (CopyFDs brings a descriptor over).
// Any goroutine but a loop's.
//
// When setup fails, the loop ends and Start returns the error; setup closes what it opened.
func Start(cfg Config, setup func(*Loop) error) (*Loop, error) {
	type opened struct {
		loop *Loop
		err  error
	}
	result := make(chan opened)
	whole := func() {
		l, err := newLoop(cfg)
		if err != nil {
			result <- opened{nil, err}
			return
		}
		if err = setup(l); err != nil {
			l.Close()
		} else {
			result <- opened{l, nil}
		}
		_ = l.Run()
		if err != nil {
			result <- opened{nil, err}
		}
	}
	if !cfg.OwnTable {
		go whole()
	} else if err := CanSplit(); err != nil {
		return nil, fmt.Errorf("open loop: %w", err)
	} else {
		onOwnThread(func() {
			if err := leaveTable(); err != nil {
				result <- opened{nil, fmt.Errorf("open loop: %w", err)}
				return
			}
			whole()
		})
	}
	r := <-result
	return r.loop, r.err
}

// Wait returns when Run is over, with what it returned. Any goroutine but the loop's.
func (l *Loop) Wait() error {
	<-l.ended
	return l.failure
}

// Close ends Run after the round in hand; what was posted and has not had its turn by then is
// dropped. Descriptors that are still registered are not closed: their owner closes them first. A
// loop that is never run keeps its own four until Run is called, which then returns at once. Any
// goroutine may call it, any number of times.
func (l *Loop) Close() {
	l.mail.Lock()
	defer l.mail.Unlock()
	if l.shut {
		return
	}
	l.shut = true
	if l.own {
		l.closing.Store(true)
		l.wake.ring()
		return
	}
	_ = l.poll.Close() // a write to an eventfd that is open until Run returns
}

// Post runs fn on the loop, after the callbacks of the round in hand. It never blocks, and any
// goroutine may call it. It reports false, and drops fn, once the loop is closed. True is no
// promise that fn runs: a Close may come before its turn.
func (l *Loop) Post(fn func()) bool {
	l.mail.Lock()
	if l.shut {
		l.mail.Unlock()
		return false
	}
	l.inbox = append(l.inbox, fn)
	first := len(l.inbox) == 1
	l.hasMail.Store(true) // before awake is read: see deliver
	if first && !l.awake.Load() {
		// Under the lock, so that Close cannot end the poll between the check and the wake-up.
		if l.own {
			l.wake.ring()
		} else {
			_ = l.poll.Trigger()
		}
	}
	l.mail.Unlock()
	return true
}

// Do runs fn on the loop and waits for it. It reports false when the loop ended before fn had its
// turn. The loop must run; any goroutine but a loop's.
func (l *Loop) Do(fn func()) bool {
	done := make(chan struct{})
	if !l.Post(func() { fn(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-l.ended:
	}
	select {
	case <-done: // both have happened
		return true
	default:
		return false
	}
}

// Later runs fn when all callbacks of this round have returned. Loop only.
func (l *Loop) Later(fn func()) { l.later = append(l.later, fn) }

// OnRound has fn run at the end of every round of events, before interests are settled. Loop only,
// or before Run.
func (l *Loop) OnRound(fn func()) { l.onRound = append(l.onRound, fn) }

// FavorTimers lets a round fire n times as many timers before the sockets get their turn, for as
// long as what timers do matters more than what peers say. 1 is as it was. Loop only.
func (l *Loop) FavorTimers(n int) { l.expires = n * expireBudget }

// Now is the monotonic time since the loop was made, as of the start of the round in hand. Loop
// only.
func (l *Loop) Now() time.Duration { return l.now }

// Busy is how long the loop has run callbacks since it was made, as of its last round. Two readings
// give the share of the time between them in which it was not waiting. Any goroutine.
func (l *Loop) Busy() time.Duration { return time.Duration(l.busy.Load()) }

// Lag is how late the loop came to its timers when it last woke up for them. Any goroutine.
func (l *Loop) Lag() time.Duration { return time.Duration(l.lag.Load()) }

// ReadBuf is the loop's shared read buffer. Its contents die with the callback that filled it. Loop
// only.
func (l *Loop) ReadBuf() []byte { return l.readBuf }

// round handles one batch of events and then what had to wait for its callbacks to return: netpoll
// spins forever when an operator is freed or re-added from inside its own callback.
func (l *Loop) round(handle func() (closed bool)) (closed bool) {
	l.awake.Store(true)
	l.now = time.Since(l.start)
	if handle() {
		return true
	}
	l.deliver()
	if l.wheel.advance(uint64(l.now/l.tick), l.expires) {
		_ = l.poll.Trigger() // more are due: after the sockets that are ready by then
	}
	for _, fn := range l.onRound {
		fn()
	}
	l.runLater()
	l.settle()
	l.timerfd.arm(l)
	l.busy.Add(int64(time.Since(l.start) - l.now))
	l.yielder.wait()
	return false
}

// deliver runs what other goroutines posted.
func (l *Loop) deliver() {
	l.awake.Store(false) // before hasMail is read: whoever posts from here on wakes the loop, or is seen below
	if !l.hasMail.Load() {
		return
	}
	l.mail.Lock()
	l.inbox, l.outbox = l.outbox[:0], l.inbox
	l.hasMail.Store(false)
	l.mail.Unlock()
	runAll(l.outbox)
	if cap(l.outbox) > 4096 { // one storm must not hold its memory for good
		l.outbox = nil
	}
}

// runLater runs what this round put off. What that puts off in turn waits for another round, so
// that a chain of them cannot keep the sockets waiting.
func (l *Loop) runLater() {
	if len(l.later) == 0 {
		return
	}
	l.later, l.spare = l.spare[:0], l.later
	runAll(l.spare)
	if cap(l.spare) > 4096 {
		l.spare = nil
	}
	if len(l.later) > 0 {
		_ = l.poll.Trigger()
	}
}

func runAll(fns []func()) {
	for i, fn := range fns {
		fns[i] = nil
		fn()
	}
}

// settle applies what the round's callbacks decided about their descriptors.
func (l *Loop) settle() {
	for i := 0; i < len(l.dirty); i++ {
		f := l.dirty[i]
		l.dirty[i] = nil
		f.settle()
	}
	l.dirty = l.dirty[:0]
	if cap(l.dirty) > 4096 {
		l.dirty = nil
	}
}

package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Taker is a takeover under way, as the new process sees it.
type Taker struct {
	Build  string // of the old process
	Conns  int    // about how many connections it has
	Live   bool   // chunks may come between connections
	Beside bool   // this process accepts from Run on, and may Ask

	link  *link
	names []string
	fds   []int
}

// Sink is the new process's gateway.
type Sink interface {
	// Begin says that the old process accepts no more, while about so many connections are
	// still to come: those who connect now are for this process. Not called with an old process
	// that goes on accepting. Before all others.
	Begin(conns int)

	// Adopt takes connections over, without serving them yet. It owns the descriptors from then
	// on. refused are those that it does not understand, whose descriptors it has closed.
	// commit has the others served; discard closes their descriptors, for they go on in the old
	// process.
	Adopt(fds []int, states [][]byte) (refused []int, commit, discard func())

	// Chunk takes state over that belongs to no connection. Names that it does not know are
	// errors. Connections that were sent after it are adopted after it.
	Chunk(name string, data []byte) error

	// Accept begins to accept, or accepts on, when all have come.
	Accept() error

	// Alone says that the old process has ended, so that no chunk comes any more. After Accept.
	// Any goroutine.
	Alone()
}

// Upgrade asks the process at path to start the one that takes over from it, and waits for the
// outcome: nil when it has taken over. ErrNobody: no process is there.
func Upgrade(ctx context.Context, path string) error {
	conn, err := Dial(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	l := &link{conn: conn}
	if err = l.send(kindUpgrade, nil, nil, time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	m, err := l.receive(time.Time{})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("takeover: the process ended without saying how the upgrade went: %w", err)
	}
	m.closeAll()
	if m.kind != kindReady {
		return unexpected(m)
	}
	return nil
}

// Connect asks the process at path for all it has. ErrNobody: there is none. Another error: it
// refuses, or is of another user; nothing has moved.
func Connect(path, build, app string) (*Taker, error) {
	conn, err := Dial(path)
	if err != nil {
		return nil, err
	}
	t, err := connect(conn, build, app)
	if err != nil {
		_ = conn.Close()
	}
	return t, err
}

func connect(conn *net.UnixConn, build, app string) (*Taker, error) {
	t := &Taker{link: &link{conn: conn}}
	h := hello{oldest: oldestVersion, newest: newestVersion, build: build, app: app}
	deadline := time.Now().Add(helloTimeout)
	if err := t.link.send(kindHello, h.append(nil), nil, deadline); err != nil {
		return nil, err
	}
	m, err := t.link.receive(deadline)
	if err != nil {
		return nil, fmt.Errorf("takeover: the old process does not answer: %w", err)
	}
	defer m.closeAll()
	var w welcome
	if m.kind != kindWelcome {
		return nil, unexpected(m)
	}
	if err = w.parse(m.payload); err != nil {
		return nil, err
	}
	if w.version < oldestVersion || w.version > newestVersion {
		return nil, fmt.Errorf("takeover: the old process chose version %d of the protocol", w.version)
	}
	t.Build, t.Conns = w.build, w.conns
	t.Live, t.Beside = w.version >= versionLive, w.version >= versionBeside
	if err = t.receiveListeners(deadline); err != nil {
		t.closeListeners()
		return nil, err
	}
	return t, nil
}

func (t *Taker) receiveListeners(deadline time.Time) error {
	for {
		m, err := t.link.receive(deadline)
		if err != nil {
			return fmt.Errorf("takeover: listeners: %w", err)
		}
		var names []string
		if m.kind == kindListeners {
			names, err = parseStrings(m.payload)
		} else {
			err = unexpected(m)
		}
		if err == nil && len(names) != len(m.fds) {
			err = fmt.Errorf("takeover: %d listeners with %d descriptors", len(names), len(m.fds))
		}
		if err != nil {
			m.closeAll()
			return err
		}
		t.names, t.fds = append(t.names, names...), append(t.fds, m.fds...)
		if len(m.fds) < maxDescriptors {
			return nil
		}
	}
}

// Listener takes the next listening socket of that name; false when there is none. The caller owns
// it. Before Run; those that nobody has taken by then are closed.
func (t *Taker) Listener(name string) (fd int, ok bool) {
	for i, n := range t.names {
		if n == name && t.fds[i] >= 0 {
			fd, t.fds[i] = t.fds[i], -1
			return fd, true
		}
	}
	return -1, false
}

func (t *Taker) closeListeners() {
	for i, fd := range t.fds {
		if fd >= 0 {
			_ = unix.Close(fd)
			t.fds[i] = -1
		}
	}
}

// Close gives up before Run: nothing has moved.
func (t *Taker) Close() {
	t.closeListeners()
	_ = t.link.conn.Close()
}

// Ask asks the old process about the state with this name, when Beside is set; see Handover.Ask.
// From Run on, until Sink.Alone. Any goroutine.
func (t *Taker) Ask(name string, question []byte) error {
	return t.link.send(kindAsk, chunk{name, question}.append(nil), nil, time.Now().Add(stepTimeout))
}

// errAbandoned: the old process is gone, and what it had acknowledged to us is all there is.
var errAbandoned = errors.New("takeover: the old process ended in the middle")

// silence is how long the old process may send nothing while connections finish what they do.
const silence = 60 * time.Second

// Run takes everything over. When the old process ends on the way, the new one goes on with what it
// has, and Run returns nil after a warning. With an error this process must end: the old one goes
// on with all that it did not hand over. Until the old process has ended, or ctx, a goroutine goes
// on to take its answers.
func (t *Taker) Run(ctx context.Context, sink Sink, log *slog.Logger) error {
	follows := false
	stop := context.AfterFunc(ctx, func() { _ = t.link.conn.Close() })
	end := func() {
		stop()
		_ = t.link.conn.Close()
	}
	defer func() {
		if !follows {
			end()
		}
	}()
	t.closeListeners()
	if err := t.link.send(kindBegin, nil, nil, time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	if t.Beside {
		sink.Begin(t.Conns)
	}
	r := &receiver{link: t.link, sink: sink}
	err := r.all()
	r.adopting.Wait()
	if err == nil {
		err = r.err
	}
	switch {
	case err == nil:
	case errors.Is(err, errAbandoned):
		log.Warn("the old process ended in the middle of the takeover, going on with what it gave",
			"connections", r.taken)
	default:
		return err
	}
	if accept := sink.Accept(); accept != nil {
		return accept
	}
	if err == nil {
		// The old process keeps nothing once this is written.
		if err = t.link.send(kindReady, nil, nil, time.Now().Add(stepTimeout)); err != nil && !closedWrite(err) {
			return err
		}
	}
	log.Info("took over", "connections", r.taken, "refused", r.refused, "from", t.Build)
	if follows = err == nil && t.Beside; !follows {
		sink.Alone()
		return nil
	}
	go func() {
		defer end()
		if err := r.follow(); err != nil {
			log.Warn("what the old process said last is not understood", "error", err)
		}
		sink.Alone()
	}()
	return nil
}

// receiver is the part of Run that reads.
type receiver struct {
	link     *link
	sink     Sink
	adopting sync.WaitGroup

	mu             sync.Mutex // one acknowledgement at a time
	err            error      // the first that went wrong
	taken, refused int
}

func (r *receiver) all() error {
	for {
		m, err := r.link.receive(time.Now().Add(silence))
		if closedByPeer(err) {
			return errAbandoned
		}
		if err != nil {
			return err
		}
		switch m.kind {
		case kindBatch:
			var t batch
			if err = t.parse(m.payload); err == nil && len(t.states) != len(m.fds) {
				err = fmt.Errorf("takeover: %d connections with %d descriptors", len(t.states), len(m.fds))
			}
			if err != nil {
				m.closeAll()
				return err
			}
			r.adopting.Go(func() {
				r.adopt(t, m.fds)
				clear(m.payload)
			})
		case kindChunk:
			m.closeAll()
			if err = r.chunk(m); err != nil {
				return err
			}
		case kindDone:
			m.closeAll()
			return nil
		default:
			m.closeAll()
			return unexpected(m)
		}
	}
}

func (r *receiver) chunk(m message) error {
	var c chunk
	if err := c.parse(m.payload); err != nil {
		return err
	}
	return r.sink.Chunk(c.name, c.data)
}

// follow takes answers until the old process ends.
func (r *receiver) follow() error {
	for {
		m, err := r.link.receive(time.Time{})
		if err != nil {
			return nil
		}
		m.closeAll()
		if m.kind != kindChunk {
			return unexpected(m)
		}
		if err = r.chunk(m); err != nil {
			return err
		}
	}
}

// adopt takes one batch. The connections are served only once the acknowledgement is written: until
// then the old process may have to go on with them.
func (r *receiver) adopt(t batch, fds []int) {
	refused, commit, discard := r.sink.Adopt(fds, t.states)
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.link.send(kindAck, ack{t.number, refused}.append(nil), nil, time.Now().Add(stepTimeout))
	if err != nil && !closedWrite(err) {
		r.err = errors.Join(r.err, err)
		discard()
		return
	}
	// A stream that the old process has closed: it is gone, and these are nobody's but ours.
	// One that gives up ends us first.
	commit()
	r.taken += len(t.states) - len(refused)
	r.refused += len(refused)
}

func closedWrite(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ClientCommand is the hidden argument with which the harness starts its own program again as the
// client, whose main must then call ServeClient: a process with a WebSocket implementation that the
// gateway does not use, which survives whatever is done to the others.
const ClientCommand = "faults-client"

// clientSpec is what the client is told first.
type clientSpec struct {
	Journal  string        // file to write
	Targets  []string      // host:port of gateways
	Sessions int           // how many
	First    string        // id of the first of them; empty for any
	Slots    int           // connections that each session holds at once
	Roam     bool          // also with several slots, each life is at another gateway
	Pause    time.Duration // mean pause of a connection between bursts of 1 to 8 messages
	Window   int           // messages that a connection may be owed an acknowledgement for
	Life     time.Duration // mean life of a connection before it ends itself, one way or another; 0: for ever
}

// order is what the client is told to do; it answers each with a report when it is done.
type order struct {
	Do      string // targets, life, cut, away, back, losing, lost, counted, caught-up, stats, finish
	Targets []string
	Life    time.Duration
	Share   float64       // away: of the sessions
	Within  time.Duration // counted, caught-up, finish
}

// report is how the client stands.
type report struct {
	Error                 string
	Sent, Acked           int64
	Opened, Over, Refused int64         // connections welcomed; of those, ended by somebody else; attempts that came to nothing
	Open                  int64         // now
	First, All            time.Duration // caught-up: until the first acknowledgement, and until that of all that was sent before
}

// client holds all sessions. The counters are read by the harness's orders.
type client struct {
	spec clientSpec
	j    *journal

	mu      sync.Mutex
	targets []string
	life    time.Duration

	slots     []*slot
	finishing atomic.Bool
	wg        sync.WaitGroup
	conns     atomic.Int64 // numbers given to connections

	sent, acked, opened, over, refused, open atomic.Int64
}

// ServeClient is the client's process: it obeys orders on in and reports on out, until in ends.
func ServeClient(in io.Reader, out io.Writer) error {
	orders, reports := json.NewDecoder(in), json.NewEncoder(out)
	var spec clientSpec
	if err := orders.Decode(&spec); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	f, err := os.Create(spec.Journal)
	if err != nil {
		return err
	}
	defer f.Close()
	c := &client{spec: spec, j: newJournal(f), targets: spec.Targets, life: spec.Life}
	c.start()
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return nil // the harness is gone
		}
		err := c.obey(o)
		if o.Do == "finish" {
			if ferr := c.j.flush(); err == nil {
				err = ferr
			}
		}
		r := c.report(o)
		if err != nil {
			r.Error = err.Error()
		}
		if err := reports.Encode(r); err != nil {
			return nil
		}
	}
}

func (c *client) start() {
	for i := range c.spec.Sessions {
		s := &session{number: i}
		for k := range c.spec.Slots {
			slot := &slot{c: c, s: s, place: k, cut: make(chan struct{}, 1), back: make(chan struct{}, 1)}
			c.slots = append(c.slots, slot)
		}
		// Every second session that can has its id from the gateway; a second connection has to
		// know it before.
		if i == 0 && c.spec.First != "" {
			s.name(c.j, c.spec.First)
		} else if i%2 == 0 || c.spec.Slots > 1 {
			s.name(c.j, newUUID())
		}
	}
	for _, s := range c.slots {
		c.wg.Go(s.live)
	}
}

func (c *client) report(o order) report {
	r := report{
		Sent: c.sent.Load(), Acked: c.acked.Load(), Opened: c.opened.Load(), Over: c.over.Load(),
		Refused: c.refused.Load(), Open: c.open.Load(),
	}
	if o.Do == "caught-up" {
		r.First, r.All = c.caughtUp(o.Within)
	}
	return r
}

func (c *client) obey(o order) error {
	switch o.Do {
	case "stats", "caught-up":
		return nil
	case "targets", "life":
		c.mu.Lock()
		defer c.mu.Unlock()
		if o.Do == "life" {
			c.life = o.Life
		} else {
			c.targets = o.Targets
		}
		return nil
	case "cut":
		for _, s := range c.slots {
			notify(s.cut)
		}
		return nil
	case "away":
		away := c.slots[:int(float64(len(c.slots))*o.Share)]
		for _, s := range away {
			s.away.Store(true)
		}
		return eventually("the sessions have left", 30*time.Second, func() bool {
			for _, s := range away {
				if !s.gone.Load() {
					return false
				}
			}
			return true
		})
	case "back":
		for _, s := range c.slots {
			s.away.Store(false)
			notify(s.back)
		}
		return nil
	case "losing", "lost":
		c.j.put(event{kind: evLoss, n: map[string]uint64{"lost": 1}[o.Do]})
		return nil
	case "counted":
		return c.counted(o.Within)
	case "finish":
		return c.finish(o.Within)
	}
	return fmt.Errorf("unknown order %q", o.Do)
}

// counted waits until every connection has had another acknowledgement of a message that is sent
// from now on.
func (c *client) counted(within time.Duration) error {
	want := map[*slot]int64{}
	for _, s := range c.slots {
		if !s.away.Load() {
			s.renewed.Store(false)
			want[s] = s.sent.Load() + 1
		}
	}
	return eventually("every session has counted again", within, func() bool {
		for s, n := range want {
			if s.acked.Load() >= n || s.renewed.Swap(false) {
				delete(want, s)
			}
		}
		return len(want) == 0
	})
}

// caughtUp measures how long it takes until the first acknowledgement comes, and until all that
// had been sent is acknowledged. It is meant for connections that stay; -1 is what did not come
// in time.
func (c *client) caughtUp(within time.Duration) (first, all time.Duration) {
	began, before := time.Now(), c.acked.Load()
	want := map[*slot]int64{}
	for _, s := range c.slots {
		want[s] = s.sent.Load()
	}
	first = -1
	err := eventually("all is acknowledged", within, func() bool {
		if first < 0 && c.acked.Load() > before {
			first = time.Since(began)
		}
		for s, n := range want {
			if s.acked.Load() >= n {
				delete(want, s)
			}
		}
		return len(want) == 0
	})
	if err != nil {
		return first, -1
	}
	return first, time.Since(began)
}

// finish ends the load: every connection waits for its acknowledgements and leaves, comes back
// once more and leaves again.
func (c *client) finish(within time.Duration) error {
	c.finishing.Store(true)
	for _, s := range c.slots {
		notify(s.back)
	}
	done := make(chan struct{})
	go func() { c.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(within):
		n := 0
		for _, s := range c.slots {
			if !s.done.Load() {
				n++
			}
		}
		return fmt.Errorf("%d of %d connections did not finish within %v", n, len(c.slots), within)
	}
}

// target is the gateway for a connection: another one with every life, unless the session has
// several slots, which then are at different gateways.
func (c *client) target(s *slot, life int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := s.s.number + s.place + s.failures
	if c.spec.Slots == 1 || c.spec.Roam {
		n += life
	}
	return c.targets[n%len(c.targets)]
}

// lifetime draws how long it is until a connection ends itself, or asks again whether it should.
func (c *client) lifetime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == 0 {
		return 100 * time.Millisecond
	}
	return c.life/4 + rand.N(c.life*3/2)
}

// mortal reports whether connections end themselves at present.
func (c *client) mortal() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life > 0
}

// session is one session's name, which its first welcome may have to tell.
type session struct {
	number int
	mu     sync.Mutex
	id     string
}

func (s *session) name(j *journal, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == id {
		return
	}
	s.id = id
	j.put(event{kind: evName, session: s.number, text: id})
}

func (s *session) known() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// eventually asks until ok, and says what did not come about.
func eventually(what string, within time.Duration, ok func() bool) error {
	for end := time.Now().Add(within); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %s", within, what)
		}
	}
	return nil
}

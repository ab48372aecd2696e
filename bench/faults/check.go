package faults

import (
	"fmt"
	"io"
	"strings"
)

// ledger is the journal added up, and what is wrong with it.
//
// As long as Redis keeps what it confirmed, A ≤ R ≤ S must hold for every session, where A is the
// highest total that the client was told, and more where more can be known: a connection that
// ended with a bye leaves nothing uncertain, one that was cut leaves exactly its unacknowledged
// messages.
//
// When Redis forgets, R ≤ S must hold all the same, and each connection's numbers must grow. A is
// then what was told of commits since, and what each process told, from the time on at which a
// connection that it has held all along had a message acknowledged that was sent since: the
// process has restored it by then.
type ledger struct {
	sessions map[int]*sessionLog

	messages, acknowledged uint64

	lost    uint64 // A ≤ R: messages that the client was told are stored, and that are not
	doubled uint64 // R ≤ S: messages counted more than once, and numbers given out more than once
	broken  uint64 // numbers that do not grow, gaps that nobody fills, a second welcome, a wrong bye
	missing uint64 // R = S at rest: messages that the gateways received, and that are not stored

	acksOnly   bool   // A counts acknowledgements: a welcome may tell of commits that wait for replicas
	losing     bool   // the store is being emptied, or put back, on purpose
	losses     int    // times that it was
	forgotten  uint64 // acknowledged messages that went with it
	renumbered uint64 // numbers from before that were given out again
	findings   []string
}

// sessionLog is one session.
type sessionLog struct {
	id       string
	lines    map[int]*line
	open     map[int]*line // those of them that are not over
	told     uint64        // A
	sent     uint64        // S
	acked    uint64        // acknowledgements
	numbers  []uint64      // bit set of the numbers that were acknowledged
	renumber uint64        // numbers up to this may be given out again, because the store forgot them
	lossy    bool          // the store forgot since the session began
}

// line is one connection of a session.
type line struct {
	gateway   uint64 // its port
	told      uint64 // told of the session when it was opened
	uncertain uint64 // messages of earlier connections that may be stored, now or later
	shared    bool   // another connection was open at the same time
	last      uint64 // the total that it was told last
	floor     uint64 // the highest total that its gateway told while it held it
	skipped   uint64 // numbers between two acknowledgements: they belong to other connections
	sent      uint64
	acked     uint64
	before    uint64 // of sent, when the store last forgot
	welcomed  bool
	leaving   bool
	bye       bool
	over      bool
}

// maxFindings bounds what is printed; the counts go on.
const maxFindings = 20

func (l *ledger) find(count *uint64, by uint64, format string, args ...any) {
	*count += by
	if len(l.findings) < maxFindings {
		l.findings = append(l.findings, fmt.Sprintf(format, args...))
	}
}

// ok reports whether every promise was kept.
func (l *ledger) ok() bool { return l.lost+l.doubled+l.broken+l.missing == 0 }

// checkJournal reads the journal and checks all that it can show by itself; settle compares it
// with the store.
func checkJournal(r io.Reader, acksOnly bool) (*ledger, error) {
	l := &ledger{sessions: map[int]*sessionLog{}, acksOnly: acksOnly}
	return l, readJournal(r, l.take)
}

func (l *ledger) take(e event) {
	if e.kind == evLoss {
		if l.losing = e.n == 0; l.losing {
			l.losses++
		}
		for _, a := range l.sessions {
			a.forget()
		}
		return
	}
	a := l.sessions[e.session]
	if a == nil {
		a = &sessionLog{lines: map[int]*line{}, open: map[int]*line{}}
		l.sessions[e.session] = a
	}
	switch e.kind {
	case evName:
		if a.id != "" && a.id != e.text {
			l.find(&l.broken, 1, "session %d was %s and is now %s", e.session, a.id, e.text)
		}
		a.id = e.text
		return
	case evOpen:
		a.opened(e)
		return
	}
	c := a.lines[e.conn]
	if c == nil {
		l.find(&l.broken, 1, "session %d: connection %d was never opened", e.session, e.conn)
		return
	}
	switch e.kind {
	case evWelcome:
		l.welcome(a, c, e)
	case evSend:
		c.sent += e.n
		a.sent += e.n
		l.messages += e.n
	case evAck:
		l.ack(a, c, e)
	case evLeave:
		c.leaving = true
	case evBye:
		l.bye(a, c, e)
	case evOver:
		l.over(a, c, e)
	}
}

// tell notes that c was told a total. proof says that it came with a commit which Redis has taken
// since it last forgot, and with which the gateway restored all that it had told before, to others
// too: but not to those before this one was welcomed, as the gateway may have let go of the session
// in between. What one that is leaving reads may be of that time.
func (l *ledger) tell(a *sessionLog, c *line, total uint64, proof bool) {
	c.floor = max(c.floor, total)
	for _, other := range a.open {
		if other.gateway == c.gateway && other.welcomed && !c.leaving && !c.bye {
			other.floor = max(other.floor, total)
		}
	}
	switch {
	case l.losing:
	case l.acksOnly && proof:
		a.told = max(a.told, total)
	case l.acksOnly:
	case proof:
		a.told = max(a.told, c.floor)
	case !a.lossy:
		a.told = max(a.told, total)
	}
}

// over: a Close of the client's own is answered when everything before it is stored. (In a drain
// the gateway may have stopped listening before; then the code is another.)
func (l *ledger) over(a *sessionLog, c *line, e event) {
	if c.over {
		return
	}
	c.over = true
	delete(a.open, e.conn)
	if c.leaving && c.bye && c.acked < c.sent && strings.Contains(e.text, "close 1000") {
		l.find(&l.lost, c.sent-c.acked, "session %d: connection %d: a bye with %d of %d messages acknowledged", e.session, e.conn, c.acked, c.sent)
	}
}

// forget: the store forgets, in whole or in part. What a connection has sent by now may have been
// stored before, so its acknowledgement does not show that the session is whole again.
func (a *sessionLog) forget() {
	a.lossy, a.told, a.renumber = true, 0, a.sent
	for _, c := range a.open {
		c.told, c.before = 0, c.sent
	}
}

func (a *sessionLog) opened(e event) {
	c := &line{gateway: e.n, told: a.told, uncertain: a.uncertain(), shared: len(a.open) > 0}
	for _, other := range a.open {
		other.shared = true
	}
	a.open[e.conn], a.lines[e.conn] = c, c
}

// uncertain is the number of messages that were sent and not acknowledged, and that may be stored
// all the same.
func (a *sessionLog) uncertain() (n uint64) {
	for _, c := range a.lines {
		if !c.bye {
			n += c.sent - min(c.sent, c.acked)
		}
	}
	return n
}

func (l *ledger) welcome(a *sessionLog, c *line, e event) {
	if c.welcomed {
		l.find(&l.broken, 1, "session %d: connection %d was welcomed twice", e.session, e.conn)
	}
	c.welcomed, c.last = true, e.n
	if e.n < c.told {
		l.find(&l.lost, c.told-e.n, "session %d: connection %d was welcomed with %d, and the client had been told %d before", e.session, e.conn, e.n, c.told)
	}
	if (e.text == "resumed") != (e.n > 0) {
		l.find(&l.broken, 1, "session %d: connection %d was welcomed as %s with a total of %d", e.session, e.conn, e.text, e.n)
	}
	if e.n > a.sent || !c.shared && !a.lossy && e.n > c.told+c.uncertain {
		l.find(&l.doubled, 1, "session %d: connection %d was welcomed with %d; told %d, of %d sent %d were uncertain",
			e.session, e.conn, e.n, c.told, a.sent, c.uncertain)
	}
	if e.n > c.told { // so many of the uncertain ones are stored already, and will not come in between
		c.uncertain -= min(c.uncertain, e.n-c.told)
	}
	l.tell(a, c, e.n, false)
}

func (l *ledger) ack(a *sessionLog, c *line, e event) {
	l.acknowledged++
	c.acked++
	a.acked++
	if !c.welcomed || c.bye {
		l.find(&l.broken, 1, "session %d: connection %d: acknowledgement %d before the welcome or after the bye", e.session, e.conn, e.n)
	}
	if c.acked > c.sent {
		l.find(&l.doubled, 1, "session %d: connection %d: %d acknowledgements for %d messages", e.session, e.conn, c.acked, c.sent)
	}
	if e.n <= c.last {
		l.find(&l.broken, 1, "session %d: connection %d: acknowledgement %d after %d", e.session, e.conn, e.n, c.last)
	} else {
		c.skipped += e.n - c.last - 1
	}
	if others := a.sent - c.sent; !a.lossy && (!c.shared && c.skipped > c.uncertain || c.skipped > others) {
		l.find(&l.broken, 1, "session %d: connection %d: acknowledgement %d after %d, a gap that no other connection can fill", e.session, e.conn, e.n, c.last)
	}
	c.last = max(c.last, e.n)
	l.tell(a, c, e.n, c.acked > c.before)
	switch {
	case e.n > a.sent:
		l.find(&l.doubled, e.n-a.sent, "session %d: connection %d: acknowledgement %d of %d sent", e.session, e.conn, e.n, a.sent)
	case a.first(e.n):
	case e.n <= a.renumber, l.losing:
		l.renumbered++
	default:
		l.find(&l.doubled, 1, "session %d: connection %d: number %d was given out before", e.session, e.conn, e.n)
	}
}

// first notes a number and reports whether it is the first time. n is at most what was sent, so
// the set is bounded.
func (a *sessionLog) first(n uint64) bool {
	for uint64(len(a.numbers)) <= n/64 {
		a.numbers = append(a.numbers, 0)
	}
	bit := uint64(1) << (n % 64)
	known := a.numbers[n/64]&bit != 0
	a.numbers[n/64] |= bit
	return !known
}

// bye: the total that a client leaves with is an acknowledgement too.
func (l *ledger) bye(a *sessionLog, c *line, e event) {
	if !c.welcomed || c.bye {
		l.find(&l.broken, 1, "session %d: connection %d: a bye before the welcome, or a second one", e.session, e.conn)
	}
	if e.n < c.last {
		l.find(&l.lost, c.last-e.n, "session %d: connection %d: the bye says %d after %d", e.session, e.conn, e.n, c.last)
	}
	if e.n > a.sent || !c.shared && !a.lossy && e.n > c.last+c.uncertain-min(c.uncertain, c.skipped) {
		l.find(&l.doubled, 1, "session %d: connection %d: the bye says %d after %d, of %d sent", e.session, e.conn, e.n, c.last, a.sent)
	}
	c.bye = true
	l.tell(a, c, e.n, false) // it may have come while Redis was away, from what the gateway remembers
}

// settle compares the book with what the store holds once things are quiet. stored is by session
// id.
func (l *ledger) settle(stored map[string]uint64) (sum uint64) {
	for i, a := range l.sessions {
		r := stored[a.id]
		sum += r
		if r < a.told {
			l.find(&l.lost, a.told-r, "session %d (%s): %d stored, %d acknowledged: A ≤ R does not hold", i, a.id, r, a.told)
		}
		if r > a.sent {
			l.find(&l.doubled, r-a.sent, "session %d (%s): %d stored, %d sent: R ≤ S does not hold", i, a.id, r, a.sent)
		}
		// The same twice more exactly: every acknowledgement stands for a message of its own.
		if r < a.acked && a.lossy {
			l.forgotten += a.acked - r
		} else if r < a.acked {
			l.find(&l.lost, a.acked-r, "session %d (%s): %d stored, %d messages acknowledged", i, a.id, r, a.acked)
		} else if u := a.uncertain(); r-a.acked > u {
			l.find(&l.doubled, r-a.acked-u, "session %d (%s): %d stored, %d messages acknowledged and %d uncertain", i, a.id, r, a.acked, u)
		}
	}
	return sum
}

// reconcile compares what the store holds with what the gateways say they received: once quiet it
// is the same, unless the store forgot.
func (l *ledger) reconcile(stored, received uint64) {
	if stored < received && l.losses == 0 {
		l.find(&l.missing, received-stored, "the gateways received %d messages and %d are stored", received, stored)
	}
	if stored > received {
		l.find(&l.doubled, stored-received, "the gateways received %d messages and %d are stored", received, stored)
	}
}

package topics

import (
	"errors"
	"sync"

	"sluice/gateway"
)

// Loop is a Hub on one loop of the Server. All its methods are for that loop: for the Handler's
// methods, and for functions given to Conn.Post.
type Loop struct {
	hub  *Hub
	post func(fn func()) bool

	conns  map[*gateway.Conn]*subscriber
	locals map[string]*local
	table  []*local // by place.topic
	unused []uint32 // free indexes of table

	active    []*local        // that have something to send, in turn
	late      []*gateway.Conn // that have room again, and topics that are behind, in turn
	scheduled bool            // run is posted

	recoveries map[recoveryKey]*recovery // of entries with slotHeld

	inbox inbox

	taken     []delivery // inbox.list's other half
	delivered int        // counted, and not published as a metric yet

	// Made once: run is turn, receive is take and turn, onDrained is drained.
	run, receive func()
	onDrained    func(c *gateway.Conn)
}

// subscriber is a connection's part: where its subscriptions are.
type subscriber struct {
	places  []place
	last    uint32 // the place that had its turn in catchUp
	waiting bool   // it is in Loop.late, or the connection tells when its queue is empty
}

// place finds a subscription among its topic's.
type place struct {
	topic uint32 // in Loop.table
	index uint32 // in local.entries
}

// inbox is what other goroutines have published for a loop.
type inbox struct {
	mu     sync.Mutex // taken after a shard's
	list   []delivery
	posted bool
}

type delivery struct {
	to *local
	m  *message
}

func newLoop(h *Hub, post func(fn func()) bool) *Loop {
	l := &Loop{
		hub: h, post: post,
		conns: make(map[*gateway.Conn]*subscriber), locals: make(map[string]*local),
		recoveries: make(map[recoveryKey]*recovery),
	}
	l.onDrained = l.drained
	l.run = func() {
		l.scheduled = false
		l.turn()
	}
	l.receive = func() {
		l.take()
		l.turn()
	}
	return l
}

// Subscribe adds a subscription, which ends with Unsubscribe or DropAll. From then on c gets what
// is published to the topic; what was published before and is still on its way may come too. With
// Redis a topic that is new in this process begins when Redis has answered, some milliseconds
// later: see SubscribeFrom. To subscribe twice does nothing. Errors: ErrName, ErrTooMany, ErrFull,
// ErrClosed.
func (l *Loop) Subscribe(c *gateway.Conn, name string) error {
	_, _, err := l.add(c, name)
	if err == errSubscribed {
		return nil
	}
	return err
}

// errSubscribed is what add returns when there is nothing to add.
var errSubscribed = errors.New("topics: the connection is subscribed to the topic already")

// add makes a subscription of c to a topic, the last of the topic's entries.
func (l *Loop) add(c *gateway.Conn, name string) (lo *local, e *entry, err error) {
	if c.Closed() {
		return nil, nil, ErrClosed
	}
	sub := l.conns[c]
	if lo = l.locals[name]; lo != nil {
		if sub != nil && sub.find(lo) >= 0 {
			return nil, nil, errSubscribed
		}
	} else if err := CheckName(name); err != nil {
		refusedName.Inc()
		return nil, nil, err
	}
	if sub != nil && len(sub.places) >= l.hub.cfg.MaxPerConn {
		refusedFull.Inc()
		return nil, nil, ErrTooMany
	}
	if l.hub.subscriptions.Add(1) > int64(l.hub.cfg.MaxSubscriptions) {
		l.hub.subscriptions.Add(-1)
		refusedFull.Inc()
		return nil, nil, ErrFull
	}
	if lo == nil {
		if lo, err = l.hub.attach(l, name); err != nil {
			l.hub.subscriptions.Add(-1)
			refusedFull.Inc()
			return nil, nil, err
		}
		l.enter(lo)
	}
	if sub == nil {
		sub = new(subscriber)
		l.conns[c] = sub
	}
	subscriptionsHeld.Add(1)
	sub.places = append(roomFor(sub.places, 2), place{lo.id, uint32(len(lo.entries))})
	lo.entries = append(roomFor(lo.entries, 1+len(lo.entries)/8),
		entry{conn: c, slot: uint32(len(sub.places) - 1), next: lo.log.head()})
	lo.count.Store(int32(len(lo.entries)))
	return lo, &lo.entries[len(lo.entries)-1], nil
}

// roomFor returns list with room for one more, and when it has to be moved, for more of them.
// append and slices.Grow would double a short list: of a million subscriptions half would be room.
func roomFor[T any](list []T, more int) []T {
	if len(list) < cap(list) {
		return list
	}
	return append(make([]T, 0, len(list)+more), list...)
}

// enter gives lo a place in the table.
func (l *Loop) enter(lo *local) {
	if n := len(l.unused); n > 0 {
		lo.id = l.unused[n-1]
		l.unused = l.unused[:n-1]
		l.table[lo.id] = lo
	} else {
		lo.id = uint32(len(l.table))
		l.table = append(l.table, lo)
	}
	l.locals[lo.topic.name] = lo
}

func (s *subscriber) find(lo *local) int {
	for i, p := range s.places {
		if p.topic == lo.id {
			return i
		}
	}
	return -1
}

// Unsubscribe ends the subscription of c to a topic; there need not be one. What was published
// before and has not been sent yet is not sent any more.
func (l *Loop) Unsubscribe(c *gateway.Conn, name string) {
	sub, lo := l.conns[c], l.locals[name]
	if sub == nil || lo == nil {
		return
	}
	if at := sub.find(lo); at >= 0 {
		l.remove(sub, at)
	}
	if len(sub.places) == 0 {
		delete(l.conns, c)
	}
}

// DropAll ends all subscriptions of c: call it in Handler.Closed. Later calls, and those for a
// connection without subscriptions, do nothing.
func (l *Loop) DropAll(c *gateway.Conn) {
	sub := l.conns[c]
	if sub == nil {
		return
	}
	for len(sub.places) > 0 {
		l.remove(sub, len(sub.places)-1)
	}
	delete(l.conns, c)
}

// remove ends the subscription at a place of sub.
func (l *Loop) remove(sub *subscriber, at int) {
	p := sub.places[at]
	lo := l.table[p.topic]
	if e := &lo.entries[p.index]; e.slot&slotHeld != 0 {
		l.abandon(recoveryKey{e.conn, lo})
	}
	lo.remove(int(p.index))
	last := len(sub.places) - 1
	if at != last {
		moved := sub.places[last]
		sub.places[at] = moved
		l.table[moved.topic].entries[moved.index].setSlot(uint32(at))
	}
	sub.places = sub.places[:last]
	l.hub.subscriptions.Add(-1)
	subscriptionsHeld.Add(-1)
	if len(lo.entries) == 0 {
		l.leave(lo)
	}
}

// leave lets go of a topic without subscribers on this loop.
func (l *Loop) leave(lo *local) {
	l.hub.detach(lo)
	lo.drop()
	delete(l.locals, lo.topic.name)
	l.table[lo.id] = nil
	l.unused = append(l.unused, lo.id)
}

// Subscribed lists the topics of c, in no order.
func (l *Loop) Subscribed(c *gateway.Conn) []string {
	sub := l.conns[c]
	if sub == nil {
		return nil
	}
	names := make([]string, len(sub.places))
	for i, p := range sub.places {
		names[i] = l.table[p.topic].topic.name
	}
	return names
}

// IsSubscribed reports whether c has a subscription to the topic.
func (l *Loop) IsSubscribed(c *gateway.Conn, name string) bool {
	sub, lo := l.conns[c], l.locals[name]
	return sub != nil && lo != nil && sub.find(lo) >= 0
}

// Publish is Hub.Publish from a Handler. When from is subscribed to the topic itself, the message
// reaches it in order with what the Handler sends it: after what it has sent already, before what
// it sends next. from may be nil. With Redis there is no such order, because the message comes back
// from there.
func (l *Loop) Publish(from *gateway.Conn, name string, m Message) error {
	h := l.hub
	if h.broker != nil {
		return h.Publish(name, m)
	}
	if err := h.check(name, &m); err != nil {
		return err
	}
	if _, err := h.publish(name, encode(m), l); countPublished(err) != nil {
		return err
	}
	l.take()
	if sub, lo := l.conns[from], l.locals[name]; from != nil && sub != nil && lo != nil {
		if at := sub.find(lo); at >= 0 {
			l.bring(lo, int(sub.places[at].index), lo.log.head())
		}
	}
	l.schedule()
	return nil
}

// enqueue hands m to the loop. The topic's shard is locked, which keeps the order. own says that it
// is the loop itself which calls, and will take it.
func (l *Loop) enqueue(lo *local, m *message, own bool) {
	in := &l.inbox
	in.mu.Lock()
	in.list = append(in.list, delivery{lo, m})
	post := !own && !in.posted
	in.posted = in.posted || post
	in.mu.Unlock()
	if post {
		l.post(l.receive)
	}
}

// take moves what was published into the logs of its topics.
func (l *Loop) take() {
	in := &l.inbox
	in.mu.Lock()
	l.taken, in.list = in.list, l.taken[:0]
	in.posted = false
	in.mu.Unlock()
	for i, d := range l.taken {
		l.taken[i] = delivery{}
		if d.to.gone {
			l.hub.release(d.m.size())
			continue
		}
		d.to.log.push(d.m)
		d.to.last = d.m.seq
		l.activate(d.to)
	}
	if cap(l.taken) > 4096 { // one storm must not hold its memory for good
		l.taken = nil
	}
}

func (l *Loop) activate(lo *local) {
	if !lo.active {
		lo.active = true
		l.active = append(l.active, lo)
	}
}

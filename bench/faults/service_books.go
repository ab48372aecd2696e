package faults

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// serviceBooks has what clients said, what the service heard, what was published and what came of
// it. Any goroutine.
type serviceBooks struct {
	mu     sync.Mutex
	lives  map[string]*serviceLife // by name
	opened map[string]bool         // connections that the service was told of: whether of their end
	names  map[string]string       // of lives, by connection
	killed map[string]bool         // gateways that were killed, by address

	taken [2][]bool // of each topic: whether publication i was taken
	tally serviceTally
}

// serviceLife is one connection of a client.
type serviceLife struct {
	gateway string
	said    int // messages 0 to said-1 were written to the socket
	heard   int // the service has heard so many
	next    int // of the service: one more than the highest it has heard
	over    bool

	last [2]int // of each topic: the publication that came last, -1 for none
	gap  [2]bool
}

// serviceTally is what a run came to. The first numbers are messages to the service.
type serviceTally struct {
	said, heard int
	closed      int // not heard, and their connection was closed: the client knows
	lost        int // not heard on a connection that stayed open
	doubled     int
	reordered   int
	untold      int // connections of whose end the service was not told, though their gateway lives

	published, delivered     int // publications that were taken; messages that came
	told                     int // taken, and missing where a gap was told
	silent, twice, backwards int // missing without; double; behind a later one
}

func (t *serviceTally) add(o serviceTally) {
	for _, n := range [...]struct{ to, from *int }{
		{&t.said, &o.said}, {&t.heard, &o.heard}, {&t.closed, &o.closed}, {&t.lost, &o.lost},
		{&t.doubled, &o.doubled}, {&t.reordered, &o.reordered}, {&t.untold, &o.untold},
		{&t.published, &o.published}, {&t.delivered, &o.delivered}, {&t.told, &o.told},
		{&t.silent, &o.silent}, {&t.twice, &o.twice}, {&t.backwards, &o.backwards},
	} {
		*n.to += *n.from
	}
}

// broken reports whether a promise was not kept.
func (t *serviceTally) broken() bool {
	return t.lost+t.doubled+t.reordered+t.untold+t.silent+t.twice+t.backwards > 0
}

func newServiceBooks() *serviceBooks {
	return &serviceBooks{lives: map[string]*serviceLife{}, opened: map[string]bool{},
		names: map[string]string{}, killed: map[string]bool{}}
}

// born notes a connection.
func (b *serviceBooks) born(name, gateway string) *serviceLife {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &serviceLife{gateway: gateway, last: [2]int{-1, -1}}
	b.lives[name] = l
	return l
}

// saying notes that a client is about to write its next message, which it returns.
func (b *serviceBooks) saying(name string, l *serviceLife) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.said++
	return fmt.Appendf(nil, "%s %d", name, l.said-1)
}

// heard notes an event of the service.
func (b *serviceBooks) heard(connection, kind string, content []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch kind {
	case "OPEN":
		b.opened[connection] = false
		return
	case "CLOSE", "DISCONNECT":
		b.opened[connection] = true
		return
	case "TEXT":
	default:
		return
	}
	name, number, _ := bytes.Cut(content, []byte(" "))
	n, err := strconv.Atoi(string(number))
	l := b.lives[string(name)]
	if l == nil || err != nil {
		b.tally.doubled++ // nobody has said this
		return
	}
	b.names[connection] = string(name)
	switch {
	case n >= l.next: // what is missing between them can still come, and is out of order then
		l.heard++
		l.next = n + 1
	case n == l.next-1:
		b.tally.doubled++
	default:
		b.tally.reordered++
	}
}

// came notes what a client was sent.
func (b *serviceBooks) came(l *serviceLife, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if strings.HasPrefix(text, `{"type":"gap","topic":"room-`) {
		l.gap[text[len(`{"type":"gap","topic":"room-`)]&1] = true
		return
	}
	var topic, n int
	if k, _ := fmt.Sscanf(text, "publication %d %d", &topic, &n); k != 2 {
		return // an echo
	}
	b.tally.delivered++
	last := l.last[topic]
	switch {
	case n == last:
		b.tally.twice++
		return
	case n < last:
		b.tally.backwards++
		return
	case last >= 0:
		for i := last + 1; i < n; i++ {
			b.missed(l, topic, i)
		}
	}
	l.last[topic], l.gap[topic] = n, false
}

func (b *serviceBooks) missed(l *serviceLife, topic, i int) {
	switch {
	case !b.taken[topic][i]:
	case l.gap[topic]:
		b.tally.told++
	default:
		b.tally.silent++
	}
}

// publishing numbers the next publication of a topic.
func (b *serviceBooks) publishing(topic int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken[topic] = append(b.taken[topic], false)
	return len(b.taken[topic]) - 1
}

func (b *serviceBooks) took(topic, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken[topic][n] = true
	b.tally.published++
}

// died notes the end of a connection.
func (b *serviceBooks) died(l *serviceLife) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.over = true
}

// arrived reports whether all that was said on connections that are open was heard, and whether
// each of them has the last publication of both topics.
func (b *serviceBooks) arrived() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lives {
		if l.over {
			continue
		}
		if l.heard < l.said {
			return false
		}
		for topic, last := range l.last {
			if last < len(b.taken[topic])-1 {
				return false
			}
		}
	}
	return true
}

// lost counts what was said on connections that are open, and not heard.
func (b *serviceBooks) lost() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lives {
		if !l.over {
			b.tally.lost += l.said - l.heard
		}
	}
}

// untold is how many ends of connections the service has not been told, of gateways that live.
func (b *serviceBooks) untold() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for connection, told := range b.opened {
		switch l := b.lives[b.names[connection]]; {
		case told, l != nil && b.killed[l.gateway]:
		case l == nil && len(b.killed) > 0: // it has said nothing, so nobody knows where it was
		default:
			n++
		}
	}
	return n
}

// settle adds it all up, when all connections are over.
func (b *serviceBooks) settle() serviceTally {
	untold := b.untold()
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tally
	t.untold = untold
	for _, l := range b.lives {
		t.said += l.said
		t.heard += l.heard
		t.closed += l.said - l.heard
	}
	t.closed -= t.lost
	return t
}

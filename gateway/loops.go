package gateway

import (
	"sync/atomic"
	"time"
)

// LoopSnapshot is what one loop holds and has done, as of the end of its last round.
type LoopSnapshot struct {
	Connections int // sockets held, in whatever state
	Buffered    int // bytes of partial input and unsent output

	// Since the start. Messages are data messages; those sent include the text frames of
	// heartbeats.
	MessagesReceived, MessagesSent int
	BytesReceived, BytesSent       int
	Heartbeats                     int

	// Busy is how long the loop has run since it was made, and not waited for events. Two snapshots
	// give the share: the difference of Busy over that of the clock.
	Busy time.Duration

	// Lag is how late the loop came to its timers when it last woke up for them.
	Lag time.Duration
}

// Loops is a snapshot of each loop, in an order that does not change. Any goroutine; it does not
// disturb the loops.
func (s *Server) Loops() []LoopSnapshot {
	snapshots := make([]LoopSnapshot, len(s.workers))
	for i, w := range s.workers {
		n := w.published.load()
		snapshots[i] = LoopSnapshot{
			Connections: n.conns, Buffered: n.buffered,
			MessagesReceived: n.messagesReceived, MessagesSent: n.messagesSent,
			BytesReceived: n.bytesReceived, BytesSent: n.bytesSent,
			Heartbeats: n.heartbeats,
			Busy:       w.loop.Busy(), Lag: w.loop.Lag(),
		}
	}
	return snapshots
}

// loopTotals is what a loop counts. The loop adds to its own and publishes them once a round, so
// that loops do not pass a cache line back and forth with each message.
type loopTotals struct {
	messagesReceived, messagesSent, bytesReceived, bytesSent, heartbeats int

	conns, buffered int // held now
}

func (n *loopTotals) add(m loopTotals) {
	n.messagesReceived += m.messagesReceived
	n.messagesSent += m.messagesSent
	n.bytesReceived += m.bytesReceived
	n.bytesSent += m.bytesSent
	n.heartbeats += m.heartbeats
	n.conns += m.conns
	n.buffered += m.buffered
}

// publishedTotals is loopTotals for other goroutines. The loop alone writes it.
type publishedTotals struct {
	last loopTotals // the loop only

	messagesReceived, messagesSent, bytesReceived, bytesSent, heartbeats atomic.Int64

	conns, buffered atomic.Int64
}

func (p *publishedTotals) publish(n loopTotals) {
	if n == p.last {
		return
	}
	p.last = n
	p.messagesReceived.Store(int64(n.messagesReceived))
	p.messagesSent.Store(int64(n.messagesSent))
	p.bytesReceived.Store(int64(n.bytesReceived))
	p.bytesSent.Store(int64(n.bytesSent))
	p.heartbeats.Store(int64(n.heartbeats))
	p.conns.Store(int64(n.conns))
	p.buffered.Store(int64(n.buffered))
}

func (p *publishedTotals) load() loopTotals {
	return loopTotals{
		messagesReceived: int(p.messagesReceived.Load()), messagesSent: int(p.messagesSent.Load()),
		bytesReceived: int(p.bytesReceived.Load()), bytesSent: int(p.bytesSent.Load()),
		heartbeats: int(p.heartbeats.Load()),
		conns:      int(p.conns.Load()), buffered: int(p.buffered.Load()),
	}
}

package topics

import (
	"crypto/rand"
	"sync"

	"github.com/tinylib/msgp/msgp"
)

// Publications go on while subscribers move to another process. The old process puts them into
// their order until the end. It delivers each to the subscribers that it still has and passes it on
// to the new process, which delivers it to those that have arrived and keeps it for those that are
// still to come. Messages have numbers, so that one who arrives knows which it was sent before it
// left.
//
//	old: Give … Pack, Relayed … Export, then Forget, or Thaw when it has come to nothing
//	new: Take … Import, Unpack … Thaw

// relay is what the old process passes on.
type relay struct {
	send func(chunk []byte) error
	wake chan struct{} // has room for one
	stop chan struct{}

	carries bool // the other process takes word of what a broker brings

	sending sync.Mutex // one chunk at a time, in order; taken before mu
	err     error      // why no more can be sent

	mu     sync.Mutex // taken after a shard's
	chunks [][]byte   // not sent yet
	left   int64      // bytes that may still be passed on, for the new process keeps all of them
}

// Give begins to give subscribers away: until Export, or Thaw, send gets in pieces, for Import in
// the other process, what is published here, and with carry which topics a broker or a source
// brings to this process, for the other's Take with it. When that is more than Config.MaxPending,
// what is published by this process waits, as in a Freeze, and what a broker or a source brings is
// refused. send is called by one goroutine at a time. Any goroutine.
func (h *Hub) Give(send func(chunk []byte) error, carry bool) {
	r := &relay{
		send: send, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		left: int64(h.cfg.MaxPending), carries: carry,
	}
	h.giving.Store(r)
	h.eachShard(func(s *shard) {
		s.relay = r
		if !h.fed() {
			return
		}
		for name, t := range s.topics {
			if len(t.locals) > 0 {
				r.carry(name)
			}
		}
	})
	if carry {
		token := rand.Text()
		h.eachFeed(func(f *feed) { f.takePart(token, cutGiving) })
		r.record(0, func(b []byte) []byte {
			return msgp.AppendString(msgp.AppendInt(msgp.AppendArrayHeader(b, 2), recordListed), token)
		})
	}
	go r.run()
}

// Relayed returns when all that was published before has been sent: a subscriber that was packed
// before, and is sent afterwards, does not overtake it. Not for loops.
func (h *Hub) Relayed() error {
	if r := h.giving.Load(); r != nil {
		return r.flush()
	}
	return nil
}

// keep ends Give: no more is passed on, and what waits to be is forgotten.
func (h *Hub) keep() {
	r := h.giving.Swap(nil)
	if r == nil {
		return
	}
	close(r.stop)
	h.eachShard(func(s *shard) {
		s.relay = nil
		for _, name := range s.unwanted {
			if t := s.topics[name]; t == nil || len(t.locals) == 0 {
				h.wanted(s, name, false)
			}
		}
		s.unwanted = nil
	})
	h.eachFeed((*feed).release)
}

func (r *relay) run() {
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		if r.flush() != nil {
			return // the takeover has failed, and whoever sends the subscribers notices
		}
	}
}

// add passes a message on. Its shard is locked, which keeps the order.
func (r *relay) add(name string, m *message) {
	r.record(m.size(), func(b []byte) []byte {
		b = msgp.AppendArrayHeader(b, 4)
		b = msgp.AppendString(msgp.AppendInt(b, recordLive), name)
		return m.append(msgp.AppendUint64(b, m.seq))
	})
}

// carry says that a broker or a source brings the topic to this process, whose shard is locked.
func (r *relay) carry(name string) {
	if !r.carries {
		return
	}
	r.record(0, func(b []byte) []byte {
		b = msgp.AppendArrayHeader(b, 2)
		return msgp.AppendString(msgp.AppendInt(b, recordCarried), name)
	})
}

// record has a record sent that counts for so many bytes.
func (r *relay) record(size int64, write func(b []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left -= size
	last := len(r.chunks) - 1
	if last < 0 || len(r.chunks[last]) > chunkSize {
		r.chunks = append(r.chunks, nil)
		last++
	}
	r.chunks[last] = write(r.chunks[last])
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// full reports that the new process cannot be burdened with more.
func (r *relay) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left <= 0
}

func (r *relay) flush() error {
	r.sending.Lock()
	defer r.sending.Unlock()
	r.mu.Lock()
	chunks := r.chunks
	r.chunks = nil
	r.mu.Unlock()
	for _, b := range chunks {
		if r.err != nil {
			break
		}
		r.err = r.send(b)
	}
	return r.err
}

// Take has the Hub wait for the subscribers and the publications of another process that gives them
// away: what is published here waits, as in a Freeze, and what a broker or a source brings is
// dropped when the other process passes it on: that of all topics, or with carry, as in Give, of
// those that it names. Others have subscribers here only. Thaw ends it. Any goroutine.
func (h *Hub) Take(carry bool) {
	h.eachShard(func(s *shard) {
		s.frozen = h.broker == nil
		s.passed = make(map[string][]*message)
		if carry {
			s.carried, s.listed = make(map[string]struct{}), false
		}
	})
}

// carries reports whether a broker or a source brings the topic to the other process, or may, for
// all that it has said yet.
func (s *shard) carries(name string) bool {
	if s.carried == nil || !s.listed {
		return true
	}
	_, ok := s.carried[name]
	return ok
}

func (h *Hub) importCarried(b []byte) (rest []byte, err error) {
	name, b, err := readName(b)
	if err != nil {
		return b, err
	}
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.carried == nil {
		return b, errMalformed
	}
	s.carried[name] = struct{}{}
	return b, nil
}

// importLive delivers what the other process has passed on, and keeps it for subscribers that are
// still to come.
func (h *Hub) importLive(b []byte) (rest []byte, err error) {
	name, b, err := readName(b)
	var seq uint64
	if err == nil {
		seq, b, err = msgp.ReadUint64Bytes(b)
	}
	var m *message
	if err == nil {
		m, b, err = readMessage(b, h.cfg.MaxPayload)
	}
	if err != nil {
		return b, err
	}
	m.seq = seq
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed == nil {
		return b, errMalformed
	}
	s.passed[name] = append(s.passed[name], m)
	h.hold(m.size())
	s.seq = max(s.seq, seq)
	t := s.topics[name]
	if t == nil {
		return b, nil // nobody has arrived yet
	}
	if h.broker == nil {
		t.offset = m.offset
	}
	h.hold(m.size() * int64(len(t.locals)))
	t.enqueue(m, nil)
	return b, nil
}

// importListed says that the topics have been named which are carried from the beginning, and how
// markers are called; see cut.
func (h *Hub) importListed(b []byte) (rest []byte, err error) {
	token, b, err := msgp.ReadStringBytes(b)
	if err == nil {
		err = CheckName(token)
	}
	if err != nil {
		return b, err
	}
	h.eachShard(func(s *shard) { s.listed = true })
	h.eachFeed(func(f *feed) { f.takePart(token, cutTaking) })
	return b, nil
}

// missed returns what was passed on of a topic after the message seq, which a subscriber that
// arrives was sent last where it comes from, and the number of the last message there is.
func (h *Hub) missed(name string, seq uint64) (list []*message, last uint64) {
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq = max(s.seq, seq) // what is published here once all is over comes after it
	list = s.passed[name]
	from := len(list)
	for from > 0 && list[from-1].seq > seq {
		from--
	}
	if len(list) > 0 {
		last = list[len(list)-1].seq
	}
	return list[from:], max(last, seq)
}

// allPassed lets go of what was kept for subscribers that were to come: there are no more of them.
// What a broker or a source brings counts from now on.
func (h *Hub) allPassed() {
	h.eachFeed((*feed).passedOn)
	h.eachShard(func(s *shard) {
		for name := range s.carried {
			h.feedsOf(name, func(f *feed) { f.dropUntilMarker(name) })
		}
		for _, list := range s.passed {
			for _, m := range list {
				h.release(m.size())
			}
		}
		s.passed, s.carried = nil, nil
	})
	h.eachFeed((*feed).release)
}

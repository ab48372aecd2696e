package topics

import (
	"errors"
	"fmt"
	"time"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"

	"sluice/gateway"
)

// Subscribers can move to another process that runs the same topics (see gateway.Mover): the Hub is
// frozen, so that nothing new is published; each connection's subscriptions are packed with what it
// has not been sent yet; and at the end the histories and what has waited follow (Export). The
// other process' Hub is frozen until it has imported them. All of it is MessagePack.

// CanMove reports whether Pack can say all of c's subscriptions now. It cannot while a history is
// being read, and while messages of which c is to be told that they are lost have not been told.
func (l *Loop) CanMove(c *gateway.Conn) bool {
	sub := l.conns[c]
	if sub == nil {
		return true
	}
	l.take()
	for _, p := range sub.places {
		lo := l.table[p.topic]
		e := &lo.entries[p.index]
		switch held := e.slot&slotHeld != 0; {
		case int32(lo.log.base-e.next) > 0:
			return false
		case held && !l.recoveries[recoveryKey{c, lo}].read:
			return false
		case !held && e.slot&slotBehind == 0 && e.next != lo.log.head():
			return false // its turn comes
		}
	}
	return true
}

// Pack appends c's subscriptions to b, for Unpack in another process. CanMove was true in the same
// turn of the loop. It changes nothing: DropAll does, when c has gone.
func (l *Loop) Pack(c *gateway.Conn, b []byte) []byte {
	sub := l.conns[c]
	if sub == nil {
		return msgp.AppendArrayHeader(b, 0)
	}
	b = msgp.AppendArrayHeader(b, uint32(len(sub.places)))
	for _, p := range sub.places {
		lo := l.table[p.topic]
		e := &lo.entries[p.index]
		var rest []*message
		if e.slot&slotHeld != 0 {
			rest = l.recoveries[recoveryKey{c, lo}].rest
		}
		b = msgp.AppendArrayHeader(b, 2)
		b = msgp.AppendString(b, lo.topic.name)
		b = msgp.AppendArrayHeader(b, uint32(len(rest))+lo.log.head()-e.next)
		for _, m := range rest {
			b = m.append(b)
		}
		for seq := e.next; seq != lo.log.head(); seq++ {
			b = lo.log.at(seq).append(b)
		}
	}
	return b
}

// Unpack subscribes c to what Pack has written in another process, and returns what follows it.
// Messages that c had not been sent there come before all others of their topic. On an error c is
// subscribed to nothing. With Redis there is a gap until Redis knows of the subscription.
func (l *Loop) Unpack(c *gateway.Conn, b []byte) (rest []byte, err error) {
	defer func() {
		if err != nil {
			l.DropAll(c)
			err = fmt.Errorf("topics: unpack: %w", err)
		}
	}()
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	for ; err == nil && n > 0; n-- {
		var name string
		var pending []*message
		if b, err = readPair(b, &name); err != nil {
			break
		}
		if pending, b, err = readMessages(b, l.hub.cfg.MaxPayload); err != nil {
			break
		}
		var lo *local
		var e *entry
		if lo, e, err = l.add(c, name); err == nil && len(pending) > 0 {
			r := &recovery{read: true, rest: pending}
			e.slot |= slotHeld
			l.recoveries[recoveryKey{c, lo}] = r
			l.hold(r)
			lo.fallBehind(e)
			if sub := l.conns[c]; !sub.waiting {
				l.wait(c)
			}
		}
	}
	return b, err
}

func readPair(b []byte, name *string) (rest []byte, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err == nil && n != 2 {
		err = errMalformed
	}
	if err == nil {
		*name, b, err = msgp.ReadStringBytes(b)
	}
	return b, err
}

var errMalformed = errors.New("malformed state")

// append encodes a message for another process.
func (m *message) append(b []byte) []byte {
	payload := m.close
	if m.op != ws.OpClose {
		payload = m.frame.Payload()
	}
	b = msgp.AppendArrayHeader(b, 3)
	b = msgp.AppendUint64(b, m.offset)
	b = msgp.AppendByte(b, byte(m.op))
	return msgp.AppendBytes(b, payload)
}

// readMessage checks what it reads like anything that is published.
func readMessage(b []byte, most int) (m *message, rest []byte, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err == nil && n != 3 {
		err = errMalformed
	}
	var offset uint64
	var op byte
	var payload []byte
	if err == nil {
		offset, b, err = msgp.ReadUint64Bytes(b)
	}
	if err == nil {
		op, b, err = msgp.ReadByteBytes(b)
	}
	if err == nil {
		payload, b, err = msgp.ReadBytesZC(b)
	}
	if err == nil {
		err = checkPayload(ws.OpCode(op), payload, most)
	}
	if err != nil {
		return nil, b, err
	}
	m = encode(Message{ws.OpCode(op), payload})
	m.offset = offset
	return m, b, nil
}

func readMessages(b []byte, most int) (list []*message, rest []byte, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	for ; err == nil && n > 0; n-- {
		var m *message
		if m, b, err = readMessage(b, most); err == nil {
			list = append(list, m)
		}
	}
	return list, b, err
}

// chunkSize is near what one chunk of Export has.
const chunkSize = 1 << 20

// Export gives send, in pieces, the histories of all topics and then what has waited since Freeze,
// for Import in another process; from then on publishers here get ErrBusy. The Hub must be frozen.
// Until Forget, or after an error, Thaw goes on here. Any goroutine.
func (h *Hub) Export(send func(chunk []byte) error) error {
	if h.broker != nil {
		return nil
	}
	var b []byte
	flush := func(limit int) error {
		if len(b) <= limit {
			return nil
		}
		err := send(b)
		b = nil
		return err
	}
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		for _, t := range s.topics {
			if t.epoch != 0 {
				b = t.appendHistory(b)
			}
		}
		s.mu.Unlock()
		if err := flush(chunkSize); err != nil {
			return err
		}
	}
	if err := flush(0); err != nil {
		return err
	}
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		s.gone = true
		for _, p := range s.held {
			b = msgp.AppendArrayHeader(b, 3)
			b = msgp.AppendInt(b, recordHeld)
			b = msgp.AppendString(b, p.name)
			b = p.m.append(b)
		}
		s.mu.Unlock()
		if err := flush(chunkSize); err != nil {
			return err
		}
	}
	return flush(0)
}

// Kinds of records in a chunk.
const (
	recordHistory = 1
	recordHeld    = 2
)

// appendHistory writes a topic's position and what is kept. Its shard is locked.
func (t *topic) appendHistory(b []byte) []byte {
	b = msgp.AppendArrayHeader(b, 5)
	b = msgp.AppendInt(b, recordHistory)
	b = msgp.AppendString(b, t.name)
	b = msgp.AppendUint64(b, t.epoch)
	b = msgp.AppendUint64(b, t.offset)
	n := 0
	if t.kept != nil {
		n = t.kept.n
	}
	b = msgp.AppendArrayHeader(b, uint32(2*n))
	now := time.Now()
	for i := range n {
		k := t.kept.at(i)
		b = msgp.AppendInt64(b, int64(now.Sub(k.at)))
		b = k.m.append(b)
	}
	return b
}

// Forget lets go of what has waited since Freeze: another process has it, and publishes it there.
// Any goroutine.
func (h *Hub) Forget() {
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		for _, p := range s.held {
			h.release(p.m.size())
		}
		s.held = nil
		s.mu.Unlock()
	}
}

// Import takes a chunk of another process' Export. The Hub must be frozen, and what has waited
// there is published before what waits here. Any goroutine.
func (h *Hub) Import(chunk []byte) error {
	for b := chunk; len(b) > 0; {
		n, rest, err := msgp.ReadArrayHeaderBytes(b)
		var kind int
		if err == nil {
			kind, rest, err = msgp.ReadIntBytes(rest)
		}
		switch {
		case err != nil:
		case kind == recordHistory && n == 5:
			rest, err = h.importHistory(rest)
		case kind == recordHeld && n == 3:
			rest, err = h.importHeld(rest)
		default:
			err = errMalformed
		}
		if err != nil {
			return fmt.Errorf("topics: import: %w", err)
		}
		b = rest
	}
	return nil
}

func (h *Hub) importHistory(b []byte) (rest []byte, err error) {
	name, b, err := msgp.ReadStringBytes(b)
	if err == nil {
		err = CheckName(name)
	}
	var epoch, offset uint64
	if err == nil {
		epoch, b, err = msgp.ReadUint64Bytes(b)
	}
	if err == nil {
		offset, b, err = msgp.ReadUint64Bytes(b)
	}
	if err != nil {
		return b, err
	}
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[name]
	if t == nil {
		if t, err = h.newTopic(s, name, h.cfg.rulesFor(name)); err != nil {
			return b, err
		}
		defer h.forget(s, t) // unless something is kept
	}
	keep := h.broker == nil && t.rules.history.Size > 0
	if keep {
		t.epoch, t.offset = epoch, offset
	}
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	now := time.Now()
	for ; err == nil && n > 1; n -= 2 {
		var age int64
		var m *message
		if age, b, err = msgp.ReadInt64Bytes(b); err == nil {
			m, b, err = readMessage(b, h.cfg.MaxPayload)
		}
		if err == nil && keep {
			h.histories.addAt(t, m, now.Add(-time.Duration(age)))
		}
	}
	if err == nil && n != 0 {
		err = errMalformed
	}
	return b, err
}

func (h *Hub) importHeld(b []byte) (rest []byte, err error) {
	name, b, err := msgp.ReadStringBytes(b)
	if err == nil {
		err = CheckName(name)
	}
	var m *message
	if err == nil {
		m, b, err = readMessage(b, h.cfg.MaxPayload)
	}
	if err != nil {
		return b, err
	}
	m.offset = 0
	h.pending.Add(m.size())
	pendingBytes.Add(m.size())
	s := h.shard(name)
	s.mu.Lock()
	s.imported = append(s.imported, held{name, m})
	s.mu.Unlock()
	return b, nil
}

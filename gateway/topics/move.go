package topics

import (
	"errors"
	"fmt"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"

	"sluice/gateway"
)

// Subscribers can move to another process that runs the same topics (see gateway.Mover): each
// connection's subscriptions are packed with what it has not been sent yet; what is published
// meanwhile is passed on (Give), or waits (Freeze); and at the end the histories and what has
// waited follow (Export). All of it is MessagePack.

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
		if int32(lo.log.base-e.next) > 0 {
			return false
		}
		if e.slot&slotHeld != 0 && !l.recoveries[recoveryKey{c, lo}].read {
			return false
		}
	}
	return true
}

// Pack appends c's subscriptions to b, for Unpack in another process. CanMove was true in the same
// turn of the loop. It changes nothing: DropAll does, when c has gone. What c is sent meanwhile is
// in what was packed, or comes to it in the other process.
func (l *Loop) Pack(c *gateway.Conn, b []byte) []byte {
	sub := l.conns[c]
	if sub == nil {
		return msgp.AppendArrayHeader(b, 0)
	}
	giving := l.hub.giving.Load() != nil
	b = msgp.AppendArrayHeader(b, uint32(len(sub.places)))
	for _, p := range sub.places {
		lo := l.table[p.topic]
		e := &lo.entries[p.index]
		var rest []*message
		if e.slot&slotHeld != 0 {
			rest = l.recoveries[recoveryKey{c, lo}].rest
		}
		if giving {
			b = msgp.AppendArrayHeader(b, 3)
			b = msgp.AppendUint64(b, lo.last)
		} else {
			b = msgp.AppendArrayHeader(b, 2)
		}
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
		var sub packed
		if b, err = sub.read(b, l.hub.cfg.MaxPayload); err == nil {
			err = l.arrive(c, &sub)
		}
	}
	return b, err
}

// arrive subscribes c as it was subscribed in the other process.
func (l *Loop) arrive(c *gateway.Conn, sub *packed) error {
	lo, e, err := l.add(c, sub.name)
	if err != nil {
		return err
	}
	if sub.numbered {
		list, last := l.hub.missed(sub.name, sub.last)
		l.take() // all that has come up to there is in the log now
		e.next = lo.log.afterMessage(last)
		sub.pending = append(sub.pending, list...)
	}
	if len(sub.pending) == 0 {
		return nil
	}
	r := &recovery{read: true, rest: sub.pending}
	e.slot |= slotHeld
	l.recoveries[recoveryKey{c, lo}] = r
	l.hold(r)
	lo.fallBehind(e)
	if s := l.conns[c]; !s.waiting {
		l.wait(c)
	}
	return nil
}

// packed is a subscription as Pack writes it.
type packed struct {
	name     string
	pending  []*message
	numbered bool   // what was published meanwhile has been passed on:
	last     uint64 // all that came behind this one is not in pending
}

func (p *packed) read(b []byte, most int) (rest []byte, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	switch {
	case err != nil:
	case n == 3:
		p.numbered = true
		p.last, b, err = msgp.ReadUint64Bytes(b)
	case n != 2:
		err = errMalformed
	}
	if err == nil {
		p.name, b, err = msgp.ReadStringBytes(b)
	}
	if err == nil {
		p.pending, b, err = readMessages(b, most)
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

package topics

import (
	"fmt"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// What the Hub itself gives to another process, when all subscribers have moved.

// chunkSize is near what one chunk of Export has.
const chunkSize = 1 << 20

// Export gives send, in pieces, the histories of all topics and then what has waited since Freeze,
// for Import in another process; from then on publishers here get ErrBusy. The Hub must be frozen,
// or be giving, which ends. Until Forget, or after an error, Thaw goes on here. Any goroutine.
func (h *Hub) Export(send func(chunk []byte) error) (err error) {
	if h.giving.Load() != nil {
		h.Freeze()
		if err := h.Relayed(); err != nil {
			return err
		}
		h.keep()
		defer func() {
			if err == nil {
				err = send(msgp.AppendInt(msgp.AppendArrayHeader(nil, 1), recordEnd))
			}
		}()
	}
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
	recordLive    = 3
	recordEnd     = 4 // of what is passed on
	recordCarried = 5
	recordListed  = 6 // of what is carried
	recordCut     = 7 // publish the markers; with a channel: the old process has come to this one
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
	h.eachShard(func(s *shard) {
		for _, p := range s.held {
			h.release(p.m.size())
		}
		s.held = nil
	})
}

// Import takes a chunk of another process' Give or Export. The Hub must be frozen, or taking, and
// what has waited there is published before what waits here. One goroutine at a time.
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
		case kind == recordLive && n == 4:
			rest, err = h.importLive(rest)
		case kind == recordCarried && n == 2:
			rest, err = h.importCarried(rest)
		case kind == recordListed && n == 2:
			rest, err = h.importListed(rest)
		case kind == recordCut && n == 1:
			h.importCut()
		case kind == recordCut && n == 2:
			rest, err = h.importCutAt(rest)
		case kind == recordEnd && n == 1:
			h.allPassed()
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

// readName checks the name of a topic that it reads.
func readName(b []byte) (name string, rest []byte, err error) {
	name, rest, err = msgp.ReadStringBytes(b)
	if err == nil {
		err = CheckName(name)
	}
	return name, rest, err
}

func (h *Hub) importHistory(b []byte) (rest []byte, err error) {
	name, b, err := readName(b)
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
	name, b, err := readName(b)
	var m *message
	if err == nil {
		m, b, err = readMessage(b, h.cfg.MaxPayload)
	}
	if err != nil {
		return b, err
	}
	m.offset = 0
	h.hold(m.size())
	s := h.shard(name)
	s.mu.Lock()
	s.imported = append(s.imported, held{name, m})
	s.mu.Unlock()
	return b, nil
}

package topics

import (
	"container/list"
	"sync"
	"time"
)

// history is what a topic keeps in this process: its last messages, the oldest first. It is guarded
// by the lock of the topic's shard.
type history struct {
	kept  []kept // a ring
	first int    // index of the oldest
	n     int
	bytes int64
	place *list.Element // in histories
}

type kept struct {
	m  *message
	at time.Time
}

func (k *history) at(i int) *kept { return &k.kept[(k.first+i)%len(k.kept)] }

func (k *history) add(m *message, now time.Time, size int) {
	if k.n == size {
		k.dropFirst()
	}
	if k.n == len(k.kept) { // grow, but not to a size that is never reached
		bigger := make([]kept, min(max(2*k.n, 4), size))
		for i := range k.n {
			bigger[i] = *k.at(i)
		}
		k.kept, k.first = bigger, 0
	}
	*k.at(k.n) = kept{m, now}
	k.n++
	k.bytes += m.size()
}

func (k *history) dropFirst() {
	k.bytes -= k.at(0).m.size()
	*k.at(0) = kept{}
	k.first = (k.first + 1) % len(k.kept)
	k.n--
}

// expire drops what is older than ttl.
func (k *history) expire(now time.Time, ttl time.Duration) {
	for k.n > 0 && now.Sub(k.at(0).at) >= ttl {
		k.dropFirst()
	}
}

// since returns what came after offset, of which the last message has the number last. ok is false
// when not all of it is kept any more.
func (k *history) since(offset, last uint64) (list []*message, ok bool) {
	switch missed := last - offset; {
	case offset > last:
		return nil, false
	case missed == 0:
		return nil, true
	case k == nil || missed > uint64(k.n):
		return nil, false
	default:
		for i := k.n - int(missed); i < k.n; i++ {
			list = append(list, k.at(i).m)
		}
		return list, true
	}
}

// histories bounds the histories of a Hub in bytes and in time. Topics of one rule share a list in
// the order in which they were written to last, which is the order in which they expire.
type histories struct {
	hub   *Hub
	mu    sync.Mutex // taken after a shard's
	lists map[HistoryRule]*list.List
	bytes int64
	over  bool

	timer   *time.Timer // of sweep
	running bool        // while something is kept
}

// written is an element of a list: a topic and when it was written to last.
type written struct {
	topic *topic
	at    time.Time
}

// sweepEvery is how often histories are looked through for what has expired: memory is given back
// that late; what is read has been checked then.
const sweepEvery = time.Second

func (hs *histories) init(h *Hub) {
	hs.hub = h
	hs.lists = make(map[HistoryRule]*list.List)
}

func (hs *histories) close() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.over = true
	if hs.timer != nil {
		hs.timer.Stop()
	}
}

// add keeps m. The topic's shard is locked.
func (hs *histories) add(t *topic, m *message) { hs.addAt(t, m, time.Now()) }

// addAt is add for a message that was published at now.
func (hs *histories) addAt(t *topic, m *message, now time.Time) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	l := hs.lists[t.rules.history]
	if l == nil {
		l = list.New()
		hs.lists[t.rules.history] = l
	}
	if t.kept == nil {
		t.kept = new(history)
		t.kept.place = l.PushBack(&written{topic: t})
	} else {
		l.MoveToBack(t.kept.place)
	}
	t.kept.place.Value.(*written).at = now
	before := t.kept.bytes
	t.kept.expire(now, t.rules.history.TTL)
	t.kept.add(m, now, t.rules.history.Size)
	hs.grow(t.kept.bytes - before)
	switch {
	case hs.over:
	case hs.timer == nil:
		hs.timer, hs.running = time.AfterFunc(sweepEvery, hs.sweep), true
	case !hs.running:
		hs.timer.Reset(sweepEvery)
		hs.running = true
	case hs.bytes > int64(hs.hub.cfg.MaxHistory):
		hs.timer.Reset(0)
	}
}

// expire drops what is too old of a topic's history. The topic's shard is locked.
func (hs *histories) expire(t *topic, now time.Time) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	before := t.kept.bytes
	t.kept.expire(now, t.rules.history.TTL)
	hs.grow(t.kept.bytes - before)
}

// size is how many bytes are kept.
func (hs *histories) size() int64 {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.bytes
}

// crammed reports whether so much is kept that nothing may be added until sweep has made room.
func (hs *histories) crammed() bool {
	return hs.size() > 2*int64(hs.hub.cfg.MaxHistory)
}

func (hs *histories) grow(bytes int64) {
	hs.bytes += bytes
	historyBytes.Add(bytes)
}

// sweep drops the histories that have expired, and those that are too much.
func (hs *histories) sweep() {
	for {
		t := hs.oldest()
		if t == nil {
			break
		}
		hs.drop(t)
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.running = hs.bytes > 0; hs.running && !hs.over {
		hs.timer.Reset(sweepEvery)
	}
}

// oldest is a topic whose whole history has expired, or the one written to least recently when all
// of them are too large.
func (hs *histories) oldest() *topic {
	now := time.Now()
	hs.mu.Lock()
	defer hs.mu.Unlock()
	var least *written
	for rule, l := range hs.lists {
		front := l.Front()
		if front == nil {
			continue
		}
		w := front.Value.(*written)
		if now.Sub(w.at) >= rule.TTL {
			return w.topic
		}
		if least == nil || w.at.Before(least.at) {
			least = w
		}
	}
	if least != nil && hs.bytes > int64(hs.hub.cfg.MaxHistory) {
		return least.topic
	}
	return nil
}

// drop lets go of a topic's history, unless it was written to in the meantime and there is room.
func (hs *histories) drop(t *topic) {
	s := hs.hub.shard(t.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	hs.mu.Lock()
	full := hs.bytes > int64(hs.hub.cfg.MaxHistory)
	if t.kept != nil && (full || time.Since(t.kept.place.Value.(*written).at) >= t.rules.history.TTL) {
		hs.grow(-t.kept.bytes)
		hs.lists[t.rules.history].Remove(t.kept.place)
		t.kept = nil
	}
	hs.mu.Unlock()
	hs.hub.forget(s, t)
}

package backend

import (
	"container/list"
	"sync"
	"time"
)

// sequencer puts items into order and drops those that come twice, as Pushpin does: an item that
// names as its prev-id another one than the last of its topic waits until that one has come, for a
// while; an id that a topic has had within a minute is not published again. It works for the node
// that an item is published at. Any goroutine.
type sequencer struct {
	mu      sync.Mutex
	last    recent[string, string]            // topic → id of its last item
	seen    recent[topicID, struct{}]         // what was published lately
	waiting map[string]map[string]*waitedItem // topic → prev-id → item
	count   int
	late    func(item) // publishes what has waited in vain
}

type topicID struct{ topic, id string }

type waitedItem struct {
	item  item
	timer *time.Timer
}

const (
	sequenceWait  = 5 * time.Second // for the item before
	sequenceQueue = 100             // items of one topic that wait
	sequenceTotal = 10_000          // items that wait
	sequenceIDs   = 100_000         // ids that are remembered
	sequenceLast  = 100_000         // topics whose last id is remembered
	idTime        = time.Minute
)

func newSequencer(late func(item)) *sequencer {
	return &sequencer{
		last:    newRecent[string, string](sequenceLast),
		seen:    newRecent[topicID, struct{}](sequenceIDs),
		waiting: make(map[string]map[string]*waitedItem),
		late:    late,
	}
}

// add calls publish with the items that are to be published now, in order: none, it, or it and
// those that have waited for it. It reports false when it is dropped: published already, or too
// many wait. What waits in vain is given to late when its time is over. Both are called under the
// lock, which keeps the order.
func (q *sequencer) add(it item, publish func(item)) (ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it.id != "" {
		key := topicID{it.topic, it.id}
		if _, twice := q.seen.get(key, idTime); twice {
			return false
		}
		defer func() {
			if ok {
				q.seen.put(key, struct{}{})
			}
		}()
	}
	if last, known := q.last.get(it.topic, 0); it.seq && known && last != it.prevID {
		return q.wait(it)
	}
	q.send(it, publish)
	return true
}

func (q *sequencer) wait(it item) bool {
	of := q.waiting[it.topic]
	if of[it.prevID] != nil || len(of) >= sequenceQueue || q.count >= sequenceTotal {
		return false
	}
	if of == nil {
		of = make(map[string]*waitedItem)
		q.waiting[it.topic] = of
	}
	w := &waitedItem{item: it}
	w.timer = time.AfterFunc(sequenceWait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.waiting[it.topic][it.prevID] == w {
			q.take(w)
			q.send(it, q.late)
		}
	})
	of[it.prevID] = w
	q.count++
	return true
}

func (q *sequencer) take(w *waitedItem) {
	w.timer.Stop()
	of := q.waiting[w.item.topic]
	if delete(of, w.item.prevID); len(of) == 0 {
		delete(q.waiting, w.item.topic)
	}
	q.count--
}

// send publishes an item and those that have waited for it.
func (q *sequencer) send(it item, publish func(item)) {
	for {
		if it.id == "" {
			q.last.remove(it.topic)
		} else {
			q.last.put(it.topic, it.id)
		}
		publish(it)
		next := q.waiting[it.topic][it.id]
		if it.id == "" || next == nil {
			return
		}
		q.take(next)
		it = next.item
	}
}

// flush publishes what waits, as if its time were over.
func (q *sequencer) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 {
		for _, of := range q.waiting {
			w := firstOf(of)
			q.take(w)
			q.send(w.item, q.late)
		}
	}
}

// firstOf is one of a topic's items that waits for none of the others, which come behind it.
func firstOf(of map[string]*waitedItem) (first *waitedItem) {
	ids := make(map[string]bool, len(of))
	for _, w := range of {
		ids[w.item.id] = true
	}
	for prevID, w := range of {
		if first = w; !ids[prevID] {
			break
		}
	}
	return first // any, when they wait for each other
}

// close lets go of what waits.
func (q *sequencer) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, of := range q.waiting {
		for _, w := range of {
			w.timer.Stop()
		}
	}
	clear(q.waiting)
	q.count = 0
}

// recent is a map that forgets the entry put longest ago when it is full.
type recent[K comparable, V any] struct {
	limit   int
	entries map[K]*list.Element
	order   *list.List // of recentEntry, oldest first
}

type recentEntry[K comparable, V any] struct {
	key   K
	value V
	at    time.Time
}

func newRecent[K comparable, V any](limit int) recent[K, V] {
	return recent[K, V]{limit, make(map[K]*list.Element), list.New()}
}

// get finds an entry that is not older than age; 0 is any age.
func (r *recent[K, V]) get(key K, age time.Duration) (value V, ok bool) {
	e := r.entries[key]
	if e == nil {
		return value, false
	}
	entry := e.Value.(recentEntry[K, V])
	if age > 0 && time.Since(entry.at) > age {
		return value, false
	}
	return entry.value, true
}

func (r *recent[K, V]) put(key K, value V) {
	r.remove(key)
	if len(r.entries) >= r.limit {
		oldest := r.order.Front()
		delete(r.entries, oldest.Value.(recentEntry[K, V]).key)
		r.order.Remove(oldest)
	}
	r.entries[key] = r.order.PushBack(recentEntry[K, V]{key, value, time.Now()})
}

func (r *recent[K, V]) remove(key K) {
	if e := r.entries[key]; e != nil {
		r.order.Remove(e)
		delete(r.entries, key)
	}
}

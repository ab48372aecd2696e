package backend

import (
	"bytes"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// packed is a session with a bit of everything, as it travels to another process.
func packed(now time.Time, edit func(s *session)) []byte {
	s := &session{
		lane: &lane{target: &target{name: "http://127.0.0.1:1"}},
		id:   newConnID(1), head: newHead("/ws/", []string{"Cookie", "a=1"}), state: open,
		grip: true, prefix: "m:", metas: []meta{{"User", "7"}}, requests: 3,
		pending: appendEvent(nil, eventText, []byte("hello")), replay: 1, offered: 2, refresh: true,
		timers: &timers{
			poll:      time.Minute,
			keepAlive: control{op: ws.OpPing, timeout: time.Second, content: []byte{}}, keepAliveAt: now,
			delayed: control{op: ws.OpText, timeout: time.Second, content: []byte("x")}, delayedAt: now,
		},
	}
	edit(s)
	return s.pack(nil, now)
}

// unpack reads one back.
func unpack(b []byte, now time.Time) (again []byte, err error) {
	r := reader{b: b}
	s, name, queued := r.session(now)
	if r.err != nil {
		return nil, r.err
	}
	s.lane, s.queued = &lane{target: &target{name: name}}, queued
	return append(s.pack(nil, now), r.b...), nil
}

func TestSessionsTravelWhole(t *testing.T) {
	now := time.Now()
	long := make([]byte, ws.MaxControlFramePayloadSize+1)
	for name, tt := range map[string]struct {
		edit func(s *session)
		ok   bool
	}{
		"everything":          {func(*session) {}, true},
		"nothing":             {func(s *session) { *s = session{lane: s.lane, state: open} }, true},
		"detached":            {func(s *session) { s.state, s.said = detached, true }, true},
		"a closing one":       {func(s *session) { s.state = closing }, false},
		"more offered":        {func(s *session) { s.offered = len(s.pending) + 1 }, false},
		"more than offered":   {func(s *session) { s.replay = s.offered + 1 }, false},
		"a keep-alive Close":  {func(s *session) { s.timers.keepAlive.op = ws.OpClose }, false},
		"a Pong of 125 bytes": {keepAlive(ws.OpPong, long[1:]), true},
		"a Ping of 126 bytes": {keepAlive(ws.OpPing, long), false},
	} {
		b := packed(now, tt.edit)
		again, err := unpack(b, now)
		if (err == nil) != tt.ok || tt.ok && !bytes.Equal(again, b) {
			t.Errorf("%s: got %x, %v; want %x, ok %v", name, again, err, b, tt.ok)
		}
	}
}

// What comes after the move must not be written into the state: those of other connections lie
// behind it, and it is cleared.
func TestNothingIsAppendedToTheState(t *testing.T) {
	now := time.Now()
	for name, edit := range map[string]func(s *session){
		"idle":    func(s *session) { s.pending, s.replay, s.offered = nil, 0, 0 },
		"waiting": func(*session) {},
	} {
		b := append(packed(now, edit), "others"...)
		before := bytes.Clone(b)
		r := reader{b: b}
		s, _, _ := r.session(now)
		if r.err != nil {
			t.Fatal(r.err)
		}
		s.pending = appendEvent(s.pending, eventText, []byte("a message that comes later"))
		if !bytes.Equal(b, before) {
			t.Errorf("%s: the state became %x, was %x", name, b, before)
		}
	}
}

func keepAlive(op ws.OpCode, content []byte) func(s *session) {
	return func(s *session) { s.timers.keepAlive.op, s.timers.keepAlive.content = op, content }
}

func FuzzSession(f *testing.F) {
	now := time.Now()
	whole := packed(now, func(*session) {})
	f.Add(whole)                                                           // as it is written
	f.Add(whole[:len(whole)/2])                                            // cut off
	f.Add(packed(now, func(s *session) { s.timers = nil }))                // without timers
	f.Add(packed(now, func(s *session) { s.pending, s.offered = nil, 0 })) // replay beyond
	f.Add([]byte{0x02})                                                    // another version
	f.Add([]byte{0x01, 0xdb, 0xff, 0xff, 0xff, 0xff})                      // a name of 4 GiB
	f.Add(append(whole, 0x90))                                             // and its topics
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := unpack(b, now)
		if err != nil {
			return
		}
		// There are several ways to write a number; after one round it is the one that is used.
		if third, err := unpack(again, now); err != nil || !bytes.Equal(third, again) {
			t.Errorf("%x: packed %x, then %x, %v", b, again, third, err)
		}
	})
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// counters are clients that count all the time, and come back in their session when they are told
// to go. Whatever a client of a deploy must not see is an error of the test.
type counters struct {
	*testing.T
	url                                string
	clients                            []*counter
	stopped                            chan struct{}
	done                               sync.WaitGroup
	dials, refused, told, cut, counted atomic.Int64
}

type counter struct {
	session string
	count   atomic.Int64 // acknowledged
	returns atomic.Int64
}

func startCounters(t *testing.T, address string, n int) *counters {
	l := &counters{T: t, url: "ws://" + address + "/ws/chat/", stopped: make(chan struct{})}
	for range n {
		c := new(counter)
		l.clients = append(l.clients, c)
		l.done.Go(func() { l.live(c) })
	}
	t.Cleanup(func() { l.halt() })
	l.untilCounted()
	return l
}

func (l *counters) String() string {
	return fmt.Sprintf("%d messages counted, %d connects of which %d failed, %d times bye and 1001, %d times cut",
		l.counted.Load(), l.dials.Load(), l.refused.Load(), l.told.Load(), l.cut.Load())
}

func (l *counters) halt() {
	select {
	case <-l.stopped:
	default:
		close(l.stopped)
	}
	l.done.Wait()
}

// stop ends the clients, each of which must have been told to go so many times. -1: any number.
func (l *counters) stop(moves int) {
	l.Helper()
	l.halt()
	if l.refused.Load() != 0 || l.cut.Load() != 0 {
		l.Errorf("want no failed connect and nobody cut: %s", l)
	}
	for _, c := range l.clients {
		if got := int(c.returns.Load()); moves >= 0 && got != moves {
			l.Errorf("a client was told to go %d times, want %d", got, moves)
		}
	}
}

// untilCounted waits until each client has counted once more.
func (l *counters) untilCounted() {
	l.Helper()
	for _, c := range l.clients {
		before := c.count.Load()
		waitFor(l.T, "each client goes on counting", func() bool { return c.count.Load() > before })
	}
}

func (l *counters) live(c *counter) {
	total := int64(0) // of the session, as the last bye said
	for {
		select {
		case <-l.stopped:
			return
		default:
		}
		target := l.url
		if c.session != "" {
			target += "?session_id=" + c.session
		}
		l.dials.Add(1)
		ws, res, err := (&websocket.Dialer{HandshakeTimeout: patience}).Dial(target, nil)
		if err != nil {
			l.refused.Add(1)
			status := ""
			if res != nil {
				status = res.Status
			}
			l.Errorf("connect: %v %s", err, status)
			return
		}
		if c.session == "" {
			c.session = res.Header.Get("X-Session-Id")
		}
		total, err = l.talk(c, ws, total)
		ws.Close()
		switch {
		case err == nil:
			return // stopped
		case websocket.IsCloseError(err, websocket.CloseGoingAway):
			l.told.Add(1)
			c.returns.Add(1)
		default:
			l.cut.Add(1)
			l.Errorf("a client was ended by %v", err)
			return
		}
	}
}

// talk counts until the gateway ends it: total is what the bye said.
func (l *counters) talk(c *counter, ws *websocket.Conn, total int64) (int64, error) {
	type notice struct {
		Count   *int64
		Session string `json:"session_id"`
		Bye     bool
		Total   int64
	}
	next := func() (n notice, err error) {
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		_, text, err := ws.ReadMessage()
		if err == nil {
			err = json.Unmarshal(text, &n)
		}
		return n, err
	}
	welcome, err := next()
	if err != nil || welcome.Count == nil || *welcome.Count != total {
		l.Errorf("welcome %+v, %v: want count %d", welcome, err, total)
		return 0, errors.New("wrong welcome")
	}
	for {
		select {
		case <-l.stopped:
			return total, nil
		case <-time.After(20 * time.Millisecond):
		}
		if err := ws.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
			return total, l.leave(ws)
		}
		n, err := next()
		switch {
		case err != nil:
			return total, err
		case n.Bye:
			// The message may have come before it, uncounted; the bye is what counts.
			if n.Total != total {
				l.Errorf("bye at %d, want %d", n.Total, total)
			}
			_, _, err := ws.ReadMessage() // answers the Close
			return n.Total, err
		case n.Count == nil || *n.Count != total+1:
			l.Errorf("got %+v after count %d", n, total)
			return total, errors.New("wrong count")
		}
		total++
		c.count.Store(total)
		l.counted.Add(1)
	}
}

// leave is why a connection could not be written to: what was sent last says it.
func (l *counters) leave(ws *websocket.Conn) error {
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			return err
		}
	}
}

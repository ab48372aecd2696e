package faults

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// slot is one of a session's connections, and the next one after that is over. The goroutine of
// live owns it.
type slot struct {
	c     *client
	s     *session
	place int

	cut, back chan struct{}
	away      atomic.Bool // told to leave until it is called back
	gone      atomic.Bool // has left
	done      atomic.Bool
	renewed   atomic.Bool  // an acknowledgement came on a connection that was opened anew
	sent      atomic.Int64 // on all its connections
	acked     atomic.Int64 // the same; a connection that ends takes what it was owed out of sent
	failures  int
}

// live connects, sends, and comes back, until the client finishes.
func (s *slot) live() {
	defer s.done.Store(true)
	for life := 0; ; life++ {
		last := s.c.finishing.Load() // begun after the order to finish: it looks at the total and leaves
		if s.connect(life, last) && last {
			return
		}
		if s.away.Load() {
			s.gone.Store(true)
			for s.away.Load() && !s.c.finishing.Load() {
				<-s.back
			}
			s.gone.Store(false)
		}
	}
}

// attempt is how long a connect with its welcome may take.
const attempt = 5 * time.Second

// connect is one connection from beginning to end. It reports whether it came to be.
func (s *slot) connect(life int, last bool) bool {
	c := s.c
	l := &wire{slot: s, number: int(c.conns.Add(1)), progress: make(chan struct{}, 1), ended: make(chan struct{})}
	target := c.target(s, life)
	_, text, _ := net.SplitHostPort(target)
	port, _ := strconv.ParseUint(text, 10, 16) // 0 in a malformed one, to which there is no connection
	l.put(evOpen, port, "")
	url := "ws://" + target + "/ws/chat/"
	if id := s.s.known(); id != "" {
		url += "?session_id=" + id
	}
	dialer := websocket.Dialer{HandshakeTimeout: attempt, NetDial: (&net.Dialer{Timeout: attempt}).Dial}
	conn, response, err := dialer.Dial(url, nil) //nolint:bodyclose // it has none after 101, and is read and closed before anything else
	if err == nil {
		l.conn = conn
		err = l.welcome(response)
	}
	if err != nil {
		if l.conn != nil {
			_ = l.conn.Close()
		}
		l.put(evOver, 0, "not welcomed: "+err.Error())
		c.refused.Add(1)
		s.failures++
		time.Sleep(20*time.Millisecond + mrand.N(60*time.Millisecond)) // as clients that come back should
		return false
	}
	c.opened.Add(1)
	c.open.Add(1)
	go l.read()
	mine := s.talk(l, last)
	<-l.ended
	c.open.Add(-1)
	if !mine {
		c.over.Add(1)
	}
	s.sent.Add(-l.owed.Load()) // whether they were counted, nobody will be told
	l.put(evOver, 0, l.why)
	return true
}

// talk sends until the connection's time is over, and ends it. It reports whether it was this
// side that ended it.
func (s *slot) talk(l *wire, last bool) bool {
	ends := time.NewTimer(s.c.lifetime())
	defer ends.Stop()
	for {
		if last || s.c.finishing.Load() || s.away.Load() {
			return s.leave(l)
		}
		pause := time.NewTimer(mrand.N(2*s.c.spec.Pause + 1))
		select {
		case <-l.ended:
			pause.Stop()
			return false
		case <-ends.C:
			pause.Stop()
			if !s.c.mortal() {
				ends.Reset(s.c.lifetime())
				continue
			}
			return s.end(l)
		case <-s.cut:
			pause.Stop()
			l.abort(mrand.N(2) == 0)
			return true
		case <-pause.C:
		}
		if n := min(1+mrand.N(8), s.c.spec.Window-int(l.owed.Load())); n > 0 && l.send(n) != nil {
			<-l.ended
			return false
		}
	}
}

// end ends the connection in one of the ways in which clients do.
func (s *slot) end(l *wire) bool {
	switch mrand.N(3) {
	case 0:
		return s.leave(l)
	default:
		l.abort(mrand.N(2) == 0)
		return true
	}
}

// leave says goodbye and waits for the answer. At the end, and before a long absence, what is
// owed comes first.
func (s *slot) leave(l *wire) bool {
	for (s.c.finishing.Load() || s.away.Load()) && l.owed.Load() > 0 {
		select {
		case <-l.progress:
		case <-l.ended:
			return false
		}
	}
	l.put(evLeave, 0, "")
	_ = l.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(attempt))
	patience := time.NewTimer(3 * attempt)
	defer patience.Stop()
	select {
	case <-l.ended:
	case <-patience.C:
		l.abort(true)
	}
	return true
}

// wire is one connection. read runs on its own goroutine; everything else is the slot's.
type wire struct {
	slot     *slot
	number   int
	conn     *websocket.Conn
	owed     atomic.Int64  // messages without an acknowledgement
	progress chan struct{} // an acknowledgement came
	ended    chan struct{}
	why      string // before ended is closed
}

func (l *wire) put(kind byte, n uint64, text string) {
	l.slot.c.j.put(event{kind, l.slot.s.number, l.number, n, text})
}

// frame is everything that the gateway says.
type frame struct {
	SessionID string  `json:"session_id"`
	Count     *uint64 `json:"count"`
	Resumed   bool    `json:"resumed"`
	Bye       bool    `json:"bye"`
	Total     uint64  `json:"total"`
	TS        string  `json:"ts"`
}

func (l *wire) next() (f frame, err error) {
	_, b, err := l.conn.ReadMessage()
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("the gateway said %.100q: %w", b, err)
	}
	return f, nil
}

// welcome reads the first frame.
func (l *wire) welcome(r *http.Response) error {
	_ = l.conn.SetReadDeadline(time.Now().Add(attempt))
	f, err := l.next()
	if err != nil {
		return err
	}
	if f.SessionID == "" || f.Count == nil || f.SessionID != r.Header.Get("X-Session-Id") {
		return fmt.Errorf("not a welcome: %+v", f)
	}
	_ = l.conn.SetReadDeadline(time.Time{})
	l.slot.s.name(l.slot.c.j, f.SessionID)
	l.put(evWelcome, *f.Count, map[bool]string{true: "resumed", false: "new"}[f.Resumed])
	return nil
}

// read writes down what comes, until the connection ends.
func (l *wire) read() {
	defer close(l.ended)
	defer func() { _ = l.conn.Close() }()
	acked := false
	for {
		f, err := l.next()
		if err != nil {
			l.why = err.Error()
			return
		}
		switch {
		case f.Bye:
			l.put(evBye, f.Total, "")
		case f.Count != nil:
			l.put(evAck, *f.Count, "")
			l.owed.Add(-1)
			l.slot.acked.Add(1)
			l.slot.c.acked.Add(1)
			if !acked {
				acked = true
				l.slot.renewed.Store(true)
			}
			notify(l.progress)
		}
	}
}

func (l *wire) send(n int) error {
	l.put(evSend, uint64(n), "")
	l.owed.Add(int64(n))
	l.slot.sent.Add(int64(n))
	l.slot.c.sent.Add(int64(n))
	for range n {
		if err := l.conn.WriteMessage(websocket.TextMessage, []byte("one more")); err != nil {
			_ = l.conn.Close()
			return err
		}
	}
	return nil
}

// abort ends the connection without a word; hard is with a reset, which may destroy what is on
// its way.
func (l *wire) abort(hard bool) {
	if t, ok := l.conn.NetConn().(*net.TCPConn); ok && hard {
		_ = t.SetLinger(0)
	}
	_ = l.conn.Close()
}

// visit resumes a session and leaves without a message.
func (g *gatewayProcess) visit(id string) error {
	conn, response, err := websocket.DefaultDialer.Dial("ws://"+g.addr+"/ws/chat/?session_id="+id, nil)
	if err != nil {
		return fmt.Errorf("visit session %s: %w", id, err)
	}
	defer response.Body.Close()
	defer conn.Close()
	_, _, err = conn.ReadMessage()
	return err
}

// newUUID is a version 4 UUID.
func newUUID() string {
	var b [16]byte
	_, _ = io.ReadFull(rand.Reader, b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

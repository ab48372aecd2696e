package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// stormDials is how many clients are in the middle of a handshake at once.
const stormDials = 256

// Storm has n idle sessions reconnect to one gateway at once, twice, with and without the
// client-side cache. The first time the gateway reads their totals; the second time it has them,
// and Redis would say if they had changed.
func Storm(ctx context.Context, out io.Writer, bin string, n int) error {
	fmt.Fprintf(out, "| client-side cache | %d sessions reconnect | seconds | connections/s | Redis commands | of them HGETALL | rest |\n|---|---|---:|---:|---:|---:|---|\n", n)
	for _, cache := range []bool{true, false} {
		if err := stormRun(ctx, out, bin, n, cache); err != nil {
			return err
		}
	}
	return nil
}

func stormRun(ctx context.Context, out io.Writer, bin string, n int, cache bool) error {
	r, err := newFixture(ctx, plan{bin: bin, gateways: 1, bare: true, flags: []string{fmt.Sprintf("--redis-client-cache=%v", cache)}})
	if err != nil {
		return err
	}
	defer os.RemoveAll(r.dir)
	defer r.close()
	s := &crowd{url: "ws://" + r.gateways[0].addr + "/ws/chat/?session_id=", conns: make([]*websocket.Conn, n)}
	for range n {
		s.ids = append(s.ids, newUUID())
	}
	defer s.drop()
	// Each counts one message, so that there is something to come back to.
	if _, err := s.connect(ctx, 0); err != nil {
		return err
	}
	if err := s.each(ctx, s.count); err != nil {
		return err
	}
	for _, turn := range []string{"first time", "second time"} {
		s.drop()
		if _, err := r.quiet(); err != nil {
			return err
		}
		if _, err := r.redis.do("CONFIG", "RESETSTAT"); err != nil {
			return err
		}
		took, err := s.connect(ctx, 1)
		if err != nil {
			return err
		}
		total, reads, rest, err := commandStats(r.redis)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %s | %s | %.2f | %.0f | %d | %d | %s |\n", map[bool]string{true: "on", false: "off"}[cache], turn,
			took.Seconds(), float64(n)/took.Seconds(), total, reads, rest)
	}
	return nil
}

// commandStats adds up what Redis was asked since its statistics were reset, without what the
// harness asked.
func commandStats(r *redisServer) (total, reads int, rest string, err error) {
	text, err := r.do("INFO", "commandstats")
	if err != nil {
		return 0, 0, "", err
	}
	var others []string
	for line := range strings.Lines(text) {
		var calls int
		name, values, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		if n, _ := fmt.Sscanf(values, "calls=%d,", &calls); !ok || n != 1 || calls == 0 || name == "info" || name == "config|resetstat" {
			continue
		}
		total += calls
		if name == "hgetall" {
			reads = calls
			continue
		}
		others = append(others, fmt.Sprintf("%s %d", strings.ReplaceAll(name, "|", " "), calls))
	}
	slices.Sort(others)
	return total, reads, strings.Join(others, ", "), nil
}

// crowd is many clients in this process.
type crowd struct {
	url   string
	ids   []string
	conns []*websocket.Conn
}

// each does something for every client, stormDials at a time, and joins the first few errors.
func (s *crowd) each(ctx context.Context, do func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	turns := make(chan int)
	for range stormDials {
		wg.Go(func() {
			for i := range turns {
				if err := do(i); err != nil {
					mu.Lock()
					if len(errs) < 5 {
						errs = append(errs, fmt.Errorf("client %d: %w", i, err))
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range s.ids {
		if ctx.Err() != nil {
			break
		}
		turns <- i
	}
	close(turns)
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// connect connects all and returns how long it took until the last was welcomed with want.
func (s *crowd) connect(ctx context.Context, want uint64) (time.Duration, error) {
	dialer := websocket.Dialer{HandshakeTimeout: patience, ReadBufferSize: 256, WriteBufferSize: 256, NetDial: (&net.Dialer{Timeout: patience}).Dial}
	began := time.Now()
	err := s.each(ctx, func(i int) error {
		c, _, err := dialer.Dial(s.url+s.ids[i], nil) //nolint:bodyclose // it has none after 101
		if err != nil {
			return err
		}
		s.conns[i] = c
		f, err := s.read(i)
		if err == nil && (f.Count == nil || *f.Count != want || f.SessionID != s.ids[i]) {
			err = fmt.Errorf("welcome %+v, want a total of %d for %s", f, want, s.ids[i])
		}
		return err
	})
	return time.Since(began), err
}

// read returns the next frame that is no heartbeat.
func (s *crowd) read(i int) (f frame, err error) {
	_ = s.conns[i].SetReadDeadline(time.Now().Add(patience))
	for {
		_, b, err := s.conns[i].ReadMessage()
		if err != nil {
			return f, err
		}
		if err := json.Unmarshal(b, &f); err != nil || f.TS == "" {
			return f, err
		}
		f = frame{}
	}
}

func (s *crowd) count(i int) error {
	if err := s.conns[i].WriteMessage(websocket.TextMessage, []byte("one")); err != nil {
		return err
	}
	f, err := s.read(i)
	if err == nil && (f.Count == nil || *f.Count != 1) {
		err = fmt.Errorf("got %+v for the first message, want a count of 1", f)
	}
	return err
}

// drop ends all connections as a network does that goes away. A reset leaves no port in
// TIME_WAIT, of which there are too few.
func (s *crowd) drop() {
	for i, c := range s.conns {
		if c != nil {
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			s.conns[i] = nil
		}
	}
}

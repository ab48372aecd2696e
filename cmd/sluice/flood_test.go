package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"
)

// The size of the floods. The defaults show that what is limited is limited; for figures:
//
//	go test ./cmd/sluice -run TestFlood -v -flood.rate 5000 -flood.time 20s -flood.good 1000 \
//		-flood.beside
//
// With -flood.beside each flood goes to another gateway first: what the good clients feel of that
// is the machine, which has to attack too.
var (
	floodRate = flag.Int("flood.rate", 2000, "connections of attackers in a second")
	floodTime = flag.Duration("flood.time", 400*time.Millisecond, "how long each flood, and the quiet before it, lasts")
	floodGood = flag.Int("flood.good", 50, "good clients, each of which sends a message every second")
	floodSide = flag.Bool("flood.beside", false, "flood another gateway first, on the same machine")
)

// good are clients that measure how long their echoes take.
type good struct {
	mu    sync.Mutex
	times []time.Duration
	fail  error
}

func (g *good) note(d time.Duration, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil && g.fail == nil {
		g.fail = err
	}
	g.times = append(g.times, d)
}

// take returns how many echoes there were since the last call, and their percentiles.
func (g *good) take(t *testing.T) (n int, p50, p99 time.Duration) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		t.Fatalf("a good client: %v", g.fail)
	}
	times := g.times
	g.times = nil
	if len(times) == 0 {
		t.Fatal("no good client had an echo")
	}
	slices.Sort(times)
	return len(times), times[len(times)/2], times[len(times)*99/100]
}

// run has one good client after the other connect, and talk until ctx ends.
func (g *good) run(ctx context.Context, t *testing.T, url string, all *sync.WaitGroup) {
	t.Helper()
	for i := range *floodGood {
		dialer := websocket.Dialer{NetDial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}).Dial, HandshakeTimeout: patience, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		c, _, err := dialer.Dial(url+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close()
			for pause := rand.N(time.Second); ; pause = time.Second {
				select {
				case <-ctx.Done():
					return
				case <-time.After(pause):
				}
				began := time.Now()
				c.SetReadDeadline(began.Add(patience))
				err := c.WriteMessage(websocket.TextMessage, []byte("hello"))
				if err == nil {
					_, _, err = c.ReadMessage()
				}
				g.note(time.Since(began), err)
				if err != nil {
					return
				}
			}
		})
	}
}

// flood opens connections from the addresses that from gives, at floodRate for floodTime, has each
// send text, behind a TLS handshake with greet, and holds the last 2,000 of them.
func flood(from func() net.IP, listen, text string, greet bool) (opened, reset int64) {
	var held [2000]net.Conn
	var n, bad atomic.Int64
	var mu sync.Mutex
	ctx, cancel := context.WithTimeout(context.Background(), *floodTime)
	defer cancel()
	pace := rate.NewLimiter(rate.Limit(*floodRate), 100)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			b := make([]byte, 512)
			for pace.Wait(ctx) == nil {
				conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from()}, Timeout: patience}).Dial("tcp", listen)
				i := n.Add(1)
				if err != nil {
					bad.Add(1)
					continue
				}
				conn.SetDeadline(time.Now().Add(5 * time.Millisecond)) // an attacker does not wait
				if greet {
					conn.SetDeadline(time.Now().Add(time.Second)) // but for its handshake
					err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
				} else if _, err = io.WriteString(conn, text); err == nil {
					_, err = conn.Read(b)
				}
				if err != nil && strings.Contains(err.Error(), "reset") {
					bad.Add(1)
				}
				mu.Lock()
				old := held[i%int64(len(held))]
				held[i%int64(len(held))] = conn
				mu.Unlock()
				if old != nil {
					old.Close()
				}
			}
		})
	}
	all.Wait()
	for _, conn := range held {
		if conn != nil {
			conn.Close()
		}
	}
	return n.Load(), bad.Load()
}

// resident is how many bytes of memory a process has.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// metric is the value of one series.
func metric(t *testing.T, admin, series string) int {
	t.Helper()
	_, text := get(t, "http://"+admin+"/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no series %s", series)
	return 0
}

// clientHello is what crypto/tls begins a handshake with.
func clientHello() string {
	var hello onlyWrites
	_ = tls.Client(&hello, &tls.Config{InsecureSkipVerify: true}).Handshake() // there is no answer
	return hello.String()
}

// onlyWrites keeps what is written, and has nothing to read.
type onlyWrites struct {
	net.Conn
	bytes.Buffer
}

func (o *onlyWrites) Write(p []byte) (int, error) { return o.Buffer.Write(p) }
func (*onlyWrites) Read([]byte) (int, error)      { return 0, io.EOF }
func (*onlyWrites) Close() error                  { return nil }

// TestFlood: attackers of one address are turned away beyond its limits, those of very many
// addresses are served as they come; in either case good clients are served, and memory stays
// within a bound.
func TestFlood(t *testing.T) {
	request := "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	cert, key := certificate(t)
	one := func() net.IP { return net.IPv4(127, 0, 2, 1) }
	many := func() net.IP {
		n := rand.Uint32()
		return net.IPv4(127, 1+byte(n>>24)%200, byte(n>>8), 1+byte(n)%250)
	}
	for _, test := range []struct {
		name, text string
		from       func() net.IP
		limit      string // that is set
		barred     string // how what is beyond it is counted, "" for none
		secure     bool   // the address with TLS is flooded, and good clients speak it
		greet      bool   // attackers complete the TLS handshake first
	}{
		{"garbage TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 400), one, "--unfinished-per-ip=10", "unfinished", false, false},
		{"half a request", request[:60], one, "--unfinished-per-ip=10", "unfinished", false, false},
		{"nothing at all", "", one, "--unfinished-per-ip=10", "unfinished", false, false},
		{"handshakes and nothing more", request, one, "--conn-rate-per-ip=100", "conn_rate", false, false},
		{"half a request, of very many addresses", request[:60], many, "--unfinished-per-ip=10", "", false, false},
		{"handshakes of very many addresses", request, many, "--conn-rate-per-ip=100", "", false, false},
		{"garbage to TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 600), one, "--unfinished-per-ip=10", "unfinished", true, false},
		{"garbage to TLS, of very many addresses", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 600), many, "--unfinished-per-ip=10", "", true, false},
		{"half TLS handshakes", clientHello(), one, "--unfinished-per-ip=10", "unfinished", true, false},
		{"half TLS handshakes, of very many addresses", clientHello(), many, "--unfinished-per-ip=10", "", true, false},
		{"TLS handshakes and nothing more", "", one, "--conn-rate-per-ip=100", "conn_rate", true, true},
		{"TLS handshakes of very many addresses", "", many, "--conn-rate-per-ip=100", "", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			gateway := func() (p *process, listen, admin string) {
				args := []string{"--app=echo", "--heartbeat=0", "--handshake-timeout=1s", test.limit}
				if test.secure {
					return startTLS(t, "compact", cert, key, args...)
				}
				return start(t, args...)
			}
			p, listen, admin := gateway()
			url := map[bool]string{false: "ws://", true: "wss://"}[test.secure]
			ctx, stop := context.WithCancel(t.Context())
			var g good
			var all sync.WaitGroup
			g.run(ctx, t, url+listen, &all)
			time.Sleep(*floodTime)
			_, quiet50, quiet99 := g.take(t)
			if *floodSide {
				_, other, _ := gateway()
				flood(test.from, other, test.text, test.greet)
				_, p50, p99 := g.take(t)
				t.Logf("another gateway is flooded: p50 %v, p99 %v", p50, p99)
				time.Sleep(2 * time.Second) // what is left of it ends
				g.take(t)
			}
			before := resident(t, p.cmd.Process.Pid)
			peak := before
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				for ctx.Err() == nil {
					peak = max(peak, resident(t, p.cmd.Process.Pid))
					time.Sleep(20 * time.Millisecond)
				}
			}()
			opened, reset := flood(test.from, listen, test.text, test.greet)
			n, p50, p99 := g.take(t)
			barred := 0
			if test.barred != "" {
				barred = metric(t, admin, fmt.Sprintf("sluice_addresses_barred_total{reason=%q}", test.barred))
			}
			stop()
			all.Wait()
			<-watched
			t.Logf("%d connections, %d reset, %d barred; %d echoes: p50 %v → %v, p99 %v → %v; memory %d → %d KiB",
				opened, reset, barred, n, quiet50, p50, quiet99, p99, before>>10, peak>>10)
			if test.barred != "" && opened > 300 && barred == 0 {
				t.Errorf("%d connections of one address met no limit", opened)
			}
			if grown := peak - before; grown > 64<<20 {
				t.Errorf("memory has grown by %d MiB, want 64 at most", grown>>20)
			}
		})
	}
}

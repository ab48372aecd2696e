package faults

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// flow is what a proxy does with the bytes that pass.
type flow int

const (
	passing      flow = iota
	droppingBack      // requests pass, replies vanish; such connections are cut when this ends
	blackHole         // nothing passes, nothing is answered; what waits arrives late
	refusing          // connections are refused, and those that were open are cut
)

// proxy stands between a gateway and Redis, or before the bus of a server of a Cluster. All methods
// may be called by any goroutine.
type proxy struct {
	addr, target string

	mu      sync.Mutex
	changed *sync.Cond
	ln      net.Listener
	flow    flow
	barred  string        // an IP address whose connections are cut; empty for none
	delay   time.Duration // added to each direction's half of the round trip
	pipes   map[*pipe]struct{}
	closed  bool
}

// pipe is one connection through the proxy.
type pipe struct {
	p         *proxy
	near, far net.Conn
	doomed    bool // a reply of it has vanished: its stream makes no sense any more
}

// chunk is bytes on their way, and when they may arrive; nil is the end of the stream.
type chunk struct {
	b   []byte
	due time.Time
}

func startProxy(target string) (*proxy, error) {
	p := &proxy{target: target, pipes: map[*pipe]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	for range 50 {
		p.addr = fmt.Sprintf("127.0.0.1:%d", somePort())
		if p.listen() == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no free port for a proxy, the last try was %s", p.addr)
}

func (p *proxy) listen() error {
	ln, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.ln = ln
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return nil
}

// set changes what happens from now on. delay is added to every round trip.
func (p *proxy) set(f flow, delay time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.flow
	p.flow, p.delay = f, delay/2
	p.changed.Broadcast()
	for c := range p.pipes {
		if f == refusing || c.doomed && f != droppingBack {
			c.cut()
		}
	}
	if f == refusing && before != refusing {
		return p.ln.Close()
	}
	if f != refusing && before == refusing && !p.closed {
		return p.listen()
	}
	return nil
}

// bar cuts what comes from an IP address, until another one is given.
func (p *proxy) bar(ip string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.barred = ip
	for c := range p.pipes {
		if c.barred() {
			c.cut()
		}
	}
}

// barred must be called with the proxy's lock held.
func (c *pipe) barred() bool {
	a, ok := c.near.RemoteAddr().(*net.TCPAddr)
	return ok && a.IP.String() == c.p.barred
}

// aim gives the target to a proxy that was started without.
func (p *proxy) aim(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
	p.ln.Close()
	for c := range p.pipes {
		c.cut()
	}
}

func (p *proxy) serve(near net.Conn) {
	c := &pipe{p: p, near: near}
	p.mu.Lock()
	for p.flow == blackHole && !p.closed {
		p.changed.Wait()
	}
	target := p.target
	p.mu.Unlock()
	var err error
	if c.far, err = net.DialTimeout("tcp", target, 5*time.Second); err != nil {
		near.Close()
		return
	}
	p.mu.Lock()
	if p.closed || p.flow == refusing || c.barred() {
		c.cut()
		p.mu.Unlock()
		return
	}
	p.pipes[c] = struct{}{}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { c.pump(c.near, c.far, false) })
	wg.Go(func() { c.pump(c.far, c.near, true) })
	wg.Wait()
	p.mu.Lock()
	delete(p.pipes, c)
	p.mu.Unlock()
	c.cut()
}

func (c *pipe) cut() {
	c.near.Close()
	c.far.Close()
}

// pump carries one direction. Reading goes on while bytes are delayed, so that a delay does not
// limit what passes.
func (c *pipe) pump(from, to net.Conn, back bool) {
	chunks := make(chan chunk, 4096)
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				c.p.mu.Lock()
				due := time.Now().Add(c.p.delay)
				c.p.mu.Unlock()
				chunks <- chunk{b[:n], due}
			}
			if err != nil {
				return
			}
		}
	}()
	for k := range chunks {
		if d := time.Until(k.due); d > 0 {
			time.Sleep(d)
		}
		if !c.admit(back) {
			continue
		}
		if _, err := to.Write(k.b); err != nil {
			c.cut() // ends the reader, whose chunks are drained here
		}
	}
	if back {
		c.cut()
		return
	}
	// A gateway that gave up does not call back what it sent: Redis still gets it, and then the
	// end.
	if t, ok := to.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// admit waits while nothing passes and reports whether a chunk may.
func (c *pipe) admit(back bool) bool {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.flow == blackHole && !p.closed {
		p.changed.Wait()
	}
	if back && (p.flow == droppingBack || c.doomed) {
		c.doomed = true
		return false
	}
	return true
}

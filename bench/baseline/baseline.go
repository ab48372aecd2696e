// Package baseline is the service that Sluice is measured against: the same
// counting service, and a plain echo, written the usual way with one or two
// goroutines for each connection, once for each of the well-known libraries.
//
// The comparison is only worth something when the authors of those libraries
// would accept it. So each one gets the settings that its documentation or its
// issues recommend for many connections, and never a handicap:
//
//   - gorilla: two pumps and a channel for each connection, as in the library's
//     own chat example, with its 1024-byte buffers; WriteBufferPool so that an
//     idle connection holds no write buffer; a channel of 8 instead of 256.
//   - coder: one goroutine; messages are read without io.ReadAll; background
//     contexts on the data path, because a context that can end costs a
//     context.AfterFunc for each call.
//   - gobwas: a bare listener and the zero-copy Upgrader; one goroutine with a
//     512-byte bufio.Reader, which saves two of three reads a message.
//   - gws: its own handshake on a bare listener, 1 KiB read buffers instead of
//     4 KiB, a session storage without a map.
//   - floor: no library: one C thread with epoll, no timers, no sessions, no checks.
//     It is not a service but the price of the system calls.
//
// All of them leave the handshake's goroutine before they read, so that its
// grown stack and its request are freed; none compresses; all send heartbeats,
// drop a peer that does not answer them, and keep sessions for resumption.
package baseline

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sort"
	"strings"
	"time"
)

// The two services every baseline knows.
const (
	Count = "count" // Sluice's protocol: welcome, {"count":N} replies, heartbeats, resume
	Echo  = "echo"  // every message comes back as it was
)

// Options of a baseline server. The zero value is the counting service with
// the limits that Sluice has by default.
type Options struct {
	App        string           // Count, Echo or Topics; "" is Count
	Heartbeat  time.Duration    // between heartbeats of one connection; 0 is 30 s, negative is off
	MaxMessage int64            // bytes in one message; 0 is 64 KiB
	SessionTTL time.Duration    // how long a session without a connection is kept; 0 is 1 h
	Ready      func(a net.Addr) // called once, when the listener is open; may be nil
	// TLS, when set, is what gorilla serves over; Serve refuses it for others.
	TLS *tls.Config
}

func (o Options) withDefaults() (Options, error) {
	if o.App == "" {
		o.App = Count
	}
	if o.App != Count && o.App != Echo && o.App != Topics {
		return o, fmt.Errorf("baseline app %q is not known (use %q, %q or %q)", o.App, Count, Echo,
			Topics)
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 30 * time.Second
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = 64 << 10
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = time.Hour
	}
	if o.Ready == nil {
		o.Ready = func(net.Addr) {}
	}
	return o, nil
}

// serveFunc runs one library's server on ln until the listener is closed.
type serveFunc func(s *service, ln net.Listener) error

var libraries = map[string]serveFunc{
	"gorilla": serveGorilla,
	"coder":   serveCoder,
	"gobwas":  serveGobwas,
	"gws":     serveGWS,
}

// Names lists the baselines that Serve knows, sorted, with Floor last.
func Names() []string {
	var names []string
	for name := range libraries {
		names = append(names, name)
	}
	sort.Strings(names)
	return append(names, Floor)
}

// Serve runs the named baseline on addr until ctx ends, then says goodbye to
// the connections (Close 1001) and returns nil. Any goroutine may call it. It
// fails when the name or the app is not known, or when it cannot listen.
func Serve(ctx context.Context, name, addr string, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if o.TLS != nil && (name != "gorilla" || o.App == Topics) {
		return fmt.Errorf("baseline %s, app %s: TLS is for gorilla with another app only", name, o.App)
	}
	if o.App == Topics {
		return serveTopics(ctx, name, addr, o)
	}
	if name == Floor {
		return serveFloor(ctx, addr, o)
	}
	serve, ok := libraries[name]
	if !ok {
		return fmt.Errorf("baseline %q is not known (use one of %s)", name, strings.Join(Names(), ", "))
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for baseline %s: %w (choose another --listen)", name, err)
	}
	s := newService(o)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	sweeping, endSweep := context.WithCancel(ctx)
	defer endSweep()
	go s.sweep(sweeping)
	o.Ready(ln.Addr())
	if o.TLS != nil {
		ln = tls.NewListener(ln, o.TLS)
	}
	err = serve(s, ln)
	s.sayGoodbye()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve baseline %s on %s: %w", name, addr, err)
}

package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"time"

	"sluice/gateway/tlsserver"
	"sluice/poller"
)

// Config sets up a Server. Zero values are the defaults.
type Config struct {
	// Listen is the public address, "host:port" or ":port". Default ":8000".
	Listen string

	// Listeners are listening sockets that are there already, such as those of another process: see
	// poller.InheritListener. Listen is not looked at then, nor do they get SocketBuffer, for which
	// there is their Tune. With more of them than Loops, a loop serves several; with fewer, the
	// others open their own on the same address once connections are accepted. New owns them, also
	// when it returns an error. Default: New opens its own.
	Listeners []*poller.Listener

	// TLS speaks TLS on the connections of TLSListen; nil: there are none. The caller closes it,
	// after the Server.
	TLS *tlsserver.Server

	// TLSListen is the address for connections with TLS, as Listen. Required with TLS.
	TLSListen string

	// TLSListeners are for TLSListen what Listeners are for Listen.
	TLSListeners []*poller.Listener

	// MaxTLSHandshakes bounds the TLS handshakes under way, which take some 50 KB each; each loop
	// has an equal share. Beyond it the one that has waited for its client the longest is reset, or
	// the new one if none waits. Too few cuts clients that come back together. Default 1024.
	MaxTLSHandshakes int

	// ReusePort lets other processes of the same user listen on the same port (SO_REUSEPORT): the
	// kernel spreads clients over all of them. With several Loops it is so in any case.
	ReusePort bool

	// Hold has Start run the loops without accepting; Server.Accept begins. It is for a process
	// that takes connections over first.
	Hold bool

	// Paths are where WebSockets are, compared as they are sent; other paths get 404. /healthz and
	// /readyz cannot be among them. Default /ws/chat/ and /ws, each with and without a slash at the
	// end.
	Paths []string

	// AnyPath leaves the judgement of paths to the Handler: Paths is not looked at.
	AnyPath bool

	// Loops is how many reactor loops share the connections. More than there are cores only adds
	// switches between them, unless descriptors are scarce: see OwnTables. Fewer leaves cores to
	// other programs. Default the number of Listeners, or runtime.GOMAXPROCS(0).
	Loops int

	// Yields has a loop that waits give its processor to other goroutines at once, and not after
	// up to 10 ms: for Handlers whose answers come from goroutines that wait for the network. With
	// an HTTP service half of the replies come within 0.3 ms so, and 5.4 ms without; a message that
	// the loop itself answers costs some 15 % more. Always so with more Loops than GOMAXPROCS.
	Yields bool

	// MaxConns bounds the connections of all loops together, those still in their handshake
	// included. Beyond it clients get 503. Each one takes a descriptor: see MaxConnsFor. Default
	// that of 20,000 descriptors, 19,488 for up to 64 loops; with OwnTables as many for each loop.
	MaxConns int

	// MaxConnsPerLoop bounds the connections of one loop: what its descriptor table holds. A loop
	// that is full passes new sockets on to those with room. Too small costs two more copies of
	// many descriptors; too large has clients refused while other loops have room. All loops
	// together hold MaxConns at least. Default MaxConns; with OwnTables MaxConnsPerTable of 20,000.
	MaxConnsPerLoop int

	// OwnTables gives each loop a descriptor table of its own, and so the connections of each loop
	// as many descriptors as the process has otherwise for all: see poller.CanSplit. What an App
	// opens on a loop must be used and closed on that loop. poller.ReserveTables goes before it
	// where other loops of the process have their own tables too and all together are more than
	// 128.
	OwnTables bool

	// MaxMessage bounds one message, all its fragments together, in bytes; beyond it the connection
	// ends with 1009. It is also what a client can make the gateway hold for it. Default 64 KiB.
	MaxMessage int

	// MaxFragments bounds the frames of one message, empty ones included; beyond it the connection
	// ends with 1009. A frame costs CPU and no memory. Default 1024, and one more for each 16 bytes
	// of MaxMessage, which no honest client comes near.
	MaxFragments int

	// MessageTimeout bounds the time from the first byte of a message to its last; then the
	// connection ends with 1008. Time in which the gateway itself does not read is not counted.
	// Too short cuts clients that upload on slow links, too long lets a client hold MaxMessage
	// bytes for that time. Default 30 s.
	MessageTimeout time.Duration

	// MaxBuffered bounds, in bytes, what all connections together may hold: requests and messages
	// of which only a part has come, and replies that were not read. Each loop has an equal share,
	// but at least four of the longest messages; when it is full, those that hold most are cut:
	// 1013 for partial messages, 503 for requests, a reset for unread replies. One round of input
	// may go beyond it. Default 256 MiB.
	MaxBuffered int

	// MaxQueue bounds the bytes that wait for a client that reads slowly: one that has this many
	// waiting when more is to be sent is cut off. From a quarter of it on, nothing more is read
	// from that client. Default 64 KiB.
	MaxQueue int

	// StallTimeout is how long a client may acknowledge (in TCP) none of the bytes that wait for it
	// before it is cut off; one that was seen to read has three times as long, as a slow reader's
	// kernel acknowledges in bursts. Up to 4 KiB may wait in the kernel unseen. Default 10 s.
	StallTimeout time.Duration

	// SocketBuffer is the kernel's buffer in each direction of one connection, in bytes; the
	// kernel's bookkeeping takes as much again. Too small limits a connection's throughput, to
	// about this many bytes for each round trip; too large lets some hundred clients that do not
	// read exhaust the host's memory for TCP. Default 96 KiB; negative: the kernel decides (some 20
	// MiB).
	SocketBuffer int

	// MaxControl bounds the Ping and Pong frames that one client may send in a second; beyond it
	// the connection ends with 1008. Default 20.
	MaxControl int

	// Heartbeat is the interval of heartbeats; a client that sent nothing for 2.5 of them is
	// dropped. Too short costs CPU (one write each) and batteries, too long lets middle boxes
	// forget idle connections. Default 30 s; negative: no heartbeats, and no detection of dead
	// peers.
	Heartbeat time.Duration

	// PingOnly leaves the text frame out of heartbeats: a Ping is all that is sent.
	PingOnly bool

	// NoPing leaves the Ping out of heartbeats: the text frame is all that is sent, and no answer
	// is expected. It halves what a heartbeat costs the client, and spares the gateway's CPU
	// nothing that could be measured. A peer that has vanished is then noticed because it
	// acknowledges nothing in TCP, 25 s after a heartbeat; one whose program hangs is not, nor one
	// behind a proxy that acknowledges for it. Not with PingOnly.
	NoPing bool

	// HandshakeTimeout bounds the time from accept to the end of the request (then 408), and again
	// the time the Handler takes to answer it (then 503). Default 5 s.
	HandshakeTimeout time.Duration

	// MaxHandshake bounds the request line and headers, in bytes (then 431). A request of which
	// a part has come holds as much. Default 16 KiB.
	MaxHandshake int

	// MaxHeaders bounds the number of request headers (then 431). Default 64.
	MaxHeaders int

	// CloseTimeout is how long the Handler may take for its last words, and then the peer to read
	// them and to send its Close. Default 5 s.
	CloseTimeout time.Duration

	// DrainSpread is the time over which Drain closes the connections, so that not all of their
	// clients come back at once and the last words do not queue up. Default 1 s; negative: all at
	// once.
	DrainSpread time.Duration

	// AllowedOrigins are the origins that browsers may connect from beside the gateway's own host:
	// "https://app.example.com", "https://*.example.com", or "*" for any. Requests without Origin,
	// which browsers cannot make, are always allowed.
	AllowedOrigins []string

	// AllowedHosts are the names, "example.com" or "example.com:8000", that a request's Host may
	// be; others get 421. It keeps pages of a hostile name that resolves to this machine from
	// passing as pages of the gateway's own host. Default: any.
	AllowedHosts []string

	// Compression agrees to permessage-deflate (RFC 7692) with clients that offer it. It costs a
	// connection no memory, a loop 1.3 MB, and a message of 512 bytes some 10 µs in each direction;
	// it pays where bandwidth is dear. Do not compress what holds a secret beside what an attacker
	// chooses: its length gives the secret away (CRIME).
	Compression bool

	// CompressFrom is the least payload that is compressed, in bytes. Less gains little and costs
	// as much CPU. Default 256.
	CompressFrom int

	// Clients says who may connect, how much one address may take, and which proxies are trusted.
	Clients Clients

	// Ended, unless nil, is told of each WebSocket that has ended: see package accesslog. It is
	// called on loops and must not block; what it is given is its own.
	Ended func(*Summary)

	// EndedSample has Ended told of one in so many connections, chosen by chance. Default: of all.
	EndedSample int

	// ReadyCheck adds a condition to Ready, for instance a session store's. It is called on loops
	// and must not block.
	ReadyCheck func() error

	// Logger gets the gateway's log lines; what concerns one connection only is at level Debug.
	// Default slog.Default().
	Logger *slog.Logger
}

// ReservedDescriptors is what a process with this many loops needs beside its connections:
// listeners, reactors (five for each loop), the admin server, Redis, and the connections that are
// told 503. It is 512 for up to 64 loops.
func ReservedDescriptors(loops int) int { return 512 + 5*max(loops-64, 0) }

// MaxConnsFor is the number of connections that a limit of nofile descriptors leaves room for in
// all loops, when they share a table.
func MaxConnsFor(nofile, loops int) int { return max(nofile-ReservedDescriptors(loops), 1) }

// MaxConnsPerTable is the number of connections that a limit of nofile descriptors leaves room for
// in each loop, with Config.OwnTables. What all tables share is some 130 descriptors, one more for
// each loop from 128 on; the rest is for the loop's own and for connections that are told 503.
func MaxConnsPerTable(nofile, loops int) int { return max(nofile-512-max(loops-128, 0), 1) }

func (c Config) withDefaults() (Config, error) {
	def(&c.Listen, ":8000")
	if c.Paths == nil {
		c.Paths = []string{"/ws/chat/", "/ws", "/ws/chat", "/ws/"}
	}
	for _, p := range c.Paths {
		if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "?# ") || p == "/healthz" || p == "/readyz" {
			return c, fmt.Errorf("gateway: Paths: %q cannot be the path of a WebSocket: it starts with / and is without query", p)
		}
	}
	if len(c.Listeners) > 0 {
		def(&c.Loops, len(c.Listeners))
	}
	def(&c.Loops, runtime.GOMAXPROCS(0))
	if c.OwnTables {
		def(&c.MaxConnsPerLoop, MaxConnsPerTable(20_000, c.Loops))
		def(&c.MaxConns, max(c.Loops, 1)*c.MaxConnsPerLoop)
	}
	def(&c.MaxConns, MaxConnsFor(20_000, max(c.Loops, 1)))
	def(&c.MaxConnsPerLoop, c.MaxConns)
	def(&c.MaxMessage, 64<<10)
	def(&c.MaxFragments, 1024+c.MaxMessage/16)
	def(&c.MessageTimeout, 30*time.Second)
	def(&c.MaxBuffered, 256<<20)
	def(&c.MaxQueue, 64<<10)
	def(&c.StallTimeout, 10*time.Second)
	def(&c.MaxControl, 20)
	def(&c.Heartbeat, 30*time.Second)
	def(&c.HandshakeTimeout, 5*time.Second)
	def(&c.MaxHandshake, 16<<10)
	def(&c.MaxHeaders, 64)
	def(&c.MaxTLSHandshakes, 1024)
	if (c.TLS == nil) != (c.TLSListen == "" && len(c.TLSListeners) == 0) {
		return c, errors.New("gateway: TLS and TLSListen go together")
	}
	def(&c.CloseTimeout, 5*time.Second)
	def(&c.DrainSpread, time.Second)
	def(&c.CompressFrom, 256)
	def(&c.Logger, slog.Default())
	for _, limit := range []struct {
		name     string
		got, min int
	}{
		{"Loops", c.Loops, 1}, {"MaxConns", c.MaxConns, 1},
		{"MaxConnsPerLoop", c.MaxConnsPerLoop, (c.MaxConns-1)/max(c.Loops, 1) + 1},
		{"MaxMessage", c.MaxMessage, 125}, {"MaxFragments", c.MaxFragments, 1},
		{"MaxQueue", c.MaxQueue, 1024}, {"MaxControl", c.MaxControl, 1}, {"MaxHandshake", c.MaxHandshake, 256}, {"MaxHeaders", c.MaxHeaders, 8},
		{"MaxBuffered", c.MaxBuffered, 1 << 20}, {"MaxTLSHandshakes", c.MaxTLSHandshakes, 1},
	} {
		if limit.got < limit.min {
			return c, fmt.Errorf("gateway: %s is %d, must be at least %d", limit.name, limit.got, limit.min)
		}
	}
	if c.MaxControl > 255 {
		return c, fmt.Errorf("gateway: MaxControl is %d, must be at most 255", c.MaxControl)
	}
	for _, limit := range []struct {
		name string
		got  time.Duration
		min  time.Duration
	}{{"HandshakeTimeout", c.HandshakeTimeout, 0}, {"CloseTimeout", c.CloseTimeout, 0}, {"StallTimeout", c.StallTimeout, 0},
		{"MessageTimeout", c.MessageTimeout, 0},
		{"Heartbeat", c.Heartbeat, math.MinInt64}, {"DrainSpread", c.DrainSpread, math.MinInt64}} {
		if limit.got < limit.min {
			return c, fmt.Errorf("gateway: %s is %v, must not be negative", limit.name, limit.got)
		}
		if limit.got > longest {
			return c, fmt.Errorf("gateway: %s is %v, must be at most %v", limit.name, limit.got, longest)
		}
	}
	if c.PingOnly && c.NoPing {
		return c, errors.New("gateway: PingOnly and NoPing together leave nothing of a heartbeat (set Heartbeat to a negative number for none)")
	}
	if c.Heartbeat > 0 && c.Heartbeat < 10*time.Millisecond {
		return c, fmt.Errorf("gateway: Heartbeat is %v, must be at least 10ms (or negative for none)", c.Heartbeat)
	}
	return c, nil
}

// longest keeps sums of durations far from overflow, which would make them due at once.
const longest = 10 * 365 * 24 * time.Hour

// def gives a zero field its default.
func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

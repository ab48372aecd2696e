package main

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sluice/gateway"
)

// config is every setting of a gateway: a field here is a flag, a SLUICE_ variable and a key of the
// configuration file, under the same name.
type config struct {
	Config string `placeholder:"FILE" help:"YAML file with settings; its keys are the names of these flags."`

	Listen           string   `group:"net" default:":8000" placeholder:"ADDRESS" help:"Address for WebSocket clients."`
	Admin            string   `group:"net" default:"127.0.0.1:8001" placeholder:"ADDRESS" help:"Address for operators: a page, /metrics, /readyz, /sessions/ID and /debug/pprof; anyone who reaches it sees all of them, unless there is --admin-token. 'off' for none."`
	AdminToken       string   `group:"net" placeholder:"TOKEN" help:"What every request to the admin address must show, as Authorization: Bearer TOKEN; browsers get a form for it. A variable keeps it out of the process list."`
	AllowedOrigins   []string `group:"net" sep:"," placeholder:"ORIGIN" help:"Origins whose pages may connect besides this host itself, for example https://example.com or https://*.example.com; * for any. Separated by commas or given again."`
	AllowedHosts     []string `group:"net" sep:"," placeholder:"HOST" help:"Hosts that requests may be for, with or without a port; others get 421. Any by default."`
	HandshakeTimeout duration `group:"net" default:"5s" placeholder:"TIME" help:"How long a client may take for its opening request."`

	App           string   `group:"app" enum:"count,echo,backend" default:"count" placeholder:"NAME" help:"What answers messages: count (numbers them per session), echo, or backend (a service of yours, over HTTP)."`
	Welcome       bool     `group:"app" default:"true" negatable:"" help:"Greet each connection with its session and count."`
	Heartbeat     duration `group:"app" default:"30s" placeholder:"TIME" help:"Time between heartbeats; a peer silent for 2.5 of them is dropped. 0 for none."`
	HeartbeatPing bool     `group:"app" default:"true" negatable:"" help:"Send a Ping with each heartbeat. Without, peers that hang, or whose proxy lives on, are not noticed; those that vanish are, by TCP, after 25 s."`

	tlsConfig     `embed:""`
	backendConfig `embed:""`
	topicsConfig  `embed:""`
	clientsConfig `embed:""`

	Loops           count    `group:"limits" default:"0" placeholder:"N" help:"Event loops; 0 for one per core, and more when --max-conns takes them."`
	MaxConns        count    `group:"limits" default:"0" placeholder:"N" help:"Connections held at once; beyond what one descriptor table holds, each loop has its own. 0 for what one table holds."`
	MaxConnsPerLoop count    `group:"limits" default:"0" placeholder:"N" help:"Connections of one loop; a full one passes clients on to others. 0 for what its descriptor table holds."`
	MaxMessage      size     `group:"limits" default:"64KiB" placeholder:"SIZE" help:"Longest message that a client may send."`
	MaxFragments    count    `group:"limits" default:"0" placeholder:"N" help:"Most frames of one message; 0 for 1024 and one more for each 16 bytes of --max-message."`
	MessageTimeout  duration `group:"limits" default:"30s" placeholder:"TIME" help:"How long a message may take from its first byte to its last."`
	MaxHeader       size     `group:"limits" default:"16KiB" placeholder:"SIZE" help:"Longest request line and headers of a handshake."`
	MaxBuffered     size     `group:"limits" default:"0" placeholder:"SIZE" help:"What all connections may hold in partial messages and unread replies; 0 for a quarter of GOMEMLIMIT or of the cgroup's limit, or else 256MiB."`
	MaxQueue        size     `group:"limits" default:"64KiB" placeholder:"SIZE" help:"Bytes held for a client that does not read before it is cut off."`

	SocketBuffer size `group:"limits" default:"96KiB" placeholder:"SIZE" help:"Kernel buffer in each direction of one connection, and so its throughput for each round trip; it takes up to 4 times as much kernel memory. 0 lets the kernel decide."`

	SessionStore   string   `group:"sessions" enum:"memory,redis" default:"memory" placeholder:"NAME" help:"Where counts are kept: memory or redis."`
	SessionTTL     duration `group:"sessions" name:"session-ttl" default:"1h" placeholder:"TIME" help:"How long an abandoned session is kept."`
	NewSessionRate count    `group:"sessions" default:"0" placeholder:"N" help:"New sessions a second on each loop; beyond it handshakes get 503. 0 for no limit."`
	SessionKey     []string `group:"sessions" placeholder:"KEY" help:"Makes ids that clients cannot invent; ids of other keys, and without one, are refused. The first makes them, all check them, so that keys can be changed. 32 bytes or more each: text, base64:… or whsec_…, the same on all gateways."`
	MaxSessions    count    `group:"sessions" default:"1000000" placeholder:"N" help:"Sessions held in memory; beyond it the one idle for longest is forgotten."`

	RedisURL            string   `group:"redis" name:"redis-url" placeholder:"URL" help:"redis://user:password@host:port/db, or rediss:// for TLS. A variable keeps the password out of the process list."`
	RedisClientCache    bool     `group:"redis" default:"true" negatable:"" help:"Keep counts of idle sessions in this process by Redis client-side caching."`
	RedisDurability     string   `group:"redis" enum:"strict,warn" default:"warn" placeholder:"NAME" help:"When Redis may lose what it acknowledged (no appendonly, no fsync, or eviction): strict is never ready, warn logs it once."`
	RedisWaitReplicas   count    `group:"redis" default:"0" placeholder:"N" help:"Replicas that must have received a count before it is acknowledged, so that a failover to one of them loses none."`
	RedisCommitInterval duration `group:"redis" default:"1ms" placeholder:"TIME" help:"Least time between two batches of counts, so that messages gather while Redis is fast; 0 to send as soon as it has answered."`
	RedisKeyPrefix      string   `group:"redis" default:"sluice:session:" placeholder:"TEXT" help:"What the keys of sessions begin with; gateways with the same prefix share their sessions."`

	DrainDelay   duration `group:"stop" default:"0s" placeholder:"TIME" help:"How long to go on accepting, with readiness off, before a drain: for load balancers to notice."`
	DrainTimeout duration `group:"stop" default:"10s" placeholder:"TIME" help:"How long a drain may take before what is left is cut off."`
	DrainSpread  duration `group:"stop" default:"1s" placeholder:"TIME" help:"Time over which a drain spreads its goodbyes."`

	LogLevel  string `group:"logs" enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `group:"logs" enum:"json,text" default:"json" placeholder:"NAME" help:"json or text."`

	accessConfig   `embed:""`
	takeoverConfig `embed:""`
}

// configGroups are the headings of --help and of the printed configuration, in the order of the
// fields above.
var configGroups = []struct{ key, title string }{
	{"net", "Network"},
	{"tls", "TLS"},
	{"app", "Protocol"},
	{"backend", "Services behind the gateway (--app backend)"},
	{"control", "Publishing (--app backend)"},
	{"topics", "Topics (--app backend)"},
	{"clients", "Clients"},
	{"auth", "Tokens"},
	{"compression", "Compression"},
	{"limits", "Limits"},
	{"sessions", "Sessions"},
	{"redis", "Sessions in Redis (--session-store redis)"},
	{"stop", "Stopping"},
	{"logs", "Logs"},
}

// adminOff says that there is no admin address.
func (c *config) adminOff() bool { return c.Admin == "" || c.Admin == "off" }

// minToken is how many characters an --admin-token has at least.
const minToken = 16

// longest is what a setting of time may be, a year: sums and multiples of times near the end of
// their range overflow.
const longest = 365 * 24 * time.Hour

// peersTime is how much of a drain is for clients. One that does not leave must not take from the
// store the time for what all the others sent.
func (c *config) peersTime() time.Duration {
	timeout := time.Duration(c.DrainTimeout)
	return timeout - min(timeout/4, 2*time.Second)
}

// closeTimeout is how long a client may take to answer a Close: no longer than a drain can wait for
// the one that was told last, and has vanished. It leaves room for the FIN after it (2 s) and for a
// loop that is late. Below a second it would cut short what the store needs for the last words; a
// drain that leaves less time than that cuts off who is silent.
func (c *config) closeTimeout() time.Duration {
	const usual, fin = 5 * time.Second, 2 * time.Second
	room := c.peersTime() - time.Duration(c.DrainSpread) - fin
	return min(max(room*3/4, time.Second), usual)
}

// check judges what one value alone cannot show. name says where a setting came from ("--loops",
// "SLUICE_LOOPS", "sluice.yaml:3: loops"), so that the reader knows which place to change.
func (c *config) check(name func(flag string) string) error {
	wrong := func(flag, format string, args ...any) error {
		return fmt.Errorf("%s: %s", name(flag), fmt.Sprintf(format, args...))
	}
	if err := checkAddress(c.Listen); err != nil {
		return wrong("listen", "%v", err)
	}
	// The public address is opened without a resolver: it must not hang on DNS, nor change with it.
	if host, _, _ := net.SplitHostPort(c.Listen); host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			return wrong("listen", "host %q: want an IP address, localhost or nothing", host)
		}
	}
	if !c.adminOff() {
		if err := checkAddress(c.Admin); err != nil {
			return wrong("admin", "%v (or off)", err)
		}
		if c.Admin == c.Listen && !strings.HasSuffix(c.Listen, ":0") {
			return wrong("admin", "%s is the --listen address too; give it another port", c.Admin)
		}
	}
	if n := len(c.AdminToken); n > 0 && n < minToken {
		return wrong("admin-token", "%d characters can be guessed (want %d or more)", n, minToken)
	}
	for _, o := range c.AllowedOrigins {
		if _, err := gateway.CheckOrigin(o); err != nil {
			return wrong("allowed-origins", "%v", err)
		}
	}
	for _, h := range c.AllowedHosts {
		if _, err := gateway.CheckHost(h); err != nil {
			return wrong("allowed-hosts", "%v", err)
		}
	}
	if time.Duration(c.DrainDelay) > longest {
		return wrong("drain-delay", "%v is too long (want %v or less)", c.DrainDelay, duration(longest))
	}
	if most := time.Second; time.Duration(c.RedisCommitInterval) > most {
		return wrong("redis-commit-interval", "%v is too long (want %v or less)", c.RedisCommitInterval, most)
	}
	for _, d := range []struct {
		flag      string
		value     duration
		least     time.Duration
		zeroIsOff bool
	}{
		{"heartbeat", c.Heartbeat, 10 * time.Millisecond, true}, // one tick of the loops
		{"handshake-timeout", c.HandshakeTimeout, 10 * time.Millisecond, false},
		{"message-timeout", c.MessageTimeout, 10 * time.Millisecond, false},
		{"drain-timeout", c.DrainTimeout, 10 * time.Millisecond, false},
		// Redis expires in whole seconds.
		{"session-ttl", c.SessionTTL, time.Second, false},
		{"backend-timeout", c.BackendTimeout, 10 * time.Millisecond, false},
		{"backend-connect-timeout", c.BackendConnectTimeout, 10 * time.Millisecond, false},
		{"backend-hold", c.BackendHold, 10 * time.Millisecond, false},
	} {
		if d.zeroIsOff && d.value == 0 {
			continue
		}
		if time.Duration(d.value) < d.least {
			return wrong(d.flag, "%v is too short (want %v or more)", d.value, d.least)
		}
		if time.Duration(d.value) > longest {
			return wrong(d.flag, "%v is too long (want %v or less)", d.value, duration(longest))
		}
	}
	if spread, most := time.Duration(c.DrainSpread), c.peersTime(); spread > most {
		return wrong("drain-spread", "%v is longer than the %v that --drain-timeout %v leaves for clients, which would cut off those told last", c.DrainSpread, duration(most), c.DrainTimeout)
	}
	if !c.HeartbeatPing && c.App == "backend" {
		return wrong("heartbeat-ping", "with --app backend a Ping is all that a heartbeat is (use --heartbeat 0 for none)")
	}
	if c.Loops > maxLoops {
		return wrong("loops", "%d is too many (want 0 for one per core, and at most %d)", c.Loops, maxLoops)
	}
	if c.MaxMessage < 125 || c.MaxMessage > 1<<30 {
		return wrong("max-message", "%v is out of range (want 125 bytes to 1GiB)", c.MaxMessage)
	}
	if c.MaxHeader < 256 || c.MaxHeader > 1<<20 {
		return wrong("max-header", "%v is out of range (want 256 bytes to 1MiB)", c.MaxHeader)
	}
	if c.MaxBuffered != 0 && c.MaxBuffered < 1<<20 {
		return wrong("max-buffered", "%v is too little (want 1MiB or more, or 0 for the default)", c.MaxBuffered)
	}
	if c.MaxQueue < 1<<10 || c.MaxQueue > 1<<30 {
		return wrong("max-queue", "%v is out of range (want 1KiB to 1GiB)", c.MaxQueue)
	}
	if c.SocketBuffer != 0 && (c.SocketBuffer < 4<<10 || c.SocketBuffer > 64<<20) {
		return wrong("socket-buffer", "%v is out of range (want 4KiB to 64MiB, or 0 for the kernel's choice)", c.SocketBuffer)
	}
	if _, err := c.sessionKeys(); err != nil {
		return wrong("session-key", "%v", err)
	}
	if c.MaxSessions < 1 {
		return wrong("max-sessions", "must be at least 1")
	}
	if err := c.checkTLS(wrong); err != nil {
		return err
	}
	if err := c.checkClients(wrong); err != nil {
		return err
	}
	if err := c.checkTopics(wrong); err != nil {
		return err
	}
	if err := c.checkBackend(wrong); err != nil {
		return err
	}
	return c.checkRedis(name)
}

// checkRedis leaves the finer points of the URL to the client, which knows them.
func (c *config) checkRedis(name func(flag string) string) error {
	if c.SessionStore != "redis" {
		return nil
	}
	if c.App != "count" {
		return fmt.Errorf("%s: --app %s counts nothing, so there is nothing to keep in Redis; leave out one of the two", name("session-store"), c.App)
	}
	if c.RedisURL == "" {
		return fmt.Errorf("%s: redis needs --redis-url (or SLUICE_REDIS_URL, or REDIS_URL), for example redis://127.0.0.1:6379/0", name("session-store"))
	}
	if err := checkRedisURL(c.RedisURL); err != nil {
		return fmt.Errorf("%s: %w", name("redis-url"), err)
	}
	return nil
}

func checkAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not an address (want host:port, or :port for all interfaces)", addr)
	}
	return nil
}

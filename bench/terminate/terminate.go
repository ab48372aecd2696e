// Package terminate measures what TLS costs a server, in memory and CPU: Sluice's own in front of
// Sluice without it, of gorilla over crypto/tls, and of nginx and HAProxy before a plain Sluice,
// which count together with it. All serve the same echo with the same certificate, key exchange
// and cipher suite, each in a fresh process, in rounds whose order rotates.
package terminate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"text/tabwriter"
	"time"

	"sluice/bench/launch"
	"sluice/bench/load"
	"sluice/bench/units"
)

// The servers.
const (
	Compact = "compact" // Sluice, --tls-records compact
	Std     = "std"     // Sluice, --tls-records std
	Plain   = "plain"   // Sluice without TLS
	Gorilla = "gorilla" // a goroutine for each connection and direction, crypto/tls
	Nginx   = "nginx"   // before Plain
	HAProxy = "haproxy" // before Plain
)

// Names are all servers, in the order of the table.
func Names() []string { return []string{Compact, Std, Plain, Gorilla, Nginx, HAProxy} }

// Options of a comparison. The zero value measures all servers once.
type Options struct {
	Sluice string // the sluice binary; "" looks beside this program, in ./bin and in PATH
	// Self is a program that knows `baseline gorilla --tls-cert C --tls-key K`; "" is this one.
	Self     string
	Only     []string      // some of Names; nil is all
	Conns    int           // connections of each server; 0 is 3000
	Window   int           // messages outstanding, over all connections; 0 is 64
	Duration time.Duration // of the messages; 0 is 3 s
	Settle   time.Duration // before each sample of the server; 0 is 2 s
	Rounds   int           // 0 is 1; the table shows medians
	// Log, when set, is called with a line at a time by the goroutine that called Run.
	Log func(line string)
}

func (o Options) withDefaults() (Options, error) {
	o.Conns, o.Window, o.Rounds = or(o.Conns, 3000), or(o.Window, 64), or(o.Rounds, 1)
	o.Duration, o.Settle = or(o.Duration, 3*time.Second), or(o.Settle, 2*time.Second)
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.Only == nil {
		o.Only = Names()
	}
	for _, name := range o.Only {
		if !slices.Contains(Names(), name) {
			return o, fmt.Errorf("server %q is not known (use some of %v)", name, Names())
		}
	}
	if o.Conns < 1 || o.Window < 1 || o.Rounds < 1 || o.Duration < 0 || o.Settle < 0 {
		return o, errors.New("connections, window, rounds and times must be positive")
	}
	var err error
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find this program, to start gorilla: %w", err)
		}
	}
	o.Sluice, err = launch.FindSluice(o.Sluice, "--sluice")
	return o, err
}

func or[T comparable](v, otherwise T) T {
	if v == *new(T) {
		return otherwise
	}
	return v
}

// Report is what a comparison found.
type Report struct {
	Conns    int
	Servers  []Server // in the order of Names; without those that could not be measured
	Troubles []string
}

// Server is the medians of a server's rounds.
type Server struct {
	Name string
	// Idle is bytes of anonymous memory for each connection that has sent nothing; 0 where growth
	// does not show it.
	Idle      float64
	Handshake float64 // CPU µs to accept a connection, TLS and WebSocket
	Message   float64 // CPU µs to take a message and send it back
	Rounds    int

	idle, handshake, message []float64
}

// Run measures the servers in turn. It starts processes and ends all of them before it returns. A
// server that is not installed, or that cannot be measured, is a line of Troubles; the end of ctx
// is an error.
func Run(ctx context.Context, o Options) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Report{Conns: o.Conns}
	for _, name := range Names() {
		if !slices.Contains(o.Only, name) {
			continue
		}
		if name == Nginx || name == HAProxy {
			if _, err := exec.LookPath(name); err != nil {
				r.Troubles = append(r.Troubles, name+" was left out: "+err.Error())
				continue
			}
		}
		r.Servers = append(r.Servers, Server{Name: name})
	}
	dir, err := os.MkdirTemp("", "sluice-bench-tls")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	for round := range o.Rounds {
		for i := range r.Servers {
			s := &r.Servers[(i+round)%len(r.Servers)]
			o.Log(fmt.Sprintf("round %d of %d: %s", round+1, o.Rounds, s.Name))
			err := o.measure(ctx, dir, s)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			if err != nil {
				r.Troubles = append(r.Troubles, fmt.Sprintf("%s, round %d: %v", s.Name, round+1, err))
			}
		}
	}
	for i := range r.Servers {
		s := &r.Servers[i]
		s.Idle, s.Handshake, s.Message = median(s.idle), median(s.handshake), median(s.message)
		s.Rounds = len(s.message)
	}
	r.Servers = slices.DeleteFunc(r.Servers, func(s Server) bool { return s.Rounds == 0 })
	if len(r.Servers) == 0 {
		return r, errors.New("no server could be measured")
	}
	return r, nil
}

// measure makes one load on a fresh server.
func (o Options) measure(ctx context.Context, dir string, s *Server) error {
	t, err := o.start(ctx, dir, s.Name)
	defer t.stop()
	if err != nil {
		return err
	}
	pids := t.pids()
	r, err := load.Run(ctx, load.Spec{
		Targets: []string{t.url}, Scenario: load.Echo, Conns: o.Conns, Ramp: 1e6, Insecure: true,
		// nginx and HAProxy may be built with an OpenSSL that has no ML-KEM.
		Curves:   []tls.CurveID{tls.X25519},
		Duration: o.Duration, Window: o.Window, Payload: 32, Settle: o.Settle,
		ServerPID: pids[0], MorePIDs: pids[1:],
	})
	switch {
	case err != nil:
		return err
	case len(r.Failures) > 0:
		return fmt.Errorf("the load failed: %s%s", r.Failures[0], t.outputNote())
	case r.Server == nil || r.Server.CPUPerMessageUS == 0:
		return errors.New("the load has measured nothing of the server")
	}
	if v := r.Server.UserIdlePerConn; v > 0 {
		s.idle = append(s.idle, v)
	}
	s.handshake = append(s.handshake, r.Server.CPUPerHandshakeUS)
	s.message = append(s.message, r.Server.CPUPerMessageUS)
	return nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// WriteTable writes the medians, and beside a message's how many times Plain's it is.
func (r *Report) WriteTable(w io.Writer) error {
	plain := 0.0
	for _, s := range r.Servers {
		if s.Name == Plain {
			plain = s.Message
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "server\tmemory/conn, idle\tCPU/handshake\tCPU/message\t÷ plain\trounds\t")
	for _, s := range r.Servers {
		idle, ratio := "–", "–"
		if s.Idle > 0 {
			idle = units.Number(int64(s.Idle+0.5)) + " B"
		}
		if plain > 0 {
			ratio = fmt.Sprintf("%.2f", s.Message/plain)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t\n", s.Name, idle, units.Micros(s.Handshake),
			units.Micros(s.Message), ratio, s.Rounds)
	}
	err := t.Flush()
	for _, line := range r.Troubles {
		_, werr := fmt.Fprintln(w, line)
		err = errors.Join(err, werr)
	}
	return err
}

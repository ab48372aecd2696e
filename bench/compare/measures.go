package compare

import (
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"sluice/bench/baseline"
	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"
)

// Report is what a comparison found. It marshals to the JSON file.
type Report struct {
	Started  time.Time      `json:"started"`
	Seconds  float64        `json:"seconds"` // how long it took
	Command  string         `json:"command"`
	Quick    bool           `json:"quick"`
	App      string         `json:"app"`               // what all servers served
	Running  []string       `json:"running,omitempty"` // servers that were running before
	Machine  procfs.Machine `json:"machine"`
	Load     float64        `json:"load_average"` // of the minute before it began; -1 unknown
	Plan     Plan           `json:"plan"`
	Servers  []Server       `json:"servers"`  // sluice first, then in the order of the names
	Losses   []string       `json:"losses"`   // where sluice is worse, one sentence each
	Worse    []string       `json:"worse"`    // its median is worse, the spreads overlap
	Unclear  []string       `json:"unclear"`  // its median is not worse, likewise
	Floor    []string       `json:"floor"`    // what it costs more than system calls
	Troubles []string       `json:"troubles"` // what went wrong
	Trials   []Trial        `json:"trials"`
}

// Server sums up the trials of one server.
type Server struct {
	Name    string             `json:"name"`
	Version string             `json:"version"` // of its library; "" when it has none
	Stats   map[string]Stat    `json:"stats"`   // by the key of a measure
	Ratio   map[string]float64 `json:"ratio"`   // sluice's median ÷ this one's
	Sizes   []Size             `json:"sizes"`
	// Latency is of the open loop at the most connections: of the trial with the median p99.
	// Ramp is of the same trial.
	Latency load.Latency `json:"latency"`
	Ramp    []load.Point `json:"ramp"`
}

// Stat is a median with its spread.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"` // trials
}

// Size is a server's memory at one number of connections, in bytes for all of them.
type Size struct {
	Conns  int  `json:"conns"`
	Idle   Stat `json:"user_idle"`
	After  Stat `json:"user_after"`
	Kernel Stat `json:"kernel_idle"` // both ends of the connections
}

// Trial is one load on one fresh process.
type Trial struct {
	Server string             `json:"server"`
	Kind   Kind               `json:"kind"`
	Conns  int                `json:"conns"`
	Round  int                `json:"round"`
	Values map[string]float64 `json:"values"`

	message load.Latency
	ramp    []load.Point
}

// measure is one row of the comparison.
type measure struct {
	key, title string
	kind       Kind // of the trials it is taken from
	more       bool // more is better
	work       bool // worth comparing with the floor
	aside      bool // shown, but no contest: machine-wide, or of a few samples only
	format     func(v float64) string
	of         func(r *load.Result, in inside) float64 // 0: not known
}

func ofServer(f func(s *load.ServerUsage) float64) func(*load.Result, inside) float64 {
	return func(r *load.Result, _ inside) float64 {
		if r.Server == nil {
			return 0
		}
		return f(r.Server)
	}
}

func rate(v float64) string { return units.Number(int64(v + 0.5)) }
func size(v float64) string { return units.Number(int64(v+0.5)) + " B" }

var measures = []measure{
	{key: "connections_per_second", title: "connections/s", kind: Closed, work: true, more: true, format: rate,
		of: func(r *load.Result, _ inside) float64 { return r.ConnectionsPerSecond() }},
	{key: "user_idle_bytes", title: "memory/conn, idle", kind: Closed, format: size,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.UserIdlePerConn })},
	{key: "user_after_bytes", title: "memory/conn, after traffic", kind: Closed, format: size,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.UserAfterPerConn })},
	{key: "kernel_idle_bytes", title: "kernel/conn, both ends", kind: Closed, aside: true, format: size,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.KernelIdlePerConn })},
	{key: "kernel_after_bytes", title: "kernel/conn, both ends, after traffic", kind: Closed, aside: true, format: size,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.KernelAfterPerConn })},
	{key: "cpu_handshake_us", title: "CPU/handshake", kind: Closed, work: true, format: units.Micros,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.CPUPerHandshakeUS })},
	{key: "cpu_message_us", title: "CPU/message", kind: Closed, work: true, format: units.Micros,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.CPUPerMessageUS })},
	{key: "cpu_beat_us", title: "CPU/heartbeat", kind: Beats, work: true, format: units.Micros,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.CPUPerBeatUS })},
	{key: "messages_per_second", title: "messages/s", kind: Closed, work: true, more: true, format: rate,
		of: func(r *load.Result, _ inside) float64 { return r.MessagesPerSecond() }},
	{key: "p50_us", title: "p50", kind: Open, format: units.Micros,
		of: func(r *load.Result, _ inside) float64 { return float64(r.Message.P50US) }},
	{key: "p90_us", title: "p90", kind: Open, format: units.Micros,
		of: func(r *load.Result, _ inside) float64 { return float64(r.Message.P90US) }},
	{key: "p99_us", title: "p99", kind: Open, format: units.Micros,
		of: func(r *load.Result, _ inside) float64 { return float64(r.Message.P99US) }},
	{key: "p99_9_us", title: "p99.9", kind: Open, format: units.Micros,
		of: func(r *load.Result, _ inside) float64 { return float64(r.Message.P999US) }},
	{key: "cpu_message_open_us", title: "CPU/message at a fixed rate", kind: Open, work: true, format: units.Micros,
		of: ofServer(func(s *load.ServerUsage) float64 { return s.CPUPerMessageUS })},
	{key: "goroutines", title: "goroutines", kind: Closed, aside: true, format: rate,
		of: func(_ *load.Result, in inside) float64 { return in.goroutines }},
	{key: "gc_pause_us", title: "GC pauses, sum", kind: Closed, aside: true, format: units.Micros,
		of: func(_ *load.Result, in inside) float64 { return in.gcPauses }},
	{key: "gc_pause_max_us", title: "GC pause, longest", kind: Closed, aside: true, format: units.Micros,
		of: func(_ *load.Result, in inside) float64 { return in.gcPauseMax }},
}

// Keys of what Size shows; every trial has them.
const (
	userIdle   = "user_idle_total"
	userAfter  = "user_after_total"
	kernelIdle = "kernel_idle_total"
)

func newTrial(name string, s Step, round int, r *load.Result, in inside) Trial {
	t := Trial{Server: name, Kind: s.Kind, Conns: s.Conns, Round: round,
		Values: make(map[string]float64), message: r.Message}
	for _, m := range measures {
		if m.kind == s.Kind {
			if v := m.of(r, in); v != 0 {
				t.Values[m.key] = v
			}
		}
	}
	// Not of a server that ended on the way, or that reused memory.
	if u := r.Server; u != nil && u.After.Processes > 0 && u.MemoryUnknown == "" {
		t.Values[userIdle] = float64(u.Idle.Anon - u.Before.Anon)
		t.Values[userAfter] = float64(u.After.Anon - u.Before.Anon)
		t.Values[kernelIdle] = u.KernelIdlePerConn * float64(s.Conns)
	}
	// From its very beginning to its end, which fall between the points of the timeline.
	t.ramp = []load.Point{{Phase: "ramp"}}
	for _, p := range r.Timeline {
		if p.Phase == "ramp" && p.Seconds < r.RampSeconds {
			t.ramp = append(t.ramp, p)
		}
	}
	t.ramp = append(t.ramp, load.Point{Phase: "ramp", Seconds: r.RampSeconds, Open: r.Counters.Ramped})
	return t
}

// main is the size that the measures of kind k are taken at: the one with the
// most connections among that kind's steps.
func (p Plan) main(k Kind) (conns int) {
	for _, s := range p.Steps {
		if s.Kind == k {
			conns = max(conns, s.Conns)
		}
	}
	return conns
}

func newStat(values []float64) Stat {
	if len(values) == 0 {
		return Stat{}
	}
	slices.Sort(values)
	mid := len(values) / 2
	s := Stat{Median: values[mid], Min: values[0], Max: values[len(values)-1], N: len(values)}
	if len(values)%2 == 0 {
		s.Median = (values[mid-1] + values[mid]) / 2
	}
	return s
}

// stat sums up key over the trials that match.
func (r *Report) stat(server, key string, match func(t *Trial) bool) Stat {
	var values []float64
	for i := range r.Trials {
		t := &r.Trials[i]
		if v, ok := t.Values[key]; ok && t.Server == server && match(t) {
			values = append(values, v)
		}
	}
	return newStat(values)
}

// summarise fills in the servers and the words.
func (r *Report) summarise(names []string) {
	versions := libraryVersions()
	for _, name := range names {
		s := Server{Name: name, Version: versions[name],
			Stats: make(map[string]Stat), Ratio: make(map[string]float64)}
		for _, m := range measures {
			conns := r.Plan.main(m.kind)
			of := func(t *Trial) bool { return t.Kind == m.kind && t.Conns == conns }
			if st := r.stat(name, m.key, of); st.N > 0 {
				s.Stats[m.key] = st
			}
		}
		if len(s.Stats) == 0 {
			continue
		}
		s.Sizes = r.sizes(name)
		r.typical(&s)
		r.Servers = append(r.Servers, s)
	}
	base, ok := r.server(Sluice)
	if !ok {
		return
	}
	for i := range r.Servers {
		for key, st := range r.Servers[i].Stats {
			if mine := base.Stats[key]; mine.N > 0 && st.Median > 0 {
				r.Servers[i].Ratio[key] = mine.Median / st.Median
			}
		}
	}
	r.judge()
}

// sizes is the server's memory at every number of connections, whatever the load.
func (r *Report) sizes(name string) (sizes []Size) {
	var all []int
	for _, s := range r.Plan.Steps {
		if s.Kind != Beats { // another heartbeat interval is another server
			all = append(all, s.Conns)
		}
	}
	slices.Sort(all)
	for _, conns := range slices.Compact(all) {
		at := func(t *Trial) bool { return t.Conns == conns && t.Kind != Beats }
		s := Size{conns, r.stat(name, userIdle, at), r.stat(name, userAfter, at),
			r.stat(name, kernelIdle, at)}
		if s.Idle.N > 0 {
			sizes = append(sizes, s)
		}
	}
	return sizes
}

// typical gives s the curves of its open-loop trial whose p99 is the median one.
func (r *Report) typical(s *Server) {
	var of []*Trial
	for i := range r.Trials {
		if t := &r.Trials[i]; t.Server == s.Name && t.Kind == Open && t.Conns == r.Plan.main(Open) {
			of = append(of, t)
		}
	}
	if len(of) == 0 {
		return
	}
	slices.SortFunc(of, func(a, b *Trial) int { return int(a.message.P99US - b.message.P99US) })
	t := of[len(of)/2]
	s.Latency, s.Ramp = t.message, t.ramp
}

func (r *Report) server(name string) (Server, bool) {
	for _, s := range r.Servers {
		if s.Name == name {
			return s, true
		}
	}
	return Server{}, false
}

// libraryVersions are those this program was built with: it is the baselines.
func libraryVersions() map[string]string {
	versions := map[string]string{baseline.Floor: "C, epoll"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return versions
	}
	for _, m := range info.Deps {
		for _, x := range []struct{ path, name string }{
			{"github.com/gorilla/websocket", "gorilla"},
			{"github.com/coder/websocket", "coder"}, {"github.com/gobwas/ws", "gobwas"},
			{"github.com/lxzan/gws", "gws"},
		} {
			if m.Path == x.path {
				versions[x.name] = m.Version
			}
		}
	}
	return versions
}

// apart reports whether two spreads do not overlap and the medians differ by more than noise.
func (s Stat) apart(t Stat) bool {
	lo, hi := min(s.Median, t.Median), max(s.Median, t.Median)
	if s.N < 2 || t.N < 2 { // one trial has no spread
		return hi > lo*1.25
	}
	return (s.Max < t.Min || t.Max < s.Min) && hi > lo*1.05
}

// versus sets two servers side by side.
func (m measure) versus(nameA string, a Stat, nameB string, b Stat) string {
	return fmt.Sprintf("%s: %s %s, %s %s (%.2f ×)",
		m.title, nameA, m.format(a.Median), nameB, m.format(b.Median), a.Median/b.Median)
}

// judge writes down where sluice is worse than another server.
func (r *Report) judge() {
	mine, _ := r.server(Sluice)
	one, _ := r.server(OneLoop)
	for _, m := range measures {
		a, ok := mine.Stats[m.key]
		if !ok || m.aside {
			continue
		}
		for _, s := range r.Servers {
			b, ok := s.Stats[m.key]
			if !ok || s.Name == Sluice || s.Name == OneLoop {
				continue
			}
			words := m.versus(Sluice, a, s.Name, b)
			worse := a.Median > b.Median
			if m.more {
				worse = a.Median < b.Median
			}
			switch {
			case s.Name == baseline.Floor && !m.work: // it holds nothing
			case s.Name == baseline.Floor:
				r.Floor = append(r.Floor, words)
				if like, ok := one.Stats[m.key]; ok {
					r.Floor = append(r.Floor, m.versus(OneLoop, like, s.Name, b))
				}
			case worse && a.apart(b):
				r.Losses = append(r.Losses, words)
			case worse:
				r.Worse = append(r.Worse, words)
			case !a.apart(b):
				r.Unclear = append(r.Unclear, words)
			}
		}
	}
}

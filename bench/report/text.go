package report

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"

	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"
)

// WriteText writes a result for a terminal. An error is w's.
func WriteText(w io.Writer, r *load.Result) error {
	var b strings.Builder
	n := &r.Counters
	state := ""
	if !r.Complete {
		state = " (cut short: so far)"
	}
	fmt.Fprintf(&b, "\n%s, %s connections to %s%s\n\n",
		r.Spec.Scenario, units.Number(r.Spec.Conns), some(r.Spec.Targets), state)
	fmt.Fprintf(&b, "  opened    %s of %s in %s, %s/s\n", units.Number(n.Ramped),
		units.Number(r.Spec.Conns), units.Seconds(r.RampSeconds), perSecond(r.ConnectionsPerSecond()))
	if n.Sent > 0 {
		fmt.Fprintf(&b, "  messages  %s sent, %s answered in %s, %s/s%s\n", units.Number(n.Sent),
			units.Number(n.Timely), units.Seconds(r.TrafficSeconds), perSecond(r.MessagesPerSecond()),
			later(r))
	} else {
		fmt.Fprintf(&b, "  held      %s\n", units.Seconds(r.TrafficSeconds))
	}
	writeCounts(&b, r)
	b.WriteByte('\n')
	writeLatencies(&b, r)
	if r.Server != nil {
		writeServer(&b, r.Server)
	}
	writeTool(&b, &r.Tool)
	switch {
	case r.OK() && r.Complete:
		b.WriteString("  ok\n")
	case r.OK():
		b.WriteString("  ok so far\n")
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "  FAILED: %s\n", f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// later is what came after the traffic's end.
func later(r *load.Result) string {
	if n := r.Counters.Replies - r.Counters.Timely; n > 0 {
		return fmt.Sprintf("; %s more after that, the last after %s",
			units.Number(n), units.Seconds(r.ReplySeconds))
	}
	return ""
}

func perSecond(v float64) string { return units.Number(int64(v + 0.5)) }

// writeCounts writes what else was counted.
func writeCounts(out io.Writer, r *load.Result) {
	n := &r.Counters
	for _, l := range []struct {
		n    int64
		name string
	}{
		{n.Churned, "visits"}, {n.Resumed, "resumed"}, {n.Beats, "beats"}, {n.Pings, "pings"},
		{n.Byes, "byes"}, {n.Others, "other messages from the server"},
		{r.Published, "publications"}, {n.Gaps, "gaps told"},
		{n.Unanswered, "in flight when their connection ended"},
	} {
		if l.n > 0 {
			fmt.Fprintf(out, "  %-9s %s\n", l.name, units.Number(l.n))
		}
	}
	if r.Spec.Scenario == load.Slow {
		fmt.Fprintf(out, "  slow      %s did not read; the server cut %s of them off\n",
			units.Number(r.Spec.SlowClients()), units.Number(n.SlowCut))
	}
	for i, s := range r.RecoverySeconds {
		fmt.Fprintf(out, "  storm %d   all back after %s\n", i+1, units.Seconds(s))
	}
	if len(n.Reasons) > 0 {
		fmt.Fprintf(out, "  attempts that failed: %s\n", load.ListCounts(n.Reasons))
	}
	if len(n.Closes) > 0 {
		fmt.Fprintf(out, "  closed by the server: %s, over %s\n",
			load.ListCloses(n.Closes), units.Seconds(r.DrainSeconds))
	}
	if len(n.Faults) > 0 {
		fmt.Fprintf(out, "  faults of the server: %s\n", load.ListCounts(n.Faults))
	}
	for _, e := range r.WrongReplies {
		if e.Kind == load.NotExpected && n.Missing == 0 { // else a failure says so
			fmt.Fprintf(out, "  %s: the first was %s, expected %s\n", e.Kind, e.Got, e.Want)
		}
	}
}

// writeTool writes what is known: an interrupted run has not made every measurement.
func writeTool(out io.Writer, t *load.ToolUsage) {
	loops := "loops"
	if t.Loops == 1 {
		loops = "loop"
	}
	fmt.Fprintf(out, "  this tool: %d %s", t.Loops, loops)
	if t.CPUPerHandshakeUS > 0 {
		fmt.Fprintf(out, ", %.1f µs CPU a handshake", t.CPUPerHandshakeUS)
	}
	if t.CPUPerMessageUS > 0 {
		fmt.Fprintf(out, ", %.1f µs CPU a message", t.CPUPerMessageUS)
	}
	if t.RSSPerConn > 0 {
		fmt.Fprintf(out, ", %s of memory a connection", units.Bytes(t.RSSPerConn))
	}
	fmt.Fprint(out, "\n\n")
}

func writeLatencies(out io.Writer, r *load.Result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  \tp50\tp90\tp99\tp99.9\tp99.99\tmax\tcount\t\n")
	for _, l := range named(r) {
		fmt.Fprintf(w, "  %s\t", l.name)
		for _, us := range []int64{l.P50US, l.P90US, l.P99US, l.P999US, l.P9999, l.MaxUS} {
			fmt.Fprintf(w, "%s\t", units.Micros(float64(us)))
		}
		fmt.Fprintf(w, "%s\t\n", units.Number(l.Count))
	}
	w.Flush()
	fmt.Fprintln(out)
}

// writeServer writes what is known, as writeTool does.
func writeServer(out io.Writer, s *load.ServerUsage) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  server\tCPU s\tRSS\tPSS\tUSS\tanonymous\tdescriptors\tthreads\t"+
		"kernel: buffers\tobjects\t\n")
	for _, u := range []struct {
		name string
		procfs.Usage
	}{{"before", s.Before}, {"idle", s.Idle}, {"after", s.After}} {
		if u.Processes == 0 {
			continue
		}
		fmt.Fprintf(w, "  %s\t%.2f\t", u.name, u.CPUSeconds)
		for _, b := range []int64{u.RSS, u.PSS, u.USS, u.Anon} {
			fmt.Fprintf(w, "%s\t", units.Bytes(float64(b)))
		}
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t\n", u.FDs, u.Threads,
			units.Bytes(float64(u.KernelTCP)), units.Bytes(float64(u.KernelSlab)))
	}
	w.Flush()
	if s.Idle.Processes == 0 {
		fmt.Fprintln(out)
		return
	}
	memory := "memory per connection: " + orDash(s.UserIdlePerConn, units.Bytes) + " idle"
	kernel := orDash(s.KernelIdlePerConn, units.Bytes)
	if s.After.Processes > 0 {
		memory += ", " + orDash(s.UserAfterPerConn, units.Bytes) + " after traffic"
		kernel += ", " + orDash(s.KernelAfterPerConn, units.Bytes)
	}
	fmt.Fprintf(out, "  %s; kernel %s (machine-wide, %s)\n", memory, kernel, s.Idle.SlabSource)
	if s.MemoryUnknown != "" {
		fmt.Fprintf(out, "  – because %s; at most %s each\n",
			s.MemoryUnknown, units.Bytes(s.AtMostPerConn))
	}
	fmt.Fprintf(out, "  CPU: %.1f µs a handshake", s.CPUPerHandshakeUS)
	for _, c := range []struct {
		us   float64
		each string
	}{{s.CPUPerMessageUS, "message"}, {s.CPUPerBeatUS, "heartbeat"}, {s.CPUPerVisitUS, "visit"}} {
		if c.us > 0 {
			fmt.Fprintf(out, ", %.2f µs a %s", c.us, c.each)
		}
	}
	if s.After.Processes > 0 {
		fmt.Fprintf(out, "; %.3f cores during the traffic", s.CPUTrafficCores)
	}
	fmt.Fprint(out, "\n\n")
}

// WriteJSON writes a result as indented JSON. Of the request headers it writes the names only:
// values may be credentials, and results are passed around.
func WriteJSON(w io.Writer, r *load.Result) error {
	shown := *r
	shown.Spec.Headers = make(http.Header, len(r.Spec.Headers))
	for name := range r.Spec.Headers {
		shown.Spec.Headers[name] = []string{"…"}
	}
	return writeJSON(w, &shown)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

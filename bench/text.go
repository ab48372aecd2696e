package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText writes the result for a terminal.
func (r *Result) WriteText(out io.Writer) error {
	var b strings.Builder
	n := &r.Counters
	state := ""
	if !r.Complete {
		state = " (cut short: so far)"
	}
	fmt.Fprintf(&b, "\n%s, %s connections to %s%s\n\n", r.Spec.Scenario, commas(int64(r.Spec.Conns)), some(r.Spec.Targets), state)
	fmt.Fprintf(&b, "  opened    %s of %s in %s, %s/s\n", commas(n.Ramped), commas(int64(r.Spec.Conns)), seconds(r.RampSeconds), commas(int64(r.ConnectionsPerSecond()+0.5)))
	if n.Sent > 0 {
		fmt.Fprintf(&b, "  messages  %s sent, %s answered in %s, %s/s\n", commas(n.Sent), commas(n.Replies), seconds(r.TrafficSeconds), commas(int64(r.MessagesPerSecond()+0.5)))
	} else {
		fmt.Fprintf(&b, "  held      %s\n", seconds(r.TrafficSeconds))
	}
	r.counts(&b)
	b.WriteByte('\n')
	r.latencyTable(&b)
	if r.Server != nil {
		r.Server.table(&b)
	}
	r.Tool.text(&b, r.Spec.ExtraCPU)
	switch {
	case r.OK() && r.Complete:
		b.WriteString("  ok\n")
	case r.OK():
		b.WriteString("  ok so far\n")
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "  FAILED: %s\n", f)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// counts writes what there was of all else that is counted.
func (r *Result) counts(out io.Writer) {
	n := &r.Counters
	for _, l := range []struct {
		n    int64
		name string
	}{
		{n.Churned, "visits"}, {n.Resumed, "resumed"}, {n.Beats, "beats"}, {n.Pings, "pings"},
		{n.Byes, "byes"}, {n.Unanswered, "in flight when their connection ended"},
	} {
		if l.n > 0 {
			fmt.Fprintf(out, "  %-9s %s\n", l.name, commas(l.n))
		}
	}
	if r.Spec.Scenario == Slow {
		slow := int64(0)
		for i := range r.Spec.Conns {
			if r.Spec.isSlow(i) {
				slow++
			}
		}
		fmt.Fprintf(out, "  slow      %s did not read, %s of them were cut off\n", commas(slow), commas(n.SlowCut))
	}
	for i, s := range r.RecoverySeconds {
		fmt.Fprintf(out, "  storm %d   all back after %s\n", i+1, seconds(s))
	}
	if len(n.Reasons) > 0 {
		fmt.Fprintf(out, "  attempts that failed: %s\n", listCounts(n.Reasons))
	}
	if len(n.Closes) > 0 {
		fmt.Fprintf(out, "  closed by the server: %s, over %s\n", closeCodes(n.Closes), seconds(r.DrainSeconds))
	}
	if len(n.Faults) > 0 {
		fmt.Fprintf(out, "  faults of the server: %s\n", listCounts(n.Faults))
	}
}

// some lists a few of many targets.
func some(targets []string) string {
	const most = 4
	if len(targets) <= most {
		return strings.Join(targets, " ")
	}
	return fmt.Sprintf("%s … (%d URLs)", strings.Join(targets[:most-1], " "), len(targets))
}

// text says what is known: an interrupted run has not come to every measurement.
func (t *ToolUsage) text(out io.Writer, extra float64) {
	fmt.Fprintf(out, "  this tool: %d process(es)", t.Processes)
	if t.CPUPerHandshakeUS > 0 {
		fmt.Fprintf(out, ", %.1f µs CPU a handshake", t.CPUPerHandshakeUS)
	}
	if t.CPUPerMessageUS > 0 {
		fmt.Fprintf(out, ", %.1f µs CPU a message", t.CPUPerMessageUS)
	}
	if t.RSSPerConn > 0 {
		fmt.Fprintf(out, ", %s of memory a connection", bytesText(t.RSSPerConn))
	}
	if t.BurntCPUSeconds > 0 {
		fmt.Fprintf(out, "; %.2f s of its %.2f s of CPU burnt for --extra-cpu %g", t.BurntCPUSeconds, t.CPUSeconds, extra)
	}
	fmt.Fprint(out, "\n\n")
}

func (r *Result) latencyTable(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  \tcount\tp50\tp90\tp99\tp99.9\tp99.99\tmax\t\n")
	for _, l := range []struct {
		name string
		l    Latency
	}{
		{"connect", r.Connect}, {"handshake", r.Handshake}, {"message", r.Message}, {"heartbeat jitter", r.Heartbeat}, {"sent late by", r.Lag},
	} {
		if l.l.Count > 0 {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", l.name, commas(l.l.Count), micros(l.l.P50US), micros(l.l.P90US),
				micros(l.l.P99US), micros(l.l.P999US), micros(l.l.P9999), micros(l.l.MaxUS))
		}
	}
	w.Flush()
	fmt.Fprintln(out)
}

// table says what is known, as text does.
func (s *ServerUsage) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  server\tCPU s\tRSS\tPSS\tUSS\tanonymous\tdescriptors\tthreads\tkernel: buffers\tobjects\t\n")
	for _, u := range []struct {
		name string
		u    Usage
	}{{"before", s.Before}, {"idle", s.Idle}, {"after", s.After}} {
		if u.u.Processes > 0 {
			fmt.Fprintf(w, "  %s\t%.2f\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t\n", u.name, u.u.CPUSeconds, bytesText(float64(u.u.RSS)), bytesText(float64(u.u.PSS)),
				bytesText(float64(u.u.USS)), bytesText(float64(u.u.Anon)), u.u.FDs, u.u.Threads, bytesText(float64(u.u.KernelTCP)), bytesText(float64(u.u.KernelSlab)))
		}
	}
	w.Flush()
	if s.Idle.Processes == 0 {
		fmt.Fprintln(out)
		return
	}
	fmt.Fprintf(out, "  growth per connection: %s idle", bytesText(s.UserIdlePerConn))
	kernel := bytesText(s.KernelIdlePerConn)
	if s.After.Processes > 0 {
		fmt.Fprintf(out, ", %s after traffic", bytesText(s.UserAfterPerConn))
		kernel += ", " + bytesText(s.KernelAfterPerConn)
	}
	fmt.Fprintf(out, "; kernel %s (machine-wide, %s)\n", kernel, s.Idle.SlabSource)
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

func micros(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", us)
	case d < time.Second:
		return fmt.Sprintf("%.4gms", float64(us)/1e3)
	}
	return fmt.Sprintf("%.4gs", d.Seconds())
}

func seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

func bytesText(b float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {10 << 10, "KiB"}} {
		if b >= u.size || -b >= u.size {
			unit := u.size
			if u.name == "KiB" {
				unit = 1 << 10
			}
			return fmt.Sprintf("%.1f %s", b/unit, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", b)
}

// commas writes n with thousands apart.
func commas(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// WriteJSON writes the result as indented JSON. Of the request headers it writes the names only: values may be credentials, and
// results are shown around.
func (r *Result) WriteJSON(w io.Writer) error {
	shown := *r
	shown.Spec.Headers = make(http.Header, len(r.Spec.Headers))
	for name := range r.Spec.Headers {
		shown.Spec.Headers[name] = []string{"…"}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(&shown)
}

// WriteText writes what was found for a terminal.
func (c *Capacity) WriteText(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  connections\topen\tramp\tp50\tp99\tmax\tCPU in use\tmemory left\tserver RSS\tdescriptors\t\n")
	for _, s := range c.Steps {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%.0f %%\t%s\t%s\t%d\t\n", commas(int64(s.Conns)), commas(s.Open), seconds(s.RampSeconds),
			micros(s.Message.P50US), micros(s.Message.P99US), micros(s.Message.MaxUS), 100*s.CPU, bytesText(float64(s.Available)),
			bytesText(float64(s.Server.RSS)), s.Server.FDs)
	}
	w.Flush()
	fmt.Fprintf(&b, "\n  held: %s connections\n  gave: %s. %s\n", commas(int64(c.Held)), c.Gave, c.Why)
	_, err := io.WriteString(out, b.String())
	return err
}

package report

import (
	"fmt"
	"io"
	"strings"

	"sluice/bench/million"
	"sluice/bench/units"
)

// idleCost is what connections cost that do nothing but heartbeats.
type idleCost struct {
	conns                     float64
	opened                    float64 // seconds
	user, userEach, kernel    float64 // bytes
	cores                     float64 // while they are held
	beatUS, connectUS, byeUS  float64 // the gateway's CPU of one
	lateP99US, toldUS, exited float64 // the last in seconds
}

func idleCosts(reports []*million.Report) (all []idleCost) {
	for _, r := range reports {
		l := r.Load
		if l == nil || l.Server == nil || l.Counters.Ramped == 0 {
			continue // its failure is told
		}
		s, n := l.Server, float64(l.Counters.Ramped)
		c := idleCost{conns: n, opened: l.RampSeconds, user: float64(s.Idle.Anon),
			userEach: s.UserIdlePerConn, kernel: s.KernelIdlePerConn, connectUS: s.CPUPerHandshakeUS,
			lateP99US: float64(l.Heartbeat.P99US), toldUS: float64(l.Bye.MaxUS), exited: r.ExitSeconds}
		for _, p := range l.Phases {
			switch p.Name {
			case "hold":
				c.cores = p.Server / max(p.Seconds, 1e-9)
				c.beatUS = c.cores * r.Heartbeat.Seconds() * 1e6 / n
			case "server closes":
				c.byeUS = p.Server * 1e6 / n
			}
		}
		all = append(all, c)
	}
	return all
}

// WriteIdleCostTable writes, in Markdown, what connections cost that do nothing, by their number.
func WriteIdleCostTable(w io.Writer, reports []*million.Report) error {
	costs := idleCosts(reports)
	var b strings.Builder
	row := func(name string, cell func(c idleCost) string) {
		b.WriteString("| " + name)
		for _, c := range costs {
			b.WriteString(" | " + cell(c))
		}
		b.WriteString(" |\n")
	}
	row("connections", func(c idleCost) string { return units.Number(int64(c.conns)) })
	b.WriteString("|---" + strings.Repeat("|---:", len(costs)) + "|\n")
	row("user memory a connection", func(c idleCost) string { return orDash(c.userEach, units.Bytes) })
	row("user memory of the gateway", func(c idleCost) string { return orDash(c.user, units.Bytes) })
	row("kernel memory a connection, both ends", func(c idleCost) string { return orDash(c.kernel, units.Bytes) })
	row("gateway CPU, heartbeats only", func(c idleCost) string { return fmt.Sprintf("%.3f cores", c.cores) })
	row("gateway CPU of a heartbeat", func(c idleCost) string { return orDash(c.beatUS, units.Micros) })
	row("heartbeats early or late by, p99", func(c idleCost) string { return orDash(c.lateP99US, units.Micros) })
	row("opened in", func(c idleCost) string { return units.Seconds(c.opened) })
	row("gateway CPU of a connect", func(c idleCost) string { return orDash(c.connectUS, units.Micros) })
	row("the last told bye after", func(c idleCost) string { return orDash(c.toldUS, units.Micros) })
	row("SIGTERM to exit", func(c idleCost) string { return units.Seconds(c.exited) })
	row("gateway CPU of a connection's drain", func(c idleCost) string { return orDash(c.byeUS, units.Micros) })
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteIdleCostSVG draws the table: bytes of a connection, and CPU of what happens to it.
func WriteIdleCostSVG(w io.Writer, reports []*million.Report) error {
	costs := idleCosts(reports)
	chart := func(title, subtitle string, format func(float64) string, curves ...Curve) Lines {
		return Lines{Chart: Chart{Title: title, Subtitle: subtitle, Width: chartWidth, Height: chartHeight},
			X: Axis{Label: "connections", Scale: Log}, Y: Axis{FromZero: true, Format: format}, Curves: curves}
	}
	curve := func(name string, color int, value func(c idleCost) float64) Curve {
		k := Curve{Name: name, Color: color, Dots: true}
		for _, c := range costs {
			k.Points = append(k.Points, XY{X: c.conns, Y: value(c)})
		}
		return k
	}
	charts, err := DrawAll(
		chart("Memory of an idle connection", "bytes; the kernel's is that of both ends", units.Bytes,
			curve("user", 0, func(c idleCost) float64 { return c.userEach }),
			curve("kernel", 1, func(c idleCost) float64 { return c.kernel })),
		chart("The gateway's CPU", "of one, as connections grow in number", units.Micros,
			curve("connect", 0, func(c idleCost) float64 { return c.connectUS }),
			curve("heartbeat", 1, func(c idleCost) float64 { return c.beatUS }),
			curve("goodbye", 2, func(c idleCost) float64 { return c.byeUS })))
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, Standalone(charts...))
	return err
}

// LoadFailures are the failures of all reports, each with its number of connections.
func LoadFailures(reports []*million.Report) (all []string) {
	for _, r := range reports {
		for _, f := range r.Failures {
			all = append(all, units.Number(r.Conns)+" connections: "+f)
		}
	}
	return all
}

package load

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Merge makes one result of those of several machines that ran at one time (Spec.StartAt). Counters
// are summed and histograms added bucket by bucket, so percentiles are as exact as those of one
// run. Memory and CPU of the server are those of the one machine that measured them; when several
// did, they are left out, because nobody can tell whether they measured the same one. It fails when
// the runs were of different scenarios, or when a histogram cannot be decoded.
func Merge(results []*Result) (*Result, error) {
	if len(results) == 0 {
		return nil, errors.New("merge: no results")
	}
	first := results[0]
	m := &Result{Spec: first.Spec, Started: first.Started, Machine: first.Machine, Complete: true,
		Counters: newCounters(), Failures: []string{}}
	m.Spec.Conns, m.Spec.Rate, m.Spec.Targets = 0, 0, nil
	var hosts []string
	latest := first.Started
	for i, r := range results {
		if r.Spec.Scenario != first.Spec.Scenario {
			return nil, fmt.Errorf("merge: the scenarios %s and %s are different",
				first.Spec.Scenario, r.Spec.Scenario)
		}
		host := cmp.Or(r.Machine.Host, fmt.Sprint("machine ", i+1))
		if slices.Contains(hosts, host) {
			host = fmt.Sprintf("%s (%d)", host, i+1)
		}
		hosts = append(hosts, host)
		if err := m.take(r, host); err != nil {
			return nil, fmt.Errorf("merge: %s: %w", host, err)
		}
		if r.Started.Before(m.Started) {
			m.Started = r.Started
		}
		if r.Started.After(latest) {
			latest = r.Started
		}
	}
	m.Machine.Host = strings.Join(hosts, ", ")
	m.mergeTool(results)
	m.Timeline = mergeTimelines(results, m.Started)
	if apart := latest.Sub(m.Started); apart > maxApart && len(results) > 1 {
		m.Failures = append(m.Failures, fmt.Sprintf(
			"the runs began %v apart: what they show together did not happen at one time (use --start-at).",
			apart.Round(time.Millisecond)))
	}
	return m, nil
}

// maxApart is how far apart runs may begin that are taken for one: clocks differ by less than that.
const maxApart = 5 * time.Second

// take adds one machine's result to m.
func (m *Result) take(r *Result, host string) (err error) {
	m.Spec.Conns += r.Spec.Conns
	m.Spec.Rate += r.Spec.Rate
	for _, t := range r.Spec.Targets {
		if !slices.Contains(m.Spec.Targets, t) {
			m.Spec.Targets = append(m.Spec.Targets, t)
		}
	}
	m.Complete = m.Complete && r.Complete
	m.RampSeconds = max(m.RampSeconds, r.RampSeconds)
	m.TrafficSeconds = max(m.TrafficSeconds, r.TrafficSeconds)
	m.SendSeconds = max(m.SendSeconds, r.SendSeconds)
	m.ReplySeconds = max(m.ReplySeconds, r.ReplySeconds)
	m.DrainSeconds = max(m.DrainSeconds, r.DrainSeconds)
	for i, s := range r.RecoverySeconds {
		if i == len(m.RecoverySeconds) {
			m.RecoverySeconds = append(m.RecoverySeconds, 0)
		}
		m.RecoverySeconds[i] = max(m.RecoverySeconds[i], s)
	}
	m.Published += r.Published
	if len(r.PublishErrors) > 0 && m.PublishErrors == nil {
		m.PublishErrors = map[string]int64{}
	}
	for why, n := range r.PublishErrors {
		m.PublishErrors[why] += n
	}
	m.Counters.add(&r.Counters)
	for _, l := range []struct{ to, from *Latency }{
		{&m.Connect, &r.Connect}, {&m.Handshake, &r.Handshake}, {&m.Message, &r.Message},
		{&m.Heartbeat, &r.Heartbeat}, {&m.Bye, &r.Bye}, {&m.Lag, &r.Lag},
	} {
		if *l.to, err = l.to.Add(*l.from); err != nil {
			return err
		}
	}
	m.WrongReplies = mergeWrong(m.WrongReplies, r.WrongReplies)
	for _, f := range r.Failures {
		m.Failures = append(m.Failures, host+": "+f)
	}
	m.mergePhases(r.Phases)
	return nil
}

// mergePhases adds phases by name; a phase is as long as where it took longest.
func (m *Result) mergePhases(phases []PhaseUsage) {
	for _, p := range phases {
		at := slices.IndexFunc(m.Phases, func(have PhaseUsage) bool { return have.Name == p.Name })
		if at < 0 {
			m.Phases = append(m.Phases, p)
			continue
		}
		have := &m.Phases[at]
		have.Seconds = max(have.Seconds, p.Seconds)
		have.Server += p.Server
		have.Tool += p.Tool
		have.Machine = max(have.Machine, p.Machine)
	}
}

// mergeTool adds what the load generators took, and finds the one that measured the server.
func (m *Result) mergeTool(results []*Result) {
	t := &m.Tool
	measured := 0
	for _, r := range results {
		if r.Server != nil {
			m.Server = r.Server
			measured++
		}
		t.Loops += r.Tool.Loops
		t.OwnTables = t.OwnTables || r.Tool.OwnTables
		t.CPUSeconds += r.Tool.CPUSeconds
		conns := ratio(float64(r.Counters.Ramped), float64(m.Counters.Ramped))
		t.CPUPerHandshakeUS += conns * r.Tool.CPUPerHandshakeUS
		t.RSSPerConn += conns * r.Tool.RSSPerConn
		t.HeapPerConn += conns * r.Tool.HeapPerConn
		t.CPUPerMessageUS += r.Tool.CPUPerMessageUS *
			ratio(float64(r.Counters.Replies), float64(m.Counters.Replies))
	}
	if measured != 1 {
		m.Server = nil
	}
}

// mergeTimelines lays the timelines over each other by the clock.
func mergeTimelines(results []*Result, started time.Time) (all []Point) {
	end, step := 0.0, reportEvery.Seconds()
	next := make([]int, len(results)) // the first point of each that is not used yet
	offsets := make([]float64, len(results))
	for i, r := range results {
		offsets[i] = r.Started.Sub(started).Seconds()
		if n := len(r.Timeline); n > 0 {
			last := r.Timeline[n-1].Seconds
			end, step = max(end, last+offsets[i]), max(step, last/float64(n))
		}
	}
	steps := int(end/step + 1)
	for k := 1; k <= steps; k++ {
		p := Point{Seconds: float64(k) * step}
		for i, r := range results {
			for next[i] < len(r.Timeline) && r.Timeline[next[i]].Seconds+offsets[i] <= p.Seconds {
				next[i]++
			}
			if next[i] > 0 {
				p.add(&r.Timeline[next[i]-1], next[i] < len(r.Timeline))
			}
		}
		all = append(all, p)
	}
	return all
}

// add adds another machine's moment to p. Rates are left out when that machine's run is over.
func (p *Point) add(o *Point, running bool) {
	p.Phase = o.Phase
	p.Open += o.Open
	p.Opened += o.Opened
	p.Failed += o.Failed
	p.Replies += o.Replies
	p.ServerMB = max(p.ServerMB, o.ServerMB)
	if !running {
		return
	}
	p.RateHz += o.RateHz
	p.BeatsHz += o.BeatsHz
	p.ToolCP += o.ToolCP
	p.ServerCP = max(p.ServerCP, o.ServerCP)
	p.P50US, p.P99US, p.MaxUS = max(p.P50US, o.P50US), max(p.P99US, o.P99US), max(p.MaxUS, o.MaxUS)
	p.HandshakeUS, p.BeatUS = max(p.HandshakeUS, o.HandshakeUS), max(p.BeatUS, o.BeatUS)
	p.DialUS = max(p.DialUS, o.DialUS)
}

package admin

import (
	"bytes"
	"strconv"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"

	"sluice/gateway"
)

var (
	viewers atomic.Int64 // pages that follow the events
	_       = metrics.NewGauge(`sluice_admin_viewers`, func() float64 { return float64(viewers.Load()) })

	denied = metrics.NewCounter(`sluice_admin_denied_total`)
)

func init() {
	gateway.DescribeMetric("sluice_admin_viewers", "Operators' pages that are open.")
	gateway.DescribeMetric("sluice_admin_denied_total", "Requests to the admin address without its token.")
}

// readings are the metrics of the process at one time: by series, and by name for those with
// labels.
type readings struct {
	series map[string]float64
	labels map[string][]labelled
}

// labelled is one series of a metric that has one label.
type labelled struct {
	label string
	value float64
}

// read takes the metrics of the Server and of what is built on it. Those of the Go runtime and the
// operating system are left out: some of them stop the world to be read.
func (s *sampler) read() readings {
	var text bytes.Buffer
	if s.series != nil {
		s.series(&text)
	}
	metrics.WritePrometheus(&text, false)
	return parse(text.Bytes())
}

// parse reads Prometheus text as this process writes it: no timestamps, and labels without escapes.
// Lines that it does not understand are left out.
func parse(text []byte) readings {
	r := readings{series: make(map[string]float64, 256), labels: make(map[string][]labelled, 32)}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		space := bytes.LastIndexByte(line, ' ')
		if space <= 0 || line[0] == '#' {
			continue
		}
		value, err := strconv.ParseFloat(string(line[space+1:]), 64)
		if err != nil {
			continue
		}
		series := string(line[:space])
		r.series[series] = value
		name, rest, found := bytes.Cut(line[:space], []byte("{"))
		if !found {
			continue
		}
		_, rest, found = bytes.Cut(rest, []byte(`="`))
		label, _, closed := bytes.Cut(rest, []byte(`"`))
		if found && closed {
			r.labels[string(name)] = append(r.labels[string(name)], labelled{string(label), value})
		}
	}
	return r
}

// sum adds up all series of a metric.
func (r readings) sum(name string) (total float64) {
	for _, l := range r.labels[name] {
		total += l.value
	}
	return total + r.series[name]
}

// quantile estimates the q quantile of what a histogram has seen since before, from its buckets: it
// is the upper bound of the bucket that holds it. ok is false when it has seen nothing.
func (r readings) quantile(before readings, name string, q float64) (bound float64, ok bool) {
	name += "_bucket"
	buckets := r.labels[name]
	if len(buckets) == 0 {
		return 0, false
	}
	since := func(l labelled) float64 {
		return l.value - before.series[name+`{le="`+l.label+`"}`]
	}
	total := since(buckets[len(buckets)-1])
	if total <= 0 {
		return 0, false
	}
	for _, b := range buckets {
		bound, err := strconv.ParseFloat(b.label, 64)
		if err == nil && since(b) >= q*total {
			return bound, true
		}
	}
	return 0, false
}

package load

import (
	"fmt"
	"strings"
	"time"
)

// Objective is one latency that must hold: `p99=5ms`, or `handshake.p99=50ms`.
type Objective struct {
	Metric     string        `json:"metric"`     // connect, handshake, message (default) or heartbeat
	Percentile float64       `json:"percentile"` // 0 to 100; 100 is the maximum
	Limit      time.Duration `json:"limit_ns"`
}

// ParseObjective parses `p99=5ms`, `p99.9=20ms`, `max=1s`, each with an optional `connect.`,
// `handshake.`, `message.` or `heartbeat.` before it.
func ParseObjective(s string) (Objective, error) {
	o := Objective{Metric: "message"}
	bad := func(why string) (Objective, error) {
		return Objective{}, fmt.Errorf(
			"objective %q: %s (write p99=5ms, max=1s or handshake.p99=50ms)", s, why)
	}
	what, limit, ok := strings.Cut(s, "=")
	if !ok {
		return bad("no '='")
	}
	for _, m := range []string{"connect", "handshake", "message", "heartbeat"} {
		if rest, found := strings.CutPrefix(what, m+"."); found {
			o.Metric, what = m, rest
			break
		}
	}
	switch {
	case what == "max":
		o.Percentile = 100
	case strings.HasPrefix(what, "p"):
		if n, err := fmt.Sscanf(what[1:]+" ", "%g ", &o.Percentile); n != 1 || err != nil {
			return bad("no percentile")
		}
	default:
		return bad("no percentile")
	}
	if !(o.Percentile > 0 && o.Percentile <= 100) {
		return bad("the percentile is not in (0, 100]")
	}
	d, err := time.ParseDuration(limit)
	if err != nil || d <= 0 {
		return bad("no positive duration")
	}
	o.Limit = d
	return o, nil
}

// String writes o as ParseObjective parses it.
func (o Objective) String() string {
	p := "max"
	if o.Percentile < 100 {
		p = fmt.Sprintf("p%g", o.Percentile)
	}
	return o.Metric + "." + p + "=" + o.Limit.String()
}

package load

import (
	"testing"
	"time"
)

func TestParseObjective(t *testing.T) {
	for in, want := range map[string]Objective{
		"p99=5ms":            {"message", 99, 5 * time.Millisecond},
		"p99.9=1s":           {"message", 99.9, time.Second},
		"max=2s":             {"message", 100, 2 * time.Second},
		"handshake.p50=50ms": {"handshake", 50, 50 * time.Millisecond},
		"heartbeat.max=1s":   {"heartbeat", 100, time.Second},
	} {
		got, err := ParseObjective(in)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseObjective(got.String()); err != nil || again != got {
			t.Errorf("%q written as %q is read as %+v, %v", in, got, again, err)
		}
	}
	for _, bad := range []string{"", "p99", "p99=", "p99=5", "p0=1s", "p101=1s", "pNaN=1s", "p99=-1s", "foo.p99=1s", "q99=1s", "p9x9=1s"} {
		if o, err := ParseObjective(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, o)
		}
	}
}

func TestSpecIsChecked(t *testing.T) {
	good := Spec{Targets: []string{"ws://127.0.0.1:1/"}}
	if s, err := good.withDefaults(); err != nil || s.Conns != 1000 || s.Window != 64 || s.Scenario != Count {
		t.Errorf("defaults: %+v, %v", s, err)
	}
	for name, change := range map[string]func(s *Spec){
		"no target":       func(s *Spec) { s.Targets = nil },
		"http":            func(s *Spec) { s.Targets[0] = "http://127.0.0.1/" },
		"no host":         func(s *Spec) { s.Targets[0] = "ws:///" },
		"scenario":        func(s *Spec) { s.Scenario = "fun" },
		"conns":           func(s *Spec) { s.Conns = -1 },
		"conns+1":         func(s *Spec) { s.Conns = 10_000_001 },
		"rate":            func(s *Spec) { s.Rate = -1 },
		"window":          func(s *Spec) { s.Window = -1 },
		"duration":        func(s *Spec) { s.Duration = -1 },
		"payload":         func(s *Spec) { s.Payload = maxPayload + 1 },
		"fragment pause":  func(s *Spec) { s.FragmentPause = time.Minute },
		"payload below":   func(s *Spec) { s.Payload = -2 },
		"heartbeats":      func(s *Spec) { s.Heartbeats = "maybe" },
		"session ids":     func(s *Spec) { s.SessionIDs = "both" },
		"slow":            func(s *Spec) { s.SlowFraction = 1 },
		"loops":           func(s *Spec) { s.Loops = 1001 },
		"a negative ramp": func(s *Spec) { s.Ramp = -5 },
	} {
		s := good
		s.Targets = []string{good.Targets[0]}
		change(&s)
		if _, err := s.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

package load

import (
	"fmt"
	"strings"
	"testing"

	"sluice/bench/procfs"
)

func TestSources(t *testing.T) {
	spec := Spec{Targets: []string{"ws://127.0.0.1:1/"}, Conns: 1}
	count := func(change func(s *Spec)) string {
		s := spec
		change(&s)
		f, err := newCrew(t.Context(), &s)
		if err != nil {
			return err.Error()
		}
		seen := map[string]bool{}
		for _, a := range f.sources {
			if !a.IsLoopback() && len(s.Sources) == 0 {
				t.Errorf("%v is not a loopback address", a)
			}
			seen[a.String()] = true
		}
		return fmt.Sprint(len(seen))
	}
	each := min(connsPerSource, procfs.EphemeralPorts()*2/5)
	for name, tc := range map[string]struct {
		change func(s *Spec)
		want   string
	}{
		"few":            {func(s *Spec) {}, "0"},
		"as many as fit": {func(s *Spec) { s.Conns = each }, "0"},
		"one more":       {func(s *Spec) { s.Conns = each + 1 }, "2"},
		"two targets":    {func(s *Spec) { s.Conns = 2 * each; s.Targets = append(s.Targets, "ws://localhost:2/") }, "0"},
		"a million":      {func(s *Spec) { s.Conns = 1_000_000 }, fmt.Sprint((1_000_000 + each - 1) / each)},
		"given":          {func(s *Spec) { s.Sources = []string{"127.0.0.9", "127.0.0.10"} }, "2"},
	} {
		if got := count(func(s *Spec) { s.Targets = []string{s.Targets[0]}; tc.change(s) }); got != tc.want {
			t.Errorf("%s: %s sources, want %s", name, got, tc.want)
		}
	}
	if got := count(func(s *Spec) { s.Sources = []string{"nowhere"} }); !strings.Contains(got, "nowhere") {
		t.Errorf("a source that is no address: %s", got)
	}
}

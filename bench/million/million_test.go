package million

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sluice builds the gateway for these tests.
func sluice(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "sluice")
	out, err := exec.Command("go", "build", "-o", name, "sluice/cmd/sluice").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return name
}

func TestSomeHundreds(t *testing.T) {
	bin := sluice(t)
	phases := map[string]bool{}
	// A heartbeat is missed when it is half an interval late, which a loaded machine must not make
	// it.
	o := Options{Sluice: bin, Conns: 300, Heartbeat: 3 * time.Second, Hold: 3500 * time.Millisecond,
		Traffic: time.Second, Rate: 300, Log: func(line string) { t.Log(line) }}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		t.Fatalf("failures %q", r.Failures)
	}
	n := r.Load.Counters
	if n.Ramped != 300 || r.Counted != 300 || n.Byes != 300 || n.Closes["1001"] != 300 ||
		n.Replies != 300 || n.Beats < 300 || r.Load.Bye.Count != 300 || r.ExitSeconds <= 0 {
		t.Errorf("the gateway counted %d, exit after %.3f s, %+v", r.Counted, r.ExitSeconds, n)
	}
	for _, p := range r.Load.Phases {
		phases[p.Name] = true
	}
	for _, name := range []string{"ramp", "hold", "traffic", "server closes"} {
		if !phases[name] {
			t.Errorf("phases %v: %s is not among them", phases, name)
		}
	}
}

// A gateway that loses connections, refuses some or does not start is a failure that is told.
func TestFailuresAreTold(t *testing.T) {
	bin := sluice(t)
	for _, tc := range []struct {
		name, want string
		o          Options
	}{
		{"refuses some", "could not be opened: http 503",
			Options{Conns: 60, Args: []string{"--max-conns", "50", "--loops", "1"}, Timeout: time.Second}},
		{"an argument that is none", "start the gateway: it ended", Options{Conns: 10, Args: []string{"--no-such"}}},
		{"no heartbeats", "heartbeats did not come", Options{Conns: 20, Heartbeat: 200 * time.Millisecond,
			Args: []string{"--heartbeat", "0"}}},
		{"no program", "start the gateway", Options{Sluice: "/nonexistent", Conns: 10}},
		{"too many", "this machine holds some", Options{Conns: 1 << 30}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.o.Sluice == "" {
				tc.o.Sluice = bin
			}
			tc.o.Hold, tc.o.Traffic, tc.o.Rate = time.Second, 200*time.Millisecond, 100
			tc.o.retries = -1
			r, err := Run(t.Context(), tc.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.Failures, "\n"); r.OK() || !strings.Contains(got, tc.want) {
				t.Errorf("failures %q, want %q", got, tc.want)
			}
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{Conns: -1}, {Heartbeat: -1}, {Hold: -1}, {Traffic: -1}, {Rate: -1}, {Timeout: -1}} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestPreflight(t *testing.T) {
	rich := machine{descriptors: 20_000, available: 20 << 30, files: unlimited, watches: unlimited,
		ports: 28_232, cpus: 2}
	for _, tc := range []struct {
		name   string
		change func(m *machine)
		reach  int    // about
		short  string // the check that says so
	}{
		{"enough", func(*machine) {}, 1_080_000, ""},
		{"no tables", func(m *machine) { m.split = errors.New("close_range: not allowed") }, 19_488, "descriptors"},
		{"little memory", func(m *machine) { m.available = 1 << 30 }, 94_947, "memory"},
		{"few files", func(m *machine) { m.files = 101_000 }, 50_000, "open files of the machine"},
		{"few watches", func(m *machine) { m.watches = 101_000 }, 50_000, "epoll watches"},
		{"few ports", func(m *machine) { m.ports = 3999 }, 0, "local ports"},
		{"connections are tracked", func(m *machine) { m.conntrack = 65_536 }, 65_536, "connection tracking"},
		{"one processor", func(m *machine) { m.cpus = 1 }, 540_000, "processors"},
	} {
		m := rich
		tc.change(&m)
		checks := preflight(1_000_000, 30*time.Second, m)
		if got := Reach(checks); got != tc.reach {
			t.Errorf("%s: reaches %d, want %d", tc.name, got, tc.reach)
		}
		for _, c := range checks {
			if c.Enough != (c.Name != tc.short) {
				t.Errorf("%s: %v", tc.name, c)
			}
			if got := c.String(); c.Enough != strings.HasPrefix(got, "ok ") || !c.Enough && !strings.Contains(got, c.Advice) {
				t.Errorf("%s: %q", tc.name, got)
			}
		}
		last := preflight(max(tc.reach, 0), 30*time.Second, m)
		over := preflight(tc.reach+1, 30*time.Second, m)
		if Reach(last) < tc.reach || all(over) || tc.reach > 0 && !all(last) {
			t.Errorf("%s: %d are not the limit", tc.name, tc.reach)
		}
	}
}

func all(checks []Check) bool {
	for _, c := range checks {
		if !c.Enough {
			return false
		}
	}
	return true
}

func TestThisMachineIsRead(t *testing.T) {
	m := readMachine()
	if m.descriptors < 100 || m.available < 1<<20 || m.files < 1 || m.watches < 1 || m.ports < 1 || m.cpus < 1 {
		t.Errorf("%+v", m)
	}
	name := filepath.Join(t.TempDir(), "f")
	for text, want := range map[string]string{"1\t2\n": "[1 2]", "max\n": "[]", "": "[]", "-1": "[]"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(numbers(name)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

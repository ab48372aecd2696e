package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/bench/baseline"
	"sluice/bench/load"
	"sluice/bench/report/reporttest"
)

// The test binary is the servers, too: `baseline NAME …` as sluice-bench is, and `serve …` in
// sluice's place.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "baseline" || os.Args[1] == "serve") {
		if err := beServer(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func beServer(args []string) error {
	name, args := "gws", args[1:]
	if os.Args[1] == "baseline" {
		name, args = args[0], args[1:]
	}
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	listen, admin := f.String("listen", "", ""), f.String("admin", "", "")
	app, heartbeat := f.String("app", "count", ""), f.Duration("heartbeat", 0, "")
	f.String("log-level", "", "")
	f.Int("loops", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if os.Getenv("COMPARE_TEST_BROKEN") == name {
		return errors.New("broken on purpose")
	}
	if *admin != "" {
		go http.ListenAndServe(*admin, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "# a comment\ngo_goroutines 7\ngo_goroutines_other 8\ngo_gc_duration_seconds_sum 0.0015\n"+
				"go_gc_duration_seconds{quantile=\"1\"} 0.0002\n")
		}))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return baseline.Serve(ctx, name, *listen, baseline.Options{App: *app, Heartbeat: *heartbeat})
}

func options(t *testing.T, only ...string) Options {
	return Options{
		busy:   func() float64 { return 0 },
		Sluice: os.Args[0], Only: only, Command: "make bench", Log: func(s string) { t.Log(s) },
		plan: &Plan{Limit: time.Hour, Settle: 10 * time.Millisecond, Steps: []Step{
			{Kind: Closed, Conns: 500, Rounds: 2, Duration: 200 * time.Millisecond, Window: 8},
			{Kind: Open, Conns: 600, Rounds: 1, Duration: 200 * time.Millisecond, Rate: 500},
			{Kind: Beats, Conns: 20, Rounds: 1, Duration: 1200 * time.Millisecond},
		}},
	}
}

// TestComparison runs the whole thing, small: two servers and the floor, all kinds of steps, all
// outputs.
func TestComparison(t *testing.T) {
	r, err := Run(context.Background(), options(t, OneLoop, "gobwas", baseline.Floor))
	if err != nil {
		t.Fatal(err)
	}
	for _, trouble := range r.Troubles {
		// 24 B each of 500 connections fit into what the floor has already, and a loaded
		// machine may not keep the schedule.
		if !strings.HasPrefix(trouble, "floor") && !strings.Contains(trouble, "did not keep the schedule") {
			t.Errorf("trouble: %s", trouble)
		}
	}
	if got := len(r.Trials); got != 4*2+4+4 {
		t.Errorf("%d trials, want 16: all servers in all steps", got)
	}
	for _, name := range []string{Sluice, OneLoop, "gobwas", baseline.Floor} {
		s, ok := r.server(name)
		if !ok {
			t.Errorf("nothing about %s", name)
			continue
		}
		for _, m := range measures {
			st, ok := s.Stats[m.key]
			switch {
			case m.aside:
			case strings.Contains(m.key, "cpu") || strings.Contains(m.key, "bytes"):
				// too small a load to be sure of any
			case !ok || st.Median <= 0 || st.Min > st.Median || st.Median > st.Max:
				t.Errorf("%s, %s: %+v", name, m.key, st)
			}
		}
		if name != baseline.Floor && (len(s.Sizes) != 2 || s.Sizes[0].Conns != 500 ||
			s.Sizes[0].After.N != 2 || s.Sizes[1].Conns != 600) {
			t.Errorf("%s: sizes %+v", name, s.Sizes)
		}
		if s.Latency.Count == 0 || len(s.Latency.HDR) == 0 {
			t.Errorf("%s: no latencies", name)
		}
	}
	mine, _ := r.server(Sluice)
	if got := mine.Stats["goroutines"].Median; got != 7 {
		t.Errorf("sluice's goroutines: %v, want the 7 of its metrics", got)
	}
	if got := mine.Stats["gc_pause_us"].Median; got != 1500 {
		t.Errorf("sluice's GC pauses: %v µs, want 1500", got)
	}
	other, _ := r.server("gobwas")
	if got := other.Stats["goroutines"].Median; got < 500 {
		t.Errorf("gobwas has %v goroutines with 500 connections", got)
	}
	testOutputs(t, r)
}

// A server that runs already takes part beside the others, and is still there afterwards.
func TestRunningServerTakesPart(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- baseline.Serve(ctx, "gws", "127.0.0.1:0",
			baseline.Options{App: baseline.Echo, Ready: func(a net.Addr) { ready <- a }})
	}()
	url := "ws://" + (<-ready).String() + "/ws/chat/"
	o := options(t, None)
	o.App, o.URLs = baseline.Echo, []string{"mine=" + url, "measured=" + url + ",pid=" + strconv.Itoa(os.Getpid())}
	o.plan.Steps = o.plan.Steps[1:]
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Trials) != 1+1+2 { // sluice in both steps, the others not in the heartbeats
		t.Errorf("%d trials, want 4", len(r.Trials))
	}
	for _, name := range []string{Sluice, "mine", "measured"} {
		s, ok := r.server(name)
		if cpu := s.Stats["cpu_message_open_us"].N > 0; !ok || s.Stats["p50_us"].N != 1 || cpu != (name != "mine") {
			t.Errorf("%s: %+v, want latencies, and CPU where the process is known", name, s.Stats)
		}
	}
	var md bytes.Buffer
	if err := errors.Join(r.WriteMarkdown(&md), r.WriteHTML(new(bytes.Buffer))); err != nil ||
		!strings.Contains(md.String(), "running before and after: mine, measured.") {
		t.Errorf("error %v; the Markdown does not say which servers were not fresh: %s", err, &md)
	}
	select {
	case err := <-ended:
		t.Errorf("the server that ran already has ended: %v", err)
	default:
	}
	cancel()
	<-ended
}

func TestURLsAreChecked(t *testing.T) {
	for _, bad := range [][]string{{"x"}, {"=ws://a:1"}, {"a=http://a:1"}, {"sluice=ws://a:1"}, {"gws=ws://a:1"},
		{"a=ws://a:1", "a=ws://a:2"}, {"a=ws://a:1,pid=x"}, {"a=ws://"}} {
		o := Options{URLs: bad, Sluice: os.Args[0], Self: os.Args[0]}
		if _, err := o.withDefaults(); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func testOutputs(t *testing.T, r *Report) {
	prefix := filepath.Join(t.TempDir(), "comparison")
	if err := r.Save(prefix); err != nil {
		t.Fatal(err)
	}
	read := func(ending string) string {
		b, err := os.ReadFile(prefix + ending)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var back Report
	if err := json.Unmarshal([]byte(read(".json")), &back); err != nil || len(back.Servers) != len(r.Servers) {
		t.Errorf("the JSON does not come back: %v", err)
	}
	for _, want := range []string{"make bench", "| **sluice** |", "Where sluice loses", "gobwas", "| sluice-1 ÷ floor |", "messages/s: sluice-1 "} {
		if !strings.Contains(read(".md"), want) {
			t.Errorf("the Markdown does not say %q", want)
		}
	}
	if svg := read(".svg"); !strings.HasPrefix(svg, "<svg ") || strings.Count(svg, "<svg ") != 3 {
		t.Errorf("the picture is not one with two charts: %.80s", svg)
	}
	var table bytes.Buffer
	if err := r.WriteTable(&table); err != nil || !strings.Contains(table.String(), "What a message costs") {
		t.Errorf("the table: %v\n%s", err, &table)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(prefix), ".comparison*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	dom, console := reporttest.Open(t, read(".html"))
	if len(console) > 0 {
		t.Errorf("the page complains on the console:\n%s", strings.Join(console, "\n"))
	}
	for _, title := range []string{"Memory for each connection", "Server CPU", "Server CPU for each heartbeat", "Memory against connections", "Latency of messages", "Connection ramp"} {
		if !strings.Contains(dom, `aria-label="`+title+`"`) {
			t.Errorf("no chart %q in the document", title)
		}
	}
}

func TestBrokenBaselineIsTold(t *testing.T) {
	t.Setenv("COMPARE_TEST_BROKEN", "gorilla")
	o := options(t, "gorilla")
	o.busy = func() float64 { return 1e3 }
	o.plan.Steps = o.plan.Steps[:1]
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(r.Troubles, "\n"); !strings.Contains(all, "gorilla at 500 connections") || !strings.Contains(all, "broken on purpose") {
		t.Errorf("troubles: %s", all)
	}
	if !strings.Contains(r.Troubles[0], "the machine was not idle") {
		t.Errorf("nothing is said of a load average of 1000: %s", r.Troubles[0])
	}
	if len(r.Servers) != 1 {
		t.Errorf("%d servers, want sluice alone", len(r.Servers))
	}
	if err := r.WriteHTML(new(bytes.Buffer)); err != nil {
		t.Error(err)
	}
}

func TestSluiceThatDoesNotStartEndsTheComparison(t *testing.T) {
	o := options(t, "gws")
	o.Sluice = filepath.Join(t.TempDir(), "sluice")
	if err := os.WriteFile(o.Sluice, []byte("#!/bin/sh\necho no such flag >&2\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := Run(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "no such flag") || len(r.Trials) > 0 {
		t.Errorf("error %v after %d trials, want its last words and none", err, len(r.Trials))
	}
}

func TestEndOfContextEndsTheServers(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := options(t, "gws")
	pid := 0
	o.load = func(_ context.Context, s load.Spec) (*load.Result, error) {
		pid = s.ServerPID
		cancel()
		return nil, context.Canceled
	}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the server's process %d: %v, want it gone", pid, err)
	}
}

func TestImpossibleOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"unknown baseline": {Sluice: os.Args[0], Self: os.Args[0], Only: []string{"nobody"}},
		"no sluice":        {Self: os.Args[0]},
	} {
		t.Setenv("PATH", t.TempDir())
		if _, err := Run(context.Background(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLimitLeavesOutRounds(t *testing.T) {
	o := options(t, "gws")
	o.plan.Limit = 0
	loads := 0
	o.try = func(_ context.Context, r *Report, name string, s Step, round int) error {
		loads++
		result := &load.Result{Server: &load.ServerUsage{UserIdlePerConn: 1}}
		r.Trials = append(r.Trials, newTrial(name, s, round, result, inside{}))
		return nil
	}
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if loads != 3*2 {
		t.Errorf("%d loads, want the first rounds only: 6", loads)
	}
	if all := strings.Join(r.Troubles, "\n"); !strings.Contains(all, "round 2 at 500 connections (closed) was left out") {
		t.Errorf("troubles: %s", all)
	}
}

func TestOrderRotates(t *testing.T) {
	o := options(t, "gws", "gobwas")
	o.plan.Steps = []Step{{Kind: Closed, Conns: 1, Rounds: 3}}
	var order []string
	o.try = func(_ context.Context, _ *Report, name string, _ Step, _ int) error {
		order = append(order, name)
		return nil
	}
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "sluice could not be measured") {
		t.Errorf("nothing was measured: %v", err)
	}
	want := "sluice gws gobwas gws gobwas sluice gobwas sluice gws"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

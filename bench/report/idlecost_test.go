package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"sluice/bench/load"
	"sluice/bench/million"
	"sluice/bench/procfs"
)

func idleReport(conns int, each float64) *million.Report {
	return &million.Report{Conns: conns, Heartbeat: 30 * time.Second, ExitSeconds: 2,
		Load: &load.Result{RampSeconds: 3, Counters: load.Counters{Ramped: int64(conns)},
			Bye: load.Latency{Count: int64(conns), MaxUS: 1_500_000},
			Server: &load.ServerUsage{Idle: procfs.Usage{Processes: 1, Anon: int64(each) * int64(conns)},
				UserIdlePerConn: each, KernelIdlePerConn: 7600, CPUPerHandshakeUS: 31},
			Phases: []load.PhaseUsage{{Name: "ramp", Seconds: 3, Server: 1},
				{Name: "hold", Seconds: 60, Server: 6}, {Name: "server closes", Seconds: 2, Server: 0.5}}}}
}

func TestIdleCost(t *testing.T) {
	failed := &million.Report{Conns: 7, Failures: []string{"the gateway did not start"}}
	reports := []*million.Report{idleReport(10_000, 540), idleReport(100_000, 560), failed}
	var table, svg bytes.Buffer
	if err := errors.Join(WriteIdleCostTable(&table, reports), WriteIdleCostSVG(&svg, reports)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| connections | 10,000 | 100,000 |\n|---|---:|---:|\n",
		"| user memory a connection | 540 B | 560 B |\n",
		"| gateway CPU, heartbeats only | 0.100 cores | 0.100 cores |\n",
		"| gateway CPU of a heartbeat | 300 µs | 30 µs |\n",
		"| the last told bye after | 1.5 s | 1.5 s |\n",
		"| gateway CPU of a connection's drain | 50 µs | 5 µs |\n",
	} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, table.String())
		}
	}
	for d := xml.NewDecoder(&svg); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if got := LoadFailures(reports); len(got) != 1 || got[0] != "7 connections: the gateway did not start" {
		t.Errorf("failures %q", got)
	}
	if err := WriteIdleCostSVG(io.Discard, []*million.Report{failed}); err == nil {
		t.Error("a picture of nothing was drawn")
	}
}

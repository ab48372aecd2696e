package report

import (
	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"
)

// named counts become rows, without those that are zero.
type namedCount struct {
	name string
	n    int64
}

func counts(list ...namedCount) (rows []Row) {
	for _, c := range list {
		if c.n != 0 {
			rows = append(rows, Row{Cells: []string{c.name, units.Number(c.n)}})
		}
	}
	return rows
}

func counterTables(r *load.Result) []Table {
	c := r.Counters
	tables := []Table{
		{Title: "Connections", Rows: counts([]namedCount{
			{"connects started", c.Attempts}, {"opened", c.Opened}, {"open at the end", c.Open},
			{"given up", c.Abandoned}, {"lost", c.Lost},
			{"closed and opened again on purpose", c.Churned},
			{"slow readers that the server cut off", c.SlowCut}, {"welcomes", c.Welcomes},
			{"sessions resumed", c.Resumed}, {"resumed with a wrong total", c.ResumeWrong},
			{"heartbeats", c.Beats}, {"heartbeats missing", c.BeatsMissing},
			{"pings answered", c.Pings}, {"byes", c.Byes}, {"byes with a wrong total", c.ByesWrong},
		}...)},
		{Title: "Messages", Rows: counts([]namedCount{
			{"sent", c.Sent}, {"right replies", c.Replies}, {"of these, before the end", c.Timely},
			{"missing", c.Missing}, {"twice", c.Duplicated}, {"counted but never sent", c.Overcount},
			{"corrupt", c.Corrupt}, {"not sent: no connection was free", c.Unsent},
			{"unanswered on connections that ended", c.Unanswered},
			{"from the server, no reply to anything", c.Others},
			{"bytes sent", c.BytesOut}, {"bytes received", c.BytesIn},
		}...)},
		wrongTable(r),
		{Title: "Attempts that failed, by reason", Rows: pairs(c.Reasons)},
		{Title: "Closed by the server, by code", Rows: pairs(c.Closes)},
		{Title: "Faults of the server", Rows: pairs(c.Faults)},
	}
	kept := tables[:0]
	for _, t := range tables {
		if len(t.Rows) > 0 {
			kept = append(kept, t)
		}
	}
	return kept
}

// wrongTable has the first wrong reply of each kind.
func wrongTable(r *load.Result) Table {
	t := Table{Title: "Wrong replies, the first of each kind", Head: []string{"", "came", "expected", ""}}
	for _, e := range r.WrongReplies {
		t.Rows = append(t.Rows, Row{Cells: []string{e.Kind, e.Got, e.Want, e.Hint}})
	}
	return t
}

func costTables(r *load.Result) (tables []Table) {
	if s := r.Server; s != nil {
		tables = append(tables, usageTable(s), serverTable(s))
	}
	t := r.Tool
	return append(tables, Table{Title: "The load generator itself", Rows: []Row{
		{Cells: []string{"loops", units.Number(t.Loops)}},
		{Cells: []string{"CPU time", units.Seconds(t.CPUSeconds)}},
		{Cells: []string{"handshake: CPU", orDash(t.CPUPerHandshakeUS, units.Micros)}},
		{Cells: []string{"message: CPU", orDash(t.CPUPerMessageUS, units.Micros)}},
		{Cells: []string{"connection: memory", orDash(t.RSSPerConn, units.Bytes)}},
	}})
}

func usageTable(s *load.ServerUsage) Table {
	t := Table{Title: "Server", Head: []string{"", "before", "idle", "after traffic"}}
	size := func(of func(u *procfs.Usage) int64) func(u *procfs.Usage) string {
		return func(u *procfs.Usage) string { return units.Bytes(float64(of(u))) }
	}
	for _, row := range []struct {
		name string
		of   func(u *procfs.Usage) string
	}{
		{"memory of its own (heap, stacks)", size(func(u *procfs.Usage) int64 { return u.Anon })},
		{"resident", size(func(u *procfs.Usage) int64 { return u.RSS })},
		{"resident, shared pages divided", size(func(u *procfs.Usage) int64 { return u.PSS })},
		{"kernel: socket buffers, whole machine", size(func(u *procfs.Usage) int64 { return u.KernelTCP })},
		{"kernel: objects, whole machine", size(func(u *procfs.Usage) int64 { return u.KernelSlab })},
		{"CPU time", func(u *procfs.Usage) string { return units.Seconds(u.CPUSeconds) }},
		{"descriptors", func(u *procfs.Usage) string { return units.Number(u.FDs) }},
		{"threads", func(u *procfs.Usage) string { return units.Number(u.Threads) }},
		{"processes", func(u *procfs.Usage) string { return units.Number(u.Processes) }},
	} {
		cells := []string{row.name}
		for _, u := range []*procfs.Usage{&s.Before, &s.Idle, &s.After} {
			if u.Processes == 0 {
				cells = append(cells, "–")
			} else {
				cells = append(cells, row.of(u))
			}
		}
		t.Rows = append(t.Rows, Row{Cells: cells})
	}
	return t
}

func serverTable(s *load.ServerUsage) Table {
	t := Table{Title: "Server, for each"}
	add := func(name, value string) { t.Rows = append(t.Rows, Row{Cells: []string{name, value}}) }
	add("connection, idle: memory of its own", orDash(s.UserIdlePerConn, units.Bytes))
	add("connection, after traffic: memory of its own", orDash(s.UserAfterPerConn, units.Bytes))
	if s.MemoryUnknown != "" {
		add("connection: its memory at most", orDash(s.AtMostPerConn, units.Bytes))
	}
	add("connection, idle: kernel, whole machine", orDash(s.KernelIdlePerConn, units.Bytes))
	add("handshake: CPU", orDash(s.CPUPerHandshakeUS, units.Micros))
	add("message: CPU", orDash(s.CPUPerMessageUS, units.Micros))
	add("heartbeat: CPU", orDash(s.CPUPerBeatUS, units.Micros))
	add("visit: CPU", orDash(s.CPUPerVisitUS, units.Micros))
	return t
}

// orDash writes what is known, and a dash for 0: a run that was cut short has not measured
// everything.
func orDash(v float64, format func(float64) string) string {
	if v == 0 {
		return "–"
	}
	return format(v)
}

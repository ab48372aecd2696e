package report

import (
	"fmt"

	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"
)

// counts makes rows of names and numbers, without those that are zero.
func counts(list ...any) (rows []Row) {
	for i := 0; i < len(list); i += 2 {
		if n := list[i+1].(int64); n != 0 {
			rows = append(rows, Row{Cells: []string{list[i].(string), units.Number(n)}})
		}
	}
	return rows
}

func counterTables(r *load.Result) []Table {
	c := r.Counters
	tables := []Table{
		{Title: "Connections", Rows: counts(
			"connects started", c.Attempts, "opened", c.Opened, "open at the end", c.Open, "given up", c.Abandoned,
			"lost", c.Lost, "closed and opened again on purpose", c.Churned, "slow readers cut off", c.SlowCut,
			"welcomes", c.Welcomes, "sessions resumed", c.Resumed, "resumed with a wrong total", c.ResumeWrong,
			"heartbeats", c.Beats, "heartbeats missing", c.BeatsMissing, "pings answered", c.Pings,
			"byes", c.Byes, "byes with a wrong total", c.ByesWrong)},
		{Title: "Messages", Rows: counts(
			"sent", c.Sent, "right replies", c.Replies, "missing", c.Missing, "twice", c.Duplicated, "counted but never sent", c.Overcount,
			"corrupt", c.Corrupt, "not sent, for lack of a connection", c.Unsent, "unanswered on connections that ended", c.Unanswered,
			"bytes sent", c.BytesOut, "bytes received", c.BytesIn)},
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

func costTables(r *load.Result) (tables []Table) {
	if s := r.Server; s != nil {
		usage := Table{Title: "Server", Head: []string{"", "before", "idle", "after traffic"}}
		for _, row := range []struct {
			name string
			of   func(u procfs.Usage) string
		}{
			{"memory of its own (heap, stacks)", func(u procfs.Usage) string { return units.Bytes(float64(u.Anon)) }},
			{"resident", func(u procfs.Usage) string { return units.Bytes(float64(u.RSS)) }},
			{"resident, shared pages divided", func(u procfs.Usage) string { return units.Bytes(float64(u.PSS)) }},
			{"kernel: socket buffers, whole machine", func(u procfs.Usage) string { return units.Bytes(float64(u.KernelTCP)) }},
			{"kernel: objects, whole machine", func(u procfs.Usage) string { return units.Bytes(float64(u.KernelSlab)) }},
			{"CPU time", func(u procfs.Usage) string { return fmt.Sprintf("%.2f s", u.CPUSeconds) }},
			{"descriptors", func(u procfs.Usage) string { return units.Number(int64(u.FDs)) }},
			{"threads", func(u procfs.Usage) string { return units.Number(int64(u.Threads)) }},
			{"processes", func(u procfs.Usage) string { return units.Number(int64(u.Processes)) }},
		} {
			cells := []string{row.name}
			for _, u := range []procfs.Usage{s.Before, s.Idle, s.After} {
				if u.Processes == 0 {
					cells = append(cells, "–")
				} else {
					cells = append(cells, row.of(u))
				}
			}
			usage.Rows = append(usage.Rows, Row{Cells: cells})
		}
		tables = append(tables, usage, Table{Title: "Server, for each", Rows: []Row{
			{Cells: []string{"connection, idle: memory of its own", orDash(s.UserIdlePerConn, units.Bytes)}},
			{Cells: []string{"connection, after traffic: memory of its own", orDash(s.UserAfterPerConn, units.Bytes)}},
			{Cells: []string{"connection, idle: kernel, whole machine", orDash(s.KernelIdlePerConn, units.Bytes)}},
			{Cells: []string{"handshake: CPU", orDash(s.CPUPerHandshakeUS, units.Micros)}},
			{Cells: []string{"message: CPU", orDash(s.CPUPerMessageUS, units.Micros)}},
			{Cells: []string{"heartbeat: CPU", orDash(s.CPUPerBeatUS, units.Micros)}},
			{Cells: []string{"visit: CPU", orDash(s.CPUPerVisitUS, units.Micros)}},
		}})
	}
	t := r.Tool
	return append(tables, Table{Title: "The load generator itself", Rows: []Row{
		{Cells: []string{"processes", units.Number(int64(t.Processes))}},
		{Cells: []string{"CPU time", fmt.Sprintf("%.2f s", t.CPUSeconds)}},
		{Cells: []string{"handshake: CPU", orDash(t.CPUPerHandshakeUS, units.Micros)}},
		{Cells: []string{"message: CPU", orDash(t.CPUPerMessageUS, units.Micros)}},
		{Cells: []string{"connection: memory", orDash(t.RSSPerConn, units.Bytes)}},
	}})
}

// orDash writes what is known; a run that was cut short has not come to every figure.
func orDash(v float64, format func(float64) string) string {
	if v == 0 {
		return "–"
	}
	return format(v)
}

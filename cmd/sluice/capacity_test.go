package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"sluice/gateway"
	"sluice/poller"
)

func TestFit(t *testing.T) {
	const files = 20_000
	shared := gateway.MaxConnsFor(files, 2)    // what one table holds
	each := gateway.MaxConnsPerTable(files, 2) // what each of several holds
	cannot := errors.New("seccomp says no")
	for _, tc := range []struct {
		name                  string
		asked, perLoop, loops int
		files, reserved       uint64
		split                 error
		want                  capacity
		err                   string
	}{
		{name: "what one table holds", want: capacity{2, shared, shared, false}},
		{name: "one", asked: 1, want: capacity{2, 1, shared, false}},
		{name: "one table, less 1", asked: shared - 1, want: capacity{2, shared - 1, shared, false}},
		{name: "one table", asked: shared, want: capacity{2, shared, shared, false}},
		{name: "one table, and 1", asked: shared + 1, want: capacity{2, shared + 1, each, true}},
		{name: "two tables", asked: 2 * each, want: capacity{2, 2 * each, each, true}},
		{name: "two tables, and 1", asked: 2*each + 1, want: capacity{3, 2*each + 1, each, true}},
		{name: "a million", asked: 1_000_000, want: capacity{52, 1_000_000, each, true}},
		{name: "more tables than are open without asking", asked: 128*each + 1,
			want: capacity{129, 128*each + 1, each - 1, true}},
		{name: "as many loops as said", asked: 2 * each, loops: 3, want: capacity{3, 2 * each, each, true}},
		{name: "too few loops said", asked: 2*each + 1, loops: 2, err: "with 2 loops: lower --max-conns to at most 38976"},
		{name: "too many for all", asked: 1 << 30, err: "with 1024 loops: lower --max-conns to at most "},
		{name: "few a loop", asked: 1000, perLoop: 100, want: capacity{10, 1000, 100, false}},
		{name: "few a loop, and 1", asked: 1001, perLoop: 100, want: capacity{11, 1001, 100, false}},
		{name: "few a loop and few loops", asked: 1001, perLoop: 100, loops: 10, err: "at most 1000"},
		{name: "few a loop, no number", perLoop: 100, want: capacity{2, 200, 100, false}},
		{name: "a loop cannot hold that", asked: 2 * each, perLoop: files, want: capacity{2, 2 * each, each, true}},
		{name: "services take some", reserved: 1000, asked: shared - 1000,
			want: capacity{2, shared - 1000, shared - 1000, false}},
		{name: "services take some, and 1", reserved: 1000, asked: shared - 999,
			want: capacity{2, shared - 999, each, true}},
		{name: "tables cannot be split, and it matters not", split: cannot, asked: shared,
			want: capacity{2, shared, shared, false}},
		{name: "tables cannot be split, too many", split: cannot, asked: shared + 1,
			err: "at most 19488, or raise `ulimit -n` (LimitNOFILE= in a unit file) or the settings of loops; loops with descriptor tables of their own would hold more, but: seccomp says no"},
		{name: "no limit", files: math.MaxUint64, asked: 1_000_000,
			want: capacity{2, 1_000_000, 1<<30 - 512, false}},
		{name: "too few files", files: 512, err: "leaves none for connections"},
		{name: "too few files for the services", reserved: 19_488, err: "leaves none for connections"},
		{name: "one is left", files: 513, asked: 1, want: capacity{2, 1, 1, false}},
	} {
		if tc.files == 0 {
			tc.files = files
		}
		cfg := &config{MaxConns: count(tc.asked), MaxConnsPerLoop: count(tc.perLoop), Loops: count(tc.loops)}
		got, err := fit(cfg, 2, tc.files, tc.reserved, func(int) error { return tc.split })
		if err != nil && tc.err != "" && strings.Contains(err.Error(), tc.err) {
			continue
		}
		if got != tc.want || err != nil || tc.err != "" {
			t.Errorf("%s: got %+v and %v, want %+v %q", tc.name, got, err, tc.want, tc.err)
		}
		if got.perLoop*got.loops < got.conns {
			t.Errorf("%s: %+v does not add up", tc.name, got)
		}
	}
}

// More connections than one descriptor table holds are served by loops with tables of their own.
func TestServeMoreThanOneTableHolds(t *testing.T) {
	if err := poller.CanSplit(); err != nil {
		t.Skip(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	most := min(limit.Max, 1<<30) + 1000
	p := launch(t, "serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--log-level=info", "--app=echo",
		"--loops=2", fmt.Sprint("--max-conns=", most))
	line := p.until("start")
	if line["loops"] != 2.0 || line["own_tables"] != true || line["max_conns"] != float64(most) {
		t.Errorf("got %v, want 2 loops with their own tables and %d connections", line, most)
	}
	ready := p.until("ready")
	listen, _ := ready["listen"].(string)
	admin, _ := ready["admin"].(string)
	var clients []*websocket.Conn
	for range 20 { // on both loops
		ws, _, err := (&websocket.Dialer{HandshakeTimeout: patience}).Dial("ws://"+listen+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		ws.SetReadDeadline(time.Now().Add(patience))
		clients = append(clients, ws)
	}
	for i, ws := range clients {
		message := fmt.Sprint("client ", i)
		if err := ws.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, reply, err := ws.ReadMessage(); err != nil || string(reply) != message {
			t.Errorf("echo: got %q, %v", reply, err)
		}
	}
	if _, metrics := get(t, "http://"+admin+"/metrics"); !strings.Contains(metrics, "sluice_connections 20\n") {
		t.Error("/metrics does not say sluice_connections 20")
	}
	p.signal(syscall.SIGTERM)
	for _, ws := range clients {
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("drain: got %v, want close 1001", err)
		}
		ws.Close()
	}
	if status := p.exit(); status != exitClean {
		t.Errorf("got status %d, want 0", status)
	}
}

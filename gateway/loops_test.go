package gateway

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/poller"
)

// Two Servers in one process count each for itself.
func TestServersHaveMetricsOfTheirOwn(t *testing.T) {
	busy, idle := serve(t, Config{MaxConns: 7}, Echo{}), serve(t, Config{MaxConns: 9}, Echo{})
	c := open101(t, busy, "/ws")
	c.Write(text("hello"))
	c.expect("text hello")
	await(t, "the message is counted", func() bool { return totals(busy).MessagesSent == 1 })
	for _, tc := range []struct {
		s    *Server
		want []string
	}{
		{busy, []string{"sluice_connections 1", "sluice_connections_total 1", "sluice_max_connections 7",
			"sluice_messages_received_total 1", "sluice_messages_sent_total 1"}},
		{idle, []string{"sluice_connections 0", "sluice_connections_total 0", "sluice_max_connections 9",
			"sluice_messages_received_total 0", "sluice_messages_sent_total 0"}},
	} {
		var text strings.Builder
		tc.s.WriteMetrics(&text)
		for _, want := range tc.want {
			if strings.Count(text.String(), "\n"+want+"\n") != 1 {
				t.Errorf("got no %q, or several", want)
			}
		}
	}
}

// totals adds up what the loops of s hold and have done.
func totals(s *Server) (sum LoopSnapshot) {
	for _, l := range s.Loops() {
		sum.Connections += l.Connections
		sum.Buffered += l.Buffered
		sum.MessagesReceived += l.MessagesReceived
		sum.MessagesSent += l.MessagesSent
		sum.BytesReceived += l.BytesReceived
		sum.BytesSent += l.BytesSent
		sum.Heartbeats += l.Heartbeats
		sum.Busy += l.Busy
	}
	return sum
}

func TestLoopSnapshots(t *testing.T) {
	s := serve(t, Config{Loops: 3}, Echo{})
	before := totals(s)
	var clients []*wire
	for range 12 {
		c := open101(t, s, "/ws")
		c.Write(text("hello"))
		c.expect("text hello")
		clients = append(clients, c)
	}
	clients[0].Write(frame(false, 1, "half a message"))
	await(t, "all is counted", func() bool {
		n := totals(s)
		return n.Connections == 12 && n.MessagesReceived == 12 && n.MessagesSent == 12 && n.Buffered > 0
	})
	n := totals(s)
	if len(s.Loops()) != 3 {
		t.Errorf("got %d snapshots, want one for each of 3 loops", len(s.Loops()))
	}
	if n.BytesReceived < 12*len(text("hello")) || n.BytesSent < 12*len("xxhello") || n.Busy <= before.Busy {
		t.Errorf("got %+v, want the bytes of 12 messages and time spent on them", n)
	}
	for _, c := range clients {
		c.Close()
	}
	await(t, "nothing is held", func() bool {
		n := totals(s)
		return n.Connections == 0 && n.Buffered == 0
	})
}

// Each reason has a name of its own: two with one name, or none, would share a series.
func TestReasonsHaveNames(t *testing.T) {
	for what, names := range map[string][]string{
		"refusals": refusalNames[:], "failures": failureNames[:], "slow consumers": slowNames[:],
	} {
		seen := make(map[string]bool)
		for i, name := range names {
			if name == "" || seen[name] {
				t.Errorf("%s: reason %d has the name %q, which is empty or another's", what, i, name)
			}
			seen[name] = true
		}
	}
}

// Listeners that are there already are served, and belong to the Server whatever New says.
func TestReadyMadeListeners(t *testing.T) {
	open := func() []*poller.Listener {
		var listeners []*poller.Listener
		at := "127.0.0.1:0"
		for range 2 {
			ln, err := poller.Listen(at, poller.ListenOptions{ReusePort: true})
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Dup(ln.SysFD()) // as another process passes it on
			if err != nil {
				t.Fatal(err)
			}
			ln.Close()
			if ln, err = poller.InheritListener(fd); err != nil {
				t.Fatal(err)
			}
			listeners = append(listeners, ln)
			at = ln.Addr().String()
		}
		return listeners
	}
	listeners := open()
	s := serve(t, Config{Listeners: listeners, Listen: "not an address"}, Echo{})
	if s.Addr() != listeners[0].Addr() || s.Config().Loops != 2 {
		t.Errorf("got %v with %d loops, want %v with 2", s.Addr(), s.Config().Loops, listeners[0].Addr())
	}
	for range 20 { // the kernel spreads them over both
		c := dial(t, s)
		c.Write([]byte(handshake(getChat)))
		if resp := c.response(); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %s", resp.Status)
		}
	}
	for _, cfg := range []Config{
		{Loops: -1},
		{AllowedOrigins: []string{"no origin"}},
	} {
		cfg.Listeners = open()
		addr := cfg.Listeners[0].Addr()
		if s, err := New(cfg, Echo{}); err == nil {
			s.Close()
			t.Fatal("got nil, want an error")
		}
		ln, err := poller.Listen(addr.String(), poller.ListenOptions{})
		if err != nil {
			t.Errorf("after an error of New the address is taken: %v", err)
			continue
		}
		ln.Close()
	}
}

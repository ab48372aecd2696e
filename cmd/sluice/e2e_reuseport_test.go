package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sluice/gateway/gatewaytest"
)

// TestReusePort: gateways that share a port on purpose. Each gets clients, and one that drains
// loses none of the others'.
func TestReusePort(t *testing.T) {
	first, listen, _ := start(t, "--reuse-port", "--loops=1", "--heartbeat=0")
	second := launch(t, "serve", "--listen="+listen, "--reuse-port", "--loops=1", "--heartbeat=0", "--admin=127.0.0.1:0")
	other, _ := second.until("ready")["admin"].(string)

	clients := map[*gatewaytest.Client]bool{}
	// The kernel spreads them by a hash of the addresses: of 100, one side gets none once in 2^99.
	for range 100 {
		c, _ := session(t, listen, "", 0)
		clients[c] = true
	}
	before := connections(t, other)
	first.signal(os.Interrupt)
	for c := range clients {
		c.Write(gatewaytest.CloseFrame(1000, "")) // which those of the first may send too late
		for got := c.Next(); !strings.HasPrefix(got, "close "); got = c.Next() {
			if !strings.HasPrefix(got, `text {"bye":true`) {
				t.Fatalf("got %q, want a bye", got)
			}
		}
		c.Close()
	}
	if status := first.exit(); status != exitClean {
		t.Errorf("the first gateway ended with %d", status)
	}
	if before == 0 || before == len(clients) {
		t.Errorf("the second gateway had %d of %d clients", before, len(clients))
	}
	for range 20 {
		session(t, listen, "", 0)
	}
	waitFor(t, "all 20 on the second gateway", func() bool { return connections(t, other) == 20 })
}

// connections is how many a gateway has.
func connections(t *testing.T, admin string) (n int) {
	t.Helper()
	_, text := get(t, "http://"+admin+"/metrics")
	for line := range strings.Lines(text) {
		_, _ = fmt.Sscanf(line, "sluice_connections %d", &n)
	}
	return n
}

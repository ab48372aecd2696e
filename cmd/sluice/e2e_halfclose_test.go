package main

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"sluice/gateway/gatewaytest"
)

// A client that ends its side behind more messages than a connection may have waiting for Redis
// (256) is served to the end: every acknowledgement, the bye, Close, and all of them are stored.
func TestHalfCloseWithRedis(t *testing.T) {
	const messages = 300
	_, listen, _ := start(t, "--session-store=redis", "--redis-url="+redisServer(t))
	c, id := session(t, listen, "", 0)
	c.Write(bytes.Repeat(gatewaytest.Text("x"), messages))
	c.Conn.(*net.TCPConn).CloseWrite()
	expect := func(want string) {
		t.Helper()
		got := c.Next()
		for got == "ping" { // how the gateway finds out whether a peer that has ended still reads
			got = c.Next()
		}
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	for n := 1; n <= messages; n++ {
		expect(fmt.Sprintf(`text {"count":%d}`, n))
	}
	expect(fmt.Sprintf(`text {"bye":true,"total":%d}`, messages))
	session(t, listen, id, messages)
}

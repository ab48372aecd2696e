package gateway

import (
	"strings"
	"testing"

	"sluice/gateway/gatewaytest"
)

// TestChange: new settings hold on all loops, for clients that come, and the rate for those that
// are there; wrong ones change nothing.
func TestChange(t *testing.T) {
	s := serve(t, Config{Loops: 2, Clients: Clients{MaxConnsPerAddress: 20}}, addressApp{})
	foreign := gatewaytest.Upgrade("/ws", "Origin: https://elsewhere.example\r\n")
	plain := gatewaytest.Upgrade("/ws")
	// Often enough that both loops are asked.
	check := func(when, ip, request, want string) {
		t.Helper()
		for range 8 {
			c := from(t, s, ip)
			if got := status(c, request); !strings.HasPrefix(got, want) {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
			c.Close()
		}
	}
	stays := from(t, s, "127.0.4.9")
	if got := status(stays, plain); !strings.HasPrefix(got, "101") {
		t.Fatalf("got %q", got)
	}
	check("before", "127.0.4.1", foreign, "403")

	if err := s.Change(Changes{AllowedOrigins: []string{"https://elsewhere.example"}, Deny: []string{"127.0.4.8/31"}}); err != nil {
		t.Fatal(err)
	}
	check("its origin is allowed", "127.0.4.1", foreign, "101")
	check("its address is denied", "127.0.4.9", plain, "reset")
	stays.Write(gatewaytest.Text("still here"))
	stays.Expect("text still here")

	for _, wrong := range []Changes{
		{AllowedOrigins: []string{"no origin"}}, {AllowedHosts: []string{"http://x/"}},
		{Allow: []string{"10.0.0.0/33"}}, {Deny: []string{"x"}},
	} {
		if err := s.Change(wrong); err == nil {
			t.Errorf("%+v: got no error", wrong)
		}
	}
	check("after wrong ones", "127.0.4.1", foreign, "101")

	if err := s.Change(Changes{AllowedHosts: []string{"other.test"}, MessageRate: 1}); err != nil {
		t.Fatal(err)
	}
	check("its host is not allowed", "127.0.4.9", plain, "421")
	stays.Write([]byte(strings.Repeat(string(gatewaytest.Text("x")), 20)))
	for got := stays.Next(); got != "close 1008 message_rate"; got = stays.Next() {
		if got != "text x" {
			t.Fatalf("got %q, want a close with 1008", got)
		}
	}
	// What was counted before the changes is given back after them.
	if err := s.Change(Changes{}); err != nil {
		t.Fatal(err)
	}
	check("as at first", "127.0.4.9", plain, "101")
	check("as at first", "127.0.4.1", foreign, "403")
}

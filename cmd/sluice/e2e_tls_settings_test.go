package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"sluice/gateway/gatewaytest"
)

// What other settings promise holds on the address with TLS too, for both record layers.

func eachRecords(t *testing.T, test func(t *testing.T, records string)) {
	for _, records := range []string{"std", "compact"} {
		t.Run(records, func(t *testing.T) { test(t, records) })
	}
}

// TestTLSBehindProxy: the PROXY header comes ahead of the ClientHello, in one write with it or not.
func TestTLSBehindProxy(t *testing.T) {
	cert, key := certificate(t)
	eachRecords(t, func(t *testing.T, records string) {
		file := filepath.Join(t.TempDir(), "access.log")
		_, listen, _ := startTLS(t, records, cert, key, "--proxy-protocol",
			"--trusted-proxies=127.0.0.1/32", "--access-log="+file)
		for i, apart := range []bool{true, false} {
			client := fmt.Sprintf("192.0.2.%d:4711", i+1)
			header := "PROXY TCP4 " + strings.Replace(client, ":4711", "", 1) + " 192.0.2.9 4711 443\r\n"
			conn := gatewaytest.Dial(t, at(listen)).Conn
			if apart {
				io.WriteString(conn, header)
				conn = overTLS(t, conn)
			} else {
				conn = overTLS(t, &behind{Conn: conn, header: header})
			}
			conn.Close()
			waitFor(t, "a line", func() bool { return len(accessLines(t, file)) > i })
			if got := accessLines(t, file)[i]["client"]; got != client {
				t.Errorf("apart %v: the client is %v, want %s", apart, got, client)
			}
		}
		conn := gatewaytest.Dial(t, at(listen)).Conn
		if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
			t.Error("a trusted proxy without the header gets a handshake")
		}
	})
}

// behind writes header ahead of the first bytes, with them.
type behind struct {
	net.Conn
	header string
}

func (b *behind) Write(p []byte) (int, error) {
	_, err := b.Conn.Write(append([]byte(b.header), p...))
	b.header = ""
	return len(p), err
}

func TestTLSLimitsPerAddress(t *testing.T) {
	cert, key := certificate(t)
	eachRecords(t, func(t *testing.T, records string) {
		const limit = 3
		_, listen, admin := startTLS(t, records, cert, key, fmt.Sprintf("--max-conns-per-ip=%d", limit))
		var open []*gatewaytest.Client
		for range limit {
			open = append(open, dialTLS(t, listen))
		}
		refused := func() bool {
			conn, err := tls.Dial("tcp", listen, &tls.Config{InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
			}
			return err != nil
		}
		if !refused() {
			t.Errorf("connection %d of one address has a handshake", limit+1)
		}
		series := `sluice_addresses_barred_total{reason="conns"}`
		if n := metric(t, admin, series); n != 1 {
			t.Errorf("%s is %d, want 1", series, n)
		}
		open[0].Close()
		waitFor(t, "room for another", func() bool { return !refused() })
		for _, c := range open[1:] {
			c.Write(gatewaytest.Text("hello"))
			c.Expect("text hello")
		}
	})
}

func TestTLSCompressed(t *testing.T) {
	cert, key := certificate(t)
	eachRecords(t, func(t *testing.T, records string) {
		_, listen, admin := startTLS(t, records, cert, key, "--compression")
		dialer := gorilla.Dialer{
			HandshakeTimeout: patience, EnableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}
		c, answer, err := dialer.Dial("wss://"+listen+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := answer.Header.Get("Sec-Websocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
			t.Errorf("got the extensions %q, want permessage-deflate", got)
		}
		for i := range 60 {
			text := strings.Repeat(fmt.Sprintf(`{"id":%d},`, i), i*i)
			if err := c.WriteMessage(gorilla.TextMessage, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := c.ReadMessage(); err != nil || string(got) != text {
				t.Fatalf("message %d: got %.40q of %d, %v, want %d bytes", i, got, len(got), err, len(text))
			}
		}
		if n := metric(t, admin, "sluice_connections_compressed_total"); n != 1 {
			t.Errorf("%d connections are compressed, want 1", n)
		}
	})
}

// TestTLSWithRedis: what was acknowledged over TLS is there after the gateway was killed.
func TestTLSWithRedis(t *testing.T) {
	cert, key := certificate(t)
	redis := redisServer(t)
	eachRecords(t, func(t *testing.T, records string) {
		store := []string{"--app=count", "--session-store=redis", "--redis-url=" + redis}
		p, listen, _ := startTLS(t, records, cert, key, store...)
		c := dialTLS(t, listen)
		var welcome struct {
			ID string `json:"session_id"`
		}
		text := strings.TrimPrefix(c.Next(), "text ")
		if err := json.Unmarshal([]byte(text), &welcome); err != nil {
			t.Fatalf("the welcome %s: %v", text, err)
		}
		const messages = 200
		for range messages {
			c.Write(gatewaytest.Text("x"))
		}
		for n := range messages {
			c.Expect(fmt.Sprintf(`text {"count":%d}`, n+1))
		}
		p.signal(syscall.SIGKILL)
		_, listen, _ = startTLS(t, records, cert, key, store...)
		conn, err := tls.Dial("tcp", listen, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c = gatewaytest.Wrap(t, conn)
		io.WriteString(c, gatewaytest.Upgrade("/ws?session_id="+welcome.ID))
		if got := c.Response().StatusCode; got != 101 {
			t.Fatalf("the resume: got %d, want 101", got)
		}
		want := fmt.Sprintf(`text {"session_id":%q,"count":%d,"resumed":true}`, welcome.ID, messages)
		c.Expect(want)
		c.Write(gatewaytest.Text("x"))
		c.Expect(fmt.Sprintf(`text {"count":%d}`, messages+1))
	})
}

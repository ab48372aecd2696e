package gateway

import (
	"io"
	"strings"
	"testing"

	"sluice/gateway/gatewaytest"
)

// flipped is a transport that turns every bit around.
type flipped struct{}

func flip(b []byte) []byte {
	f := make([]byte, len(b))
	for i, c := range b {
		f[i] = ^c
	}
	return f
}

func (flipped) open(c *Conn, b []byte)             { c.processWith(flip(b)) }
func (flipped) seal(_ *Conn, dst, b []byte) []byte { return append(dst, flip(b)...) }
func (flipped) finish(_ *Conn, dst []byte) []byte  { return dst }
func (flipped) held() int                          { return 0 }
func (flipped) release(*Conn)                      {}

// TestProxyHeaderComesAheadOfTheTransport: it is not encrypted, and what follows it is, wherever
// the two are cut.
func TestProxyHeaderComesAheadOfTheTransport(t *testing.T) {
	s := serve(t, Config{Loops: 1, Clients: Clients{TrustedProxies: []string{"127.0.1.0/24"}, ProxyProtocol: true}}, addressApp{})
	header := "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
	text := header + string(flip([]byte(gatewaytest.Upgrade(get))))
	for _, test := range []struct{ from, text, want string }{
		{"127.0.1.1", text, "192.0.2.1:56324"},
		{"127.0.0.9", text, "127.0.0.9:"},
		{"127.0.0.9", text[len(header):], "127.0.0.9:"},
	} {
		for _, cut := range []int{0, 1, 10, len(header) - 1, len(header), len(header) + 1, len(test.text) - 1} {
			c := from(t, s, test.from)
			gatewaytest.Await(t, "the connection", func() (there bool) {
				acceptAll(s)
				onLoops(s, func(w *worker) {
					for _, c := range w.conns {
						if c.state == handshaking && c.flags&layered == 0 {
							c.makeRare().transport = flipped{}
							c.flags |= layered
							there = true
						}
					}
				})
				return there
			})
			io.WriteString(c, test.text[:cut])
			onLoops(s, func(*worker) {})
			io.WriteString(c, test.text[cut:])
			var answer []byte
			for b := make([]byte, 4096); !strings.Contains(string(answer), test.want); {
				n, err := c.R.Read(b)
				if err != nil {
					t.Fatalf("%s, cut at %d: got %q, %v, want %s", test.from, cut, answer, err, test.want)
				}
				answer = append(answer, flip(b[:n])...)
			}
			if !strings.HasPrefix(string(answer), "HTTP/1.1 101 ") {
				t.Errorf("%s, cut at %d: got %q", test.from, cut, answer)
			}
			c.Close()
		}
	}
}

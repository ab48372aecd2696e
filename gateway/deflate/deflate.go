// Package deflate is permessage-deflate (RFC 7692) as a gateway with very many connections can
// afford it: without context takeover in either direction, so that a connection holds no memory for
// it, and one Codec serves all connections of a loop.
//
// A window that is shared between messages compresses small messages of one kind two to four times
// better, and costs 40 KB (client to server) and up to 300 KB (server to client) for each
// connection.
package deflate

import (
	"bytes"
	"errors"
	"io"

	"github.com/gobwas/httphead"
	"github.com/klauspost/compress/flate"
)

// Response is the value of Sec-WebSocket-Extensions that accepts an offer. Both parameters may be
// in it whether or not the offer has them (sections 7.1.1.1 and 7.1.1.2).
const Response = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// Offered reports whether one of the offers in the values of Sec-WebSocket-Extensions can be
// accepted with Response. An offer that wants a smaller window of the server is declined: Codec
// uses the whole of it. What the client says of its own window does not matter, for any window can
// be read.
func Offered(values ...[]byte) bool {
	for _, value := range values {
		o, found := offer{index: -1}, false
		wellFormed := httphead.ScanOptions(value, func(index int, name, parameter, argument []byte) httphead.Control {
			if index != o.index {
				found = found || o.acceptable()
				o = offer{index: index, ours: string(name) == "permessage-deflate"}
			}
			o.note(string(parameter), argument)
			return httphead.ControlContinue
		})
		if wellFormed && (found || o.acceptable()) {
			return true
		}
	}
	return false
}

// offer is one element of Sec-WebSocket-Extensions.
type offer struct {
	index    int
	ours     bool
	declined bool
	seen     byte // parameters
}

func (o *offer) acceptable() bool { return o.ours && !o.declined }

// note takes one parameter. RFC 7692, section 7.1: "A server MUST decline an extension negotiation
// offer for this extension if any of the following conditions are met: [it] contains an extension
// parameter not defined for use in an offer; […] with an invalid value; […] multiple extension
// parameters with the same name".
func (o *offer) note(parameter string, argument []byte) {
	var bit byte
	valid := false
	switch parameter {
	case "":
		return // the name alone
	case "server_no_context_takeover":
		bit, valid = 1, len(argument) == 0
	case "client_no_context_takeover":
		bit, valid = 2, len(argument) == 0
	case "server_max_window_bits":
		bit, valid = 4, string(argument) == "15"
	case "client_max_window_bits":
		bit, valid = 8, len(argument) == 0 || windowBits(string(argument))
	}
	if !valid || o.seen&bit != 0 {
		o.declined = true
	}
	o.seen |= bit
}

func windowBits(s string) bool {
	switch s {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}

// Level is how hard Codec tries: 1 is the fastest and takes the least memory.
const Level = 1

// Errors of Expand.
var (
	ErrTooBig  = errors.New("deflate: the message inflates beyond its limit")
	ErrCorrupt = errors.New("deflate: not a DEFLATE stream")
)

// tail ends each block that is flushed, and is not sent (section 7.2.1); end is an empty last block
// behind it, which has the reader stop.
const (
	tail = "\x00\x00\xff\xff"
	end  = "\x01\x00\x00\xff\xff"
)

// Codec compresses and expands one message at a time. Not for two goroutines at once. It takes
// about 1.3 MB once both have been used.
type Codec struct {
	w   *flate.Writer
	out appender

	r        io.Reader // a flate.Resetter too
	in       input
	expanded []byte
}

// appender is an io.Writer that collects.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// Compress appends the payload of a compressed message to dst.
func (c *Codec) Compress(dst, payload []byte) []byte {
	c.out.b = dst
	if c.w == nil {
		w, err := flate.NewWriter(&c.out, Level)
		if err != nil {
			panic(err) // Level is a constant that it knows
		}
		c.w = w
	} else {
		c.w.Reset(&c.out)
	}
	// appender takes all, so there is no error.
	_, _ = c.w.Write(payload)
	_ = c.w.Flush()
	dst, c.out.b = c.out.b, nil
	return dst[:len(dst)-len(tail)]
}

// input is the compressed bytes with what was left out behind them.
type input struct {
	bytes.Reader
	rest string
}

func (in *input) ReadByte() (byte, error) {
	b, err := in.Reader.ReadByte()
	if err == nil {
		return b, nil
	}
	if in.rest == "" {
		return 0, io.EOF
	}
	b, in.rest = in.rest[0], in.rest[1:]
	return b, nil
}

func (in *input) Read(p []byte) (int, error) {
	n, _ := in.Reader.Read(p)
	m := copy(p[n:], in.rest)
	in.rest = in.rest[m:]
	if n+m == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n + m, nil
}

// keepExpanded is what Expand's buffer may keep between messages, in bytes.
const keepExpanded = 128 << 10

// Expand inflates the payload of a compressed message, which must come out at limit bytes or less:
// not a byte more is inflated than that. The result is valid until the next call.
func (c *Codec) Expand(payload []byte, limit int) ([]byte, error) {
	c.in.Reset(payload)
	c.in.rest = tail + end
	if c.r == nil {
		c.r = flate.NewReader(&c.in)
	} else if err := c.r.(flate.Resetter).Reset(&c.in, nil); err != nil {
		return nil, err
	}
	if cap(c.expanded) > keepExpanded {
		c.expanded = nil
	}
	b := c.expanded[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)] // grows by what has come, never by what is announced
		}
		room := b[len(b):min(cap(b), limit+1)]
		n, err := c.r.Read(room)
		b = b[:len(b)+n]
		c.expanded = b
		switch {
		case len(b) > limit:
			return nil, ErrTooBig
		case err == io.EOF:
			c.in.Reset(nil)
			return b, nil
		case err != nil:
			return nil, ErrCorrupt
		}
	}
}

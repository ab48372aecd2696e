package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func TestGripExtension(t *testing.T) {
	for _, tt := range []struct {
		lines  []string
		prefix string
		ok     bool
	}{
		{nil, "", false},
		{[]string{"grip"}, "m:", true},
		{[]string{"permessage-deflate; client_max_window_bits", "Grip"}, "m:", true},
		{[]string{"permessage-deflate, grip; message-prefix=msg/"}, "msg/", true},
		{[]string{`grip; message-prefix=""`}, "", true},
		{[]string{`grip;message-prefix="x "; other`}, "x ", true},
		{[]string{"gripe"}, "", false},
	} {
		header := http.Header{}
		for _, line := range tt.lines {
			header.Add("Sec-WebSocket-Extensions", line)
		}
		if prefix, ok := gripExtension(header); prefix != tt.prefix || ok != tt.ok {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.lines, prefix, ok, tt.prefix, tt.ok)
		}
	}
}

func TestParseControl(t *testing.T) {
	for _, tt := range []struct {
		text string
		want control // content "-" for none
		bad  bool
	}{
		{text: `{"type":"subscribe","channel":"room"}`,
			want: control{kind: controlSubscribe, channel: "room", content: []byte("-")}},
		{text: `{"type":"subscribe","channel":"room","filters":["skip-self"]}`,
			want: control{kind: controlSubscribe, channel: "room", filtered: true, content: []byte("-")}},
		{text: `{"type":"unsubscribe","channel":"room"}`,
			want: control{kind: controlUnsubscribe, channel: "room", content: []byte("-")}},
		{text: `{"type":"subscribe"}`, bad: true},
		{text: `{"type":"subscribe","channel":7}`, bad: true},
		{text: `{"type":"unsubscribe","channel":""}`, bad: true},
		{text: `{"type":"detach"}`, want: control{kind: controlDetach, content: []byte("-")}},
		{text: `{"type":"flush-delayed"}`,
			want: control{kind: controlFlushDelayed, content: []byte("-")}},
		{text: `{"type":"keep-alive","content":"{}","timeout":30}`,
			want: control{kind: controlKeepAlive, op: ws.OpText, content: []byte("{}"),
				timeout: 30 * time.Second}},
		{text: `{"type":"keep-alive","content":"","mode":"interval"}`,
			want: control{kind: controlKeepAlive, op: ws.OpText, content: []byte(""),
				timeout: defaultKeepAlive, interval: true}},
		{text: `{"type":"keep-alive"}`,
			want: control{kind: controlKeepAlive, op: ws.OpText, content: []byte("-"),
				timeout: defaultKeepAlive}},
		{text: `{"type":"keep-alive","content-bin":"AAE=","message-type":"ping","timeout":0.5}`,
			want: control{kind: controlKeepAlive, op: ws.OpPing, content: []byte{0, 1},
				timeout: time.Second / 2}},
		{text: `{"type":"keep-alive","content":"x","timeout":1e30}`,
			want: control{kind: controlKeepAlive, op: ws.OpText, content: []byte("x"),
				timeout: longestTimeout}},
		{text: `{"type":"keep-alive","content":"x","timeout":-1}`, bad: true},
		{text: `{"type":"keep-alive","content":"x","message-type":"close"}`, bad: true},
		{text: `{"type":"keep-alive","content-bin":"?"}`, bad: true},
		{text: `{"type":"send-delayed","content":"later","timeout":5}`,
			want: control{kind: controlSendDelayed, op: ws.OpText, content: []byte("later"),
				timeout: 5 * time.Second}},
		{text: `{"type":"send-delayed"}`,
			want: control{kind: controlSendDelayed, op: ws.OpText, content: []byte(""),
				timeout: defaultDelay}},
		{text: `{"type":"session","id":"x"}`, want: control{content: []byte("-")}},
		{text: `{"type":"set-hold","mode":"stream"}`, want: control{content: []byte("-")}},
		{text: `{"type":"of a later version"}`, want: control{content: []byte("-")}},
		{text: `{}`, bad: true},
		{text: `[]`, bad: true},
		{text: `{"type":"detach"`, bad: true},
	} {
		got, err := parseControl([]byte(tt.text))
		if (err != nil) != tt.bad {
			t.Errorf("%s: error %v, want one: %v", tt.text, err, tt.bad)
		}
		if err != nil {
			continue
		}
		if got.content == nil {
			got.content = []byte("-")
		}
		if got.kind != tt.want.kind || got.channel != tt.want.channel ||
			got.filtered != tt.want.filtered || got.op != tt.want.op ||
			string(got.content) != string(tt.want.content) || got.timeout != tt.want.timeout ||
			got.interval != tt.want.interval {
			t.Errorf("%s: got %+v, want %+v", tt.text, got, tt.want)
		}
	}
}

func FuzzGripExtension(f *testing.F) {
	f.Add("grip")                                      // the usual one
	f.Add(`permessage-deflate, Grip; message-prefix=`) // behind another one, and no prefix
	f.Add(`grip; message-prefix="a,b"; message-prefix`)
	f.Add(",;=,\"grip") // nothing but separators
	f.Fuzz(func(t *testing.T, line string) {
		prefix, ok := gripExtension(http.Header{"Sec-Websocket-Extensions": {line}})
		switch {
		case !ok && prefix != "":
			t.Errorf("%q: the prefix %q, and no grip", line, prefix)
		case ok && !strings.Contains(strings.ToLower(line), "grip"):
			t.Errorf("%q: grip from nowhere", line)
		case ok && prefix != messagePrefix && !strings.Contains(line, prefix):
			t.Errorf("%q: the prefix %q from nowhere", line, prefix)
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add([]byte(`{"type":"subscribe","channel":"room","filters":["skip-self"]}`)) // the usual one
	// a time beyond any clock
	f.Add([]byte(`{"type":"keep-alive","content-bin":"AA==","timeout":1e308}`))
	f.Add([]byte(`{"type":"send-delayed","message-type":"pong","content":"\u0000"}`))
	f.Add([]byte(`{"type":{"type":[[[[`)) // wrong and cut off
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseControl(text)
		if err != nil {
			return
		}
		if (c.kind == controlSubscribe || c.kind == controlUnsubscribe) && c.channel == "" {
			t.Errorf("%q: a subscription to nothing", text)
		}
		if (c.kind == controlKeepAlive || c.kind == controlSendDelayed) &&
			(c.timeout <= 0 || c.timeout > longestTimeout) {
			t.Errorf("%q: a timeout of %v", text, c.timeout)
		}
		if c.op.IsControl() && len(c.content) > ws.MaxControlFramePayloadSize {
			t.Errorf("%q: %d bytes in a control frame", text, len(c.content))
		}
	})
}

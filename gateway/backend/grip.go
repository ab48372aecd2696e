package backend

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// GRIP: what a backend negotiates with "Sec-WebSocket-Extensions: grip" in its answer to OPEN. From
// then on its messages for the client carry a prefix, and text that begins with "c:" is a control
// message.

const (
	controlPrefix = "c:"
	messagePrefix = "m:" // unless the backend names another one
)

// gripExtension looks for grip among the extensions of an answer and returns the prefix of
// messages.
func gripExtension(header map[string][]string) (prefix string, ok bool) {
	for _, line := range header[textproto.CanonicalMIMEHeaderKey("Sec-WebSocket-Extensions")] {
		for _, extension := range strings.Split(line, ",") {
			name, params, _ := strings.Cut(extension, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "grip") {
				continue
			}
			prefix = messagePrefix
			for _, param := range strings.Split(params, ";") {
				key, value, _ := strings.Cut(param, "=")
				if strings.EqualFold(strings.TrimSpace(key), "message-prefix") {
					prefix = strings.Trim(strings.TrimSpace(value), `"`)
				}
			}
			return prefix, true
		}
	}
	return "", false
}

type controlKind uint8

const (
	controlIgnored controlKind = iota // defined, but for what Sluice does not do; or not defined
	controlSubscribe
	controlUnsubscribe
	controlDetach
	controlKeepAlive
	controlSendDelayed
	controlFlushDelayed
)

var controlKinds = map[string]controlKind{
	"subscribe":     controlSubscribe,
	"unsubscribe":   controlUnsubscribe,
	"detach":        controlDetach,
	"keep-alive":    controlKeepAlive,
	"send-delayed":  controlSendDelayed,
	"flush-delayed": controlFlushDelayed,
}

// control is one control message.
type control struct {
	kind     controlKind
	channel  string // subscribe, unsubscribe
	filtered bool   // subscribe: filters were asked for
	// subscribe: the position to go on from, "" for the present; nil: the client is not told any
	since *string

	// keep-alive and send-delayed
	op       ws.OpCode
	content  []byte // nil: none, which ends a keep-alive
	timeout  time.Duration
	interval bool // keep-alive: after each timeout, not only when nothing else was sent for so long
}

// What Pushpin takes when a control message names no timeout.
const (
	defaultKeepAlive = 55 * time.Second
	defaultDelay     = time.Second
	longestTimeout   = 24 * time.Hour
)

var errControlChannel = errors.New("the channel is missing")

// parseControl reads the JSON behind "c:".
func parseControl(text []byte) (c control, err error) {
	var m struct {
		Type        string          `json:"type"`
		Channel     string          `json:"channel"`
		Filters     []string        `json:"filters"`
		Since       *string         `json:"since"`
		Content     *string         `json:"content"`
		ContentBin  *string         `json:"content-bin"`
		MessageType *string         `json:"message-type"`
		Timeout     json.RawMessage `json:"timeout"`
		Mode        string          `json:"mode"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return c, err
	}
	if m.Type == "" {
		return c, errors.New("the type is missing")
	}
	c.kind = controlKinds[m.Type]
	switch c.kind {
	case controlSubscribe, controlUnsubscribe:
		if m.Channel == "" {
			return c, errControlChannel
		}
		c.channel, c.filtered, c.since = m.Channel, len(m.Filters) > 0, m.Since
	case controlKeepAlive, controlSendDelayed:
		if c.op, c.content, err = messageOf(m.MessageType, m.Content, m.ContentBin); err != nil {
			return c, err
		}
		if m.MessageType == nil {
			c.op = ws.OpText // content-bin alone does not make these binary, as it does in a publish
		}
		c.interval = m.Mode == "interval"
		c.timeout = defaultKeepAlive
		if c.kind == controlSendDelayed {
			c.timeout = defaultDelay
			if c.content == nil {
				c.content = []byte{}
			}
		}
		if c.timeout, err = seconds(m.Timeout, c.timeout); err != nil {
			return c, err
		}
	}
	return c, nil
}

// seconds reads a number of seconds; nothing and 0 are the default.
func seconds(raw json.RawMessage, otherwise time.Duration) (time.Duration, error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return otherwise, nil
	}
	var n float64
	if err := json.Unmarshal(raw, &n); err != nil || n < 0 {
		return 0, fmt.Errorf("the timeout %q is not a number of seconds", raw)
	}
	d := time.Duration(min(n, longestTimeout.Seconds()) * float64(time.Second))
	if d == 0 {
		d = otherwise
	}
	return d, nil
}

var messageTypes = map[string]ws.OpCode{"text": ws.OpText, "binary": ws.OpBinary,
	"ping": ws.OpPing, "pong": ws.OpPong}

// messageOf is the message in an item or a control message: "content" is text, "content-bin" base64
// and binary, unless the type says otherwise. content is nil when there is neither.
func messageOf(name, text, base64Text *string) (op ws.OpCode, content []byte, err error) {
	op = ws.OpText
	switch {
	case base64Text != nil:
		op = ws.OpBinary
		if content, err = base64.StdEncoding.DecodeString(*base64Text); err != nil {
			return 0, nil, fmt.Errorf("content-bin is not base64: %w", err)
		}
		if content == nil {
			content = []byte{}
		}
	case text != nil:
		content = []byte(*text)
	}
	if name != nil {
		var ok bool
		if op, ok = messageTypes[*name]; !ok {
			return 0, nil, fmt.Errorf("%q is not a type of message (want text, binary, ping or pong)", *name)
		}
	}
	if op.IsControl() && len(content) > ws.MaxControlFramePayloadSize {
		return 0, nil, fmt.Errorf("%d bytes are too many for a ping or pong (at most %d)",
			len(content), ws.MaxControlFramePayloadSize)
	}
	return op, content, nil
}

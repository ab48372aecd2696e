package bench

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// kind is what a server's text message says, in the protocol of the counting service.
type kind uint8

const (
	other   kind = iota // not of this protocol: an echo, or nonsense
	counted             // {"count":N}
	welcome             // {"session_id":"…","count":N,"resumed":true}
	beat                // {"ts":"…"}
	bye                 // {"bye":true,"total":N}
)

// notice is such a message. id aliases the message.
type notice struct {
	kind    kind
	total   uint64
	resumed bool
	id      []byte
}

// parseNotice reads one message. The two that come in numbers are recognised by their bytes; the rest, and those of
// servers that write their JSON with other spaces or in another order, go through encoding/json.
func parseNotice(b []byte) notice {
	if rest, ok := bytes.CutPrefix(b, []byte(`{"count":`)); ok && len(rest) > 1 && rest[len(rest)-1] == '}' {
		if n, ok := parseDigits(rest[:len(rest)-1]); ok {
			return notice{kind: counted, total: n}
		}
	}
	if len(b) < 2 || b[0] != '{' {
		return notice{}
	}
	if bytes.HasPrefix(b, []byte(`{"ts":"`)) && b[len(b)-1] == '}' && bytes.IndexByte(b, ',') < 0 {
		return notice{kind: beat}
	}
	return parseJSON(b)
}

func parseJSON(b []byte) notice {
	var m struct {
		SessionID *string         `json:"session_id"`
		Count     *uint64         `json:"count"`
		Resumed   bool            `json:"resumed"`
		TS        json.RawMessage `json:"ts"`
		Bye       bool            `json:"bye"`
		Total     *uint64         `json:"total"`
	}
	if json.Unmarshal(b, &m) != nil {
		return notice{}
	}
	switch {
	case m.Bye:
		n := notice{kind: bye}
		if m.Total != nil {
			n.total = *m.Total
		}
		return n
	case m.SessionID != nil:
		n := notice{kind: welcome, resumed: m.Resumed, id: []byte(*m.SessionID)}
		if m.Count != nil {
			n.total = *m.Count
		}
		return n
	case m.Count != nil:
		return notice{kind: counted, total: *m.Count}
	case m.TS != nil:
		return notice{kind: beat}
	}
	return notice{}
}

// parseDigits reads a decimal number of at most 19 digits, and nothing else.
func parseDigits(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// sessionID is a session's UUID in binary: 16 bytes a connection instead of a string's 52.
type sessionID [16]byte

func parseSessionID(b []byte) (id sessionID, ok bool) {
	if len(b) != 36 || b[8] != '-' || b[13] != '-' || b[18] != '-' || b[23] != '-' {
		return id, false
	}
	at := 0
	for i := range id {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		v, err := strconv.ParseUint(string(b[at:at+2]), 16, 8)
		if err != nil {
			return sessionID{}, false
		}
		id[i] = byte(v)
		at += 2
	}
	return id, true
}

func (id sessionID) append(b []byte) []byte {
	const digits = "0123456789abcdef"
	for i, v := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, digits[v>>4], digits[v&15])
	}
	return b
}

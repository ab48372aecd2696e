package wsclient

import (
	"bytes"
	"encoding/json"

	"github.com/google/uuid"
)

// Kind says which message of the counting service a text message is.
type Kind uint8

// The kinds of messages.
const (
	Other   Kind = iota // not of this protocol: an echo, or nonsense
	Counted             // {"count":N}
	Welcome             // {"session_id":"…","count":N,"resumed":true}
	Beat                // {"ts":"…"}
	Bye                 // {"bye":true,"total":N}
)

// Notice is a message of the counting service. ID aliases the message.
type Notice struct {
	Kind    Kind
	Total   uint64
	Resumed bool
	ID      []byte
}

// ParseNotice parses one text message. Replies and heartbeats, the two that come in numbers, are
// recognised by their bytes; the rest, and JSON with other spaces or another order of keys, goes
// through encoding/json.
func ParseNotice(b []byte) Notice {
	if rest, ok := bytes.CutPrefix(b, []byte(`{"count":`)); ok && bytes.HasSuffix(rest, []byte("}")) {
		if n, ok := parseDigits(rest[:len(rest)-1]); ok {
			return Notice{Kind: Counted, Total: n}
		}
	}
	if len(b) < 2 || b[0] != '{' {
		return Notice{}
	}
	if bytes.HasPrefix(b, []byte(`{"ts":"`)) && b[len(b)-1] == '}' && bytes.IndexByte(b, ',') < 0 {
		return Notice{Kind: Beat}
	}
	return parseJSON(b)
}

func parseJSON(b []byte) Notice {
	var m struct {
		SessionID *string         `json:"session_id"`
		Count     *uint64         `json:"count"`
		Resumed   bool            `json:"resumed"`
		TS        json.RawMessage `json:"ts"`
		Bye       bool            `json:"bye"`
		Total     *uint64         `json:"total"`
	}
	if json.Unmarshal(b, &m) != nil {
		return Notice{}
	}
	switch {
	case m.Bye:
		n := Notice{Kind: Bye}
		if m.Total != nil {
			n.Total = *m.Total
		}
		return n
	case m.SessionID != nil:
		n := Notice{Kind: Welcome, Resumed: m.Resumed, ID: []byte(*m.SessionID)}
		if m.Count != nil {
			n.Total = *m.Count
		}
		return n
	case m.Count != nil:
		return Notice{Kind: Counted, Total: *m.Count}
	case m.TS != nil:
		return Notice{Kind: Beat}
	}
	return Notice{}
}

// parseDigits parses a decimal number of 1 to 19 digits, and nothing else.
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

// SessionID is a session's UUID in binary: 16 bytes a connection instead of a string's 52.
type SessionID = uuid.UUID

// ParseSessionID parses a UUID in its usual form, with dashes; the other forms that package uuid
// accepts are refused.
func ParseSessionID(b []byte) (id SessionID, ok bool) {
	if len(b) != 36 {
		return id, false
	}
	id, err := uuid.ParseBytes(b)
	return id, err == nil
}

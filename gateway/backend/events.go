package backend

import (
	"bytes"
	"errors"
	"strconv"
)

// The body of requests and answers is a sequence of events (application/websocket-events), each of
// them
//
//	NAME CRLF
//	NAME SP hexadecimal-length CRLF content CRLF

const contentType = "application/websocket-events"

type eventKind uint8

const (
	eventUnknown eventKind = iota // a name that later versions may define; it is skipped
	eventOpen
	eventText
	eventBinary
	eventPing
	eventPong
	eventClose
	eventDisconnect
)

var eventNames = [...]string{
	eventOpen:       "OPEN",
	eventText:       "TEXT",
	eventBinary:     "BINARY",
	eventPing:       "PING",
	eventPong:       "PONG",
	eventClose:      "CLOSE",
	eventDisconnect: "DISCONNECT",
}

// event is one event. A nil content is none at all, which for PING, PONG and CLOSE is not the same
// as an empty one.
type event struct {
	kind    eventKind
	content []byte // part of the decoded buffer
}

// appendEvent encodes one event.
func appendEvent(b []byte, kind eventKind, content []byte) []byte {
	b = append(b, eventNames[kind]...)
	if content == nil {
		return append(b, "\r\n"...)
	}
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(content)), 16)
	b = append(b, "\r\n"...)
	b = append(b, content...)
	return append(b, "\r\n"...)
}

// eventOverhead is what appendEvent adds to a content at most: the longest name with content, 8
// digits of length, a space and two CRLF.
const eventOverhead = len("BINARY") + 8 + 1 + 4

var (
	errEventLine = errors.New("want an event's name, then nothing or a space and its " +
		"length, then CRLF")
	errEventLength  = errors.New("the length of an event is not a hexadecimal number")
	errEventContent = errors.New("an event is shorter than its length says, or does not end in CRLF")
)

// maxEventLine bounds the line before the content. The longest one that is defined has 19 bytes.
const maxEventLine = 64

// decodeEvent reads the event at the start of b and returns how many bytes it took. It allocates
// nothing: the length that a peer declares is only compared with what is there.
func decodeEvent(b []byte) (e event, n int, err error) {
	end := bytes.Index(b[:min(len(b), maxEventLine)], []byte("\r\n"))
	if end < 1 {
		return e, 0, errEventLine
	}
	name, length, sized := bytes.Cut(b[:end], []byte{' '})
	if e.kind, err = eventOf(name); err != nil {
		return e, 0, err
	}
	n = end + 2
	if !sized {
		return e, n, nil
	}
	size, ok := parseHex(length)
	if !ok {
		return e, 0, errEventLength
	}
	rest := b[n:]
	if len(rest) < size+2 || rest[size] != '\r' || rest[size+1] != '\n' {
		return e, 0, errEventContent
	}
	e.content = rest[:size:size]
	return e, n + size + 2, nil
}

func eventOf(name []byte) (eventKind, error) {
	for kind := eventOpen; int(kind) < len(eventNames); kind++ {
		if string(name) == eventNames[kind] {
			return kind, nil
		}
	}
	for _, c := range name {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return eventUnknown, errEventLine
		}
	}
	if len(name) == 0 {
		return eventUnknown, errEventLine
	}
	return eventUnknown, nil
}

// parseHex reads 1 to 7 hexadecimal digits, so that no sum with it overflows an int of 32 bits.
func parseHex(b []byte) (n int, ok bool) {
	if len(b) == 0 || len(b) > 7 {
		return 0, false
	}
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | int(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// eachEvent calls fn with the events of body, in order, until fn returns false. A body with an
// error anywhere is refused whole, before the first call: half an answer could not be taken back.
func eachEvent(body []byte, fn func(event) bool) error {
	for rest := body; len(rest) > 0; {
		_, n, err := decodeEvent(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	for rest := body; len(rest) > 0; {
		e, n, _ := decodeEvent(rest)
		if !fn(e) {
			return nil
		}
		rest = rest[n:]
	}
	return nil
}

// contentSize is the number of content bytes of the events in a body that appendEvent has made,
// which is what Content-Bytes-Accepted counts.
func contentSize(body []byte) (size int) {
	_ = eachEvent(body, func(e event) bool { size += len(e.content); return true })
	return size
}

// countEvents is the number of events in a body that appendEvent has made.
func countEvents(body []byte) (n int) {
	_ = eachEvent(body, func(event) bool { n++; return true })
	return n
}

// unaccepted is what remains of a body of which the backend has accepted the first n bytes of
// content: whole events, the first of which may have lost its beginning. An event is accepted with
// its last byte, and one without content with the one before it. ok is false when there are not n
// bytes.
func unaccepted(dst, body []byte, n int) (rest []byte, ok bool) {
	for len(body) > 0 {
		e, size, err := decodeEvent(body)
		if err != nil {
			return dst, false
		}
		if len(e.content) > n {
			dst = appendEvent(dst, e.kind, e.content[n:])
			return append(dst, body[size:]...), true
		}
		n -= len(e.content)
		body = body[size:]
	}
	return dst, n == 0
}

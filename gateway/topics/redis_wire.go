package topics

import (
	"errors"
	"strings"

	"github.com/gobwas/ws"
)

// What is published in Redis is a letter for the opcode, the position when the topic has a history,
// a line feed, and the payload. So redis-cli can publish too: PUBLISH sluice:topic:room
// $'t\nhello'.

var errWire = errors.New("not a publication of a topic: want t, b or c, a position or nothing, " +
	"a line feed, the payload")

func opLetter(op ws.OpCode) string {
	switch op {
	case ws.OpBinary:
		return "b"
	case ws.OpClose:
		return "c"
	}
	return "t"
}

func opOf(letter string) (ws.OpCode, error) {
	switch letter {
	case "t":
		return ws.OpText, nil
	case "b":
		return ws.OpBinary, nil
	case "c":
		return ws.OpClose, nil
	}
	return 0, errWire
}

// parsePublication reads what came from Redis. The payload shares s's memory.
func parsePublication(s string) (op ws.OpCode, p Position, payload string, err error) {
	head, _, ok := strings.Cut(s[:min(len(s), 64)], "\n")
	if !ok || head == "" {
		return 0, p, "", errWire
	}
	payload = s[len(head)+1:]
	if op, err = opOf(head[:1]); err != nil {
		return 0, p, "", err
	}
	if len(head) > 1 {
		if p, err = ParsePosition(head[1:]); err != nil {
			return 0, p, "", err
		}
	}
	return op, p, payload, nil
}

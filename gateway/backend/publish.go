package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// item is one thing to publish: a GRIP item's part for WebSockets.
type item struct {
	topic      string
	connection string // in place of a topic: the one connection that it is for

	id     string // "" is none
	prevID string
	seq    bool // it is to come behind prevID

	action  itemAction
	op      ws.OpCode // publishSend
	content []byte
	code    ws.StatusCode // publishClose
	reason  string
}

type itemAction uint8

const (
	publishNothing itemAction = iota // the item has no part for WebSockets, or only a hint
	publishSend
	publishClose
	publishRefresh
)

// parseItems reads {"items": [item, …]}, of which there may be at most limit. One that is wrong
// refuses them all.
func parseItems(text []byte, limit int) ([]item, error) {
	var body struct {
		Items *[]json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, fmt.Errorf("the body is not a JSON object: %w", err)
	}
	if body.Items == nil {
		return nil, errors.New(`the object has no "items"`)
	}
	if n := len(*body.Items); n > limit {
		return nil, fmt.Errorf("%d items are too many (at most %d)", n, limit)
	}
	items := make([]item, 0, len(*body.Items))
	for i, raw := range *body.Items {
		it, err := parseItem(raw)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		items = append(items, it)
	}
	return items, nil
}

func parseItem(raw json.RawMessage) (it item, err error) {
	var m struct {
		Channel string                     `json:"channel"`
		Conn    string                     `json:"connection"`
		ID      *string                    `json:"id"`
		PrevID  *string                    `json:"prev-id"`
		NoSeq   bool                       `json:"no-seq"`
		Formats map[string]json.RawMessage `json:"formats"`
		// The older form, in which the formats are the item's own keys.
		HTTPResponse json.RawMessage `json:"http-response"`
		HTTPStream   json.RawMessage `json:"http-stream"`
		Message      json.RawMessage `json:"ws-message"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return it, err
	}
	if (m.Channel == "") == (m.Conn == "") {
		return it, errors.New("the channel is missing (or the connection, but not both)")
	}
	it.topic, it.connection = m.Channel, m.Conn
	if m.ID != nil {
		it.id = *m.ID
	}
	if m.PrevID != nil && !m.NoSeq {
		it.prevID, it.seq = *m.PrevID, true
	}
	message := m.Message
	if m.Formats != nil {
		message = m.Formats["ws-message"]
	} else if message == nil && m.HTTPResponse == nil && m.HTTPStream == nil {
		return it, errors.New("there are no formats")
	}
	if message == nil {
		if m.Formats != nil && len(m.Formats) == 0 {
			return it, errors.New("there are no formats")
		}
		return it, nil
	}
	return it, it.parseMessage(message)
}

// parseMessage reads the format "ws-message".
func (it *item) parseMessage(raw json.RawMessage) (err error) {
	var m struct {
		Action     string  `json:"action"`
		Type       *string `json:"type"`
		Content    *string `json:"content"`
		ContentBin *string `json:"content-bin"`
		Code       *int    `json:"code"`
		Reason     string  `json:"reason"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("ws-message: %w", err)
	}
	switch m.Action {
	case "", "send":
		it.action = publishSend
		if it.op, it.content, err = messageOf(m.Type, m.Content, m.ContentBin); err != nil {
			return fmt.Errorf("ws-message: %w", err)
		}
		if it.content == nil && !it.op.IsControl() {
			return errors.New("ws-message: neither content nor content-bin")
		}
		if it.op == ws.OpText && !utf8.Valid(it.content) {
			return errors.New("ws-message: the text is not UTF-8")
		}
	case "close":
		it.action = publishClose
		it.code = ws.StatusNormalClosure
		if m.Code != nil {
			it.code = ws.StatusCode(*m.Code)
			if *m.Code < 0 || *m.Code > 0xffff || !sendable(it.code) {
				return fmt.Errorf("ws-message: %d is not a code that a Close frame can have", *m.Code)
			}
		}
		it.reason = strings.ToValidUTF8(m.Reason, "�")
	case "refresh":
		it.action = publishRefresh
	case "hint":
	default:
		return fmt.Errorf("ws-message: %q is not an action (want send, close, refresh or hint)", m.Action)
	}
	return nil
}

// sendable reports whether a Close frame can have this code.
func sendable(code ws.StatusCode) bool {
	return code >= 1000 && code < 5000 && code != 1004 && code != ws.StatusNoStatusRcvd &&
		code != ws.StatusAbnormalClosure && code != ws.StatusTLSHandshake
}

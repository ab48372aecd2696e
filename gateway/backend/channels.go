package backend

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"

	"sluice/gateway/topics"
)

// Django Channels: what group_send publishes through channels_redis' RedisPubSubChannelLayer, as it
// comes from Redis.

// ChannelsLayer is the source of what a Django Channels deployment publishes at the Redis of url:
// the topic of a group is its name. prefix is the layer's own, "asgi" unless its configuration says
// otherwise. A layer with several hosts is as many sources, since each group is on one. Not heard
// are the layers that publish without publish/subscribe (channels_redis.core), messages to one
// channel, and encrypted ones.
func ChannelsLayer(url, prefix string) topics.SourceConfig {
	return topics.SourceConfig{URL: url, Prefix: prefix + "__group__", Decode: decodeChannels}
}

// decodeChannels reads a message of the layer for the hub.
func decodeChannels(text string) (m topics.Message, ok bool, err error) {
	it, err := parseChannels([]byte(text))
	switch {
	case err != nil || it.action == publishNothing:
		return m, false, err
	case it.action == publishClose:
		return topics.Message{Op: ws.OpClose, Payload: closeBody(it.code, []byte(it.reason))}, true, nil
	}
	return topics.Message{Op: it.op, Payload: it.content}, true, nil
}

var errChannelsMessage = errors.New("not a message of a Channels layer")

// parseChannels reads a message of the layer: a msgpack map. "websocket.send" (text or bytes) and
// "websocket.close" (code, reason) are carried out as Channels' own consumers do; other types are
// for consumers, and nothing here. Nothing is copied, and no length that the message declares is
// allocated.
func parseChannels(b []byte) (it item, err error) {
	fields, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return it, errChannelsMessage
	}
	var kind, reason string
	var text, bin []byte
	code := int64(ws.StatusNormalClosure)
	for range fields {
		var key []byte
		if key, b, err = msgp.ReadStringZC(b); err != nil {
			return it, errChannelsMessage
		}
		switch string(key) {
		case "type":
			kind, b, err = msgp.ReadStringBytes(b)
		case "reason":
			if msgp.IsNil(b) {
				b, err = msgp.Skip(b)
			} else {
				reason, b, err = msgp.ReadStringBytes(b)
			}
		case "text":
			if msgp.IsNil(b) {
				b, err = msgp.Skip(b)
			} else {
				text, b, err = msgp.ReadStringZC(b)
			}
		case "bytes":
			if msgp.IsNil(b) {
				b, err = msgp.Skip(b)
			} else {
				bin, b, err = msgp.ReadBytesZC(b)
			}
		case "code":
			if msgp.IsNil(b) || msgp.NextType(b) == msgp.BoolType { // consumers say close() or close(True)
				b, err = msgp.Skip(b)
			} else {
				code, b, err = msgp.ReadInt64Bytes(b)
			}
		default:
			b, err = msgp.Skip(b)
		}
		if err != nil {
			return it, fmt.Errorf("%w: %q", errChannelsMessage, key)
		}
	}
	switch kind {
	case "websocket.send":
		it.action, it.op, it.content = publishSend, ws.OpText, text
		if bin != nil {
			it.op, it.content = ws.OpBinary, bin
		} else if text == nil || !utf8.Valid(text) {
			return it, fmt.Errorf("%w: neither text nor bytes", errChannelsMessage)
		}
	case "websocket.close":
		it.action, it.code, it.reason = publishClose, ws.StatusCode(code), reason
		if code < 0 || code > 0xffff || !sendable(it.code) || !utf8.ValidString(reason) {
			return it, fmt.Errorf("%w: code %d", errChannelsMessage, code)
		}
	}
	return it, nil
}

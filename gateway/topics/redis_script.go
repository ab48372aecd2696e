package topics

import (
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

//go:embed publish.lua
var publishSource string

//go:embed history.lua
var historySource string

// script is a Lua script with the name that Redis gives it.
type script struct{ source, sha1 string }

func newScript(source string) script {
	sum := sha1.Sum([]byte(source))
	return script{source, hex.EncodeToString(sum[:])}
}

var publishScript, historyScript = newScript(publishSource), newScript(historySource)

// command builds EVALSHA, or EVAL for a server that does not have the script.
func (s script) command(b rueidis.Builder, source bool, keys, args []string) rueidis.Completed {
	if source {
		return b.Eval().Script(s.source).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(s.sha1).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

func noScript(r rueidis.RedisResult) bool {
	err, ok := rueidis.IsRedisErr(r.Error())
	return ok && err.IsNoScript()
}

// metaLife is how long a topic's epoch and offset outlive its last message: for that time a
// subscriber that has missed nothing is told so, though no message is kept any more.
const metaLife = time.Hour

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// lives are the arguments of both scripts about times, and a new epoch.
func lives(rule HistoryRule) []string {
	return []string{milliseconds(rule.TTL), milliseconds(rule.TTL + metaLife),
		strconv.FormatUint(newEpoch(), 16)}
}

func parseEpochOffset(list []rueidis.RedisMessage) (p Position, err error) {
	if len(list) < 2 {
		return p, fmt.Errorf("script answered %d values", len(list))
	}
	epoch, err := list[0].ToString()
	if err != nil {
		return p, err
	}
	offset, err := list[1].ToString()
	if err != nil {
		return p, err
	}
	return ParsePosition(epoch + ":" + offset)
}

// parseHistory reads history.lua's answer.
func parseHistory(r rueidis.RedisResult, most int) (p past, err error) {
	list, err := r.ToArray()
	if err != nil {
		return p, err
	}
	if p.at, err = parseEpochOffset(list); err != nil {
		return p, err
	}
	list = list[2:]
	if len(list)%3 != 0 {
		return p, fmt.Errorf("history script answered %d values about messages", len(list))
	}
	for i := 0; i < len(list); i += 3 {
		m, err := parseKept(list[i:i+3], most)
		if err != nil {
			return p, err
		}
		p.messages = append(p.messages, m)
	}
	return p, nil
}

func parseKept(list []rueidis.RedisMessage, most int) (*message, error) {
	var text [3]string
	for i := range text {
		var err error
		if text[i], err = list[i].ToString(); err != nil {
			return nil, err
		}
	}
	return keptMessage(text[0], text[1], text[2], most)
}

// keptMessage makes a message of what a history has of it.
func keptMessage(number, letter, payload string, most int) (*message, error) {
	offset, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("offset %.40q in a history", number)
	}
	op, err := opOf(letter)
	if err != nil {
		return nil, err
	}
	if err := checkPayload(op, []byte(payload), most); err != nil {
		return nil, err
	}
	m := encode(Message{op, []byte(payload)})
	m.offset = offset
	return m, nil
}

package sessions

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/redis/rueidis"
)

// What Redis says of one session: repeating the command mends nothing, and other sessions are well.
const (
	errWrongType = "WRONGTYPE"      // another type at the key
	errForeign   = "SESSIONFOREIGN" // a hash, though not one of commit.lua's
	errFull      = "SESSIONFULL"    // as many processes have counted in it as may
	errLimit     = "SESSIONLIMIT"   // the total would no longer be exact
	errSubject   = "SESSIONSUBJECT" // it was made with another subject
)

// errorWord finds the first of words in what Redis answered. Redis before 7 wraps what a script's
// command answered ("ERR Error running script (call to f_…): @user_script:13: -OOM command not
// allowed…").
func errorWord(text string, words ...string) string {
	for _, token := range strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsUpper(r) }) {
		for _, word := range words {
			if token == word {
				return word
			}
		}
	}
	return ""
}

// ofSession explains an error that is about one session, or returns nil. The explanation wraps
// ErrFull or ErrUnavailable.
func (s *Redis) ofSession(what string, err error) error {
	word, said := "", ""
	if f := (*foreign)(nil); errors.As(err, &f) {
		word, said = errForeign, f.what
	} else if answer, ok := rueidis.IsRedisErr(err); ok {
		said = answer.Error()
		word = errorWord(said, errWrongType, errForeign, errFull, errLimit, errSubject)
	}
	switch word {
	case "":
		return nil
	case errFull:
		return fmt.Errorf("%s: %w: %s ", what, ErrFull, said)
	case errSubject:
		return fmt.Errorf("%s: %w", what, ErrForbidden)
	case errLimit:
		return fmt.Errorf("%s: %s (%w)", what, said, ErrUnavailable)
	}
	return fmt.Errorf("%s: %s: something else writes to keys that begin with %s, or set another --redis-key-prefix (%w)", what, said, s.cfg.KeyPrefix, ErrUnavailable)
}

// errRefused is what connections are told that come to a refused session later than those that were
// waiting.
var errRefused = fmt.Errorf("the session was refused before (%w)", ErrUnavailable)

// logLimiter lets one log line pass in ten seconds: what clients or one FLUSHALL cause by the
// thousand.
type logLimiter struct{ last atomic.Int64 }

func (l *logLimiter) allow() bool {
	now, last := time.Now().UnixNano(), l.last.Load()
	return now-last >= int64(10*time.Second) && l.last.CompareAndSwap(last, now)
}

// logRejected logs what is wrong with one session. Clients choose how often they ask.
func (s *Redis) logRejected(id ID, err error) {
	if s.rejectedLog.allow() {
		s.log.Warn("session refused (more may follow unlogged, see sluice_redis_commits_refused_total)",
			"redis", s.where(), "session", id.String(), "err", err)
	}
}

// logLost says that Redis forgot what it had confirmed.
func (s *Redis) logLost(id ID, total uint64) {
	if s.lostLog.allow() {
		s.log.Warn("redis lost a session's state: restored from what this process was told "+
			"(more may follow unlogged, see sluice_redis_heals_total)", "session", id.String(), "total", total)
	}
}

// sayReady logs when Ready changes. While it stays bad another cause is worth a line every ten
// seconds, not each second. The watcher's goroutine.
func (s *Redis) sayReady() {
	err := s.Ready()
	switch {
	case s.ctx.Err() != nil:
	case err == nil && s.said != "":
		s.said = ""
		s.log.Info("session store ready", "redis", s.where())
	case err != nil && s.said == "":
		s.said = err.Error()
		s.saidAt = time.Now()
		s.log.Error("session store not ready", "err", err)
	case err != nil && s.said != err.Error() && time.Since(s.saidAt) >= 10*time.Second:
		s.said = err.Error()
		s.saidAt = time.Now()
		s.log.Error("session store still not ready", "err", err)
	}
}

package sessions

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/redis/rueidis"
)

// What Redis says of one session: repeating the command mends nothing, and other sessions are well.
const (
	errWrongType = "WRONGTYPE"      // another type at the key
	errForeign   = "SESSIONFOREIGN" // a hash, though not one of commit.lua's
	errFull      = "SESSIONFULL"    // as many writers as a session may have
	errLimit     = "SESSIONLIMIT"   // the total would no longer be exact
)

// errorWord finds the first of words in what Redis answered. Redis before 7 wraps what a script's command
// answered ("ERR Error running script (call to f_…): @user_script:13: -OOM command not allowed…").
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

// ofSession explains an error that is about one session, or returns nil. The explanation wraps ErrFull or
// ErrUnavailable.
func (s *Redis) ofSession(what string, err error) error {
	word, said := "", ""
	if f := (*foreign)(nil); errors.As(err, &f) {
		word, said = errForeign, f.what
	} else if answer, ok := rueidis.IsRedisErr(err); ok {
		said = answer.Error()
		word = errorWord(said, errWrongType, errForeign, errFull, errLimit)
	}
	switch word {
	case "":
		return nil
	case errFull:
		return fmt.Errorf("%s: %w: %s (a session takes some %d writers)", what, ErrFull, said, fieldsMax-2)
	case errLimit:
		return fmt.Errorf("%s: %s (%w)", what, said, ErrUnavailable)
	}
	return fmt.Errorf("%s: %s: something else writes to keys that begin with %s, or set another --redis-key-prefix (%w)", what, said, s.cfg.KeyPrefix, ErrUnavailable)
}

// complain logs what is wrong with one session, one line in ten seconds: clients choose how often they ask.
func (s *Redis) complain(id ID, err error) {
	if seldom(&s.complainedAt) {
		s.log.Warn("session refused (more may follow unlogged, see sluice_redis_commits_refused_total)", "redis", s.where(), "session", id.String(), "err", err)
	}
}

// refuse gives up an attachment whose commit Redis will not take: what is pending was never acknowledged,
// and kept it would fill the loop's bound. Under l.mu.
func (l *redisLoop) refuse(a *redisAttachment, err error) acknowledgement {
	redisPending.Add(-int64(a.count - a.told))
	a.queued, a.refused = false, true
	redisRefused.Inc()
	return acknowledgement{a: a, err: err}
}

// giveUp tells the owner that there is no attachment any more. The loop's goroutine.
func (a *redisAttachment) giveUp(err error) {
	a.loop.unacked -= a.Pending()
	a.acked = a.added
	if !a.detached {
		a.detached = true
		attachedOrKept.Add(-1)
	}
	a.finish(0, err)
}

// sayReady logs when Ready changes. While it stays bad another cause is worth a line every ten seconds, not each second.
// The watcher's goroutine.
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

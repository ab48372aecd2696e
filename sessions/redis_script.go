package sessions

import (
	"crypto/rand"
	"crypto/sha1"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	// foldAbove is the number of fields of a session's hash above which a new writer folds finished ones
	// away. It keeps the hash in Redis' compact encoding, and what a resume reads below 1 KB.
	foldAbove = 16
	// foldAfter is how long after its last commit a finished writer may be folded that had to repeat a commit.
	// One that arrives later would be counted again, so this is far above the time that a command can spend in
	// a connection that both ends have not yet given up. Others are folded at once.
	foldAfter = time.Minute
	// fieldsMax bounds the hash. A writer beyond it is refused: folding one that may be alive instead could
	// count twice what it repeats. It is also where Redis leaves its compact encoding.
	fieldsMax = 128
	// retireAbove is the number of fields above which a writer with nothing left to store still says that it
	// is done. Below, it leaves in silence: a write would invalidate the session in every client-side cache.
	retireAbove = 8
)

//go:embed commit.lua
var commitSource string

// commitScript is the source of commit.lua with its limits filled in, and the name that Redis gives it.
type commitScript struct{ source, sha1 string }

func newCommitScript(above int, after time.Duration, most int) *commitScript {
	source := strings.NewReplacer(
		"FOLD_ABOVE", strconv.Itoa(above),
		"FOLD_AFTER", strconv.Itoa(int(after/time.Second)),
		"FIELDS_MAX", strconv.Itoa(most),
	).Replace(commitSource)
	sum := sha1.Sum([]byte(source))
	return &commitScript{source, hex.EncodeToString(sum[:])}
}

// writerID names one connection's attachment in a session's hash.
type writerID [9]byte

func newWriterID() (w writerID) {
	_, _ = rand.Read(w[:]) // never fails: the program ends instead
	return w
}

// field is the writer's field in the hash: c: and 12 characters.
func (w writerID) field() string {
	b := append(make([]byte, 0, 14), "c:"...)
	return string(base64.RawURLEncoding.AppendEncode(b, w[:]))
}

// commit is what one writer says to Redis: everything that commit.lua must know, copied so that it can be
// sent again.
type commit struct {
	key    string
	writer writerID
	count  uint64   // contribution to store, all of it and not an increment
	told   uint64   // contribution that it was told is stored
	known  uint64   // total that it was told
	others []string // the fields of others that it was told, as pairs; sent to heal only
	final  bool
	clean  bool // no command of this writer was sent twice
	heal   bool
}

// command builds EVALSHA, or EVAL when the server has forgotten the script.
func (c *commit) command(b rueidis.Builder, s *commitScript, ttl string, source bool) rueidis.Completed {
	args := make([]string, 0, 7+len(c.others))
	args = append(args, c.writer.field(), utoa(c.count), utoa(c.told), utoa(c.known), ttl, "", "")
	switch {
	case c.final && c.clean:
		args[5] = "0"
	case c.final:
		args[5] = "f"
	}
	if c.heal {
		args[6] = "heal"
		args = append(args, c.others...)
	}
	if source {
		return b.Eval().Script(s.source).Numkeys(1).Key(c.key).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(s.sha1).Numkeys(1).Key(c.key).Arg(args...).Build()
}

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

// maxTotal is the largest total: Redis' scripts calculate in float64.
const maxTotal = 1<<53 - 1

// foreign is a key that holds what no commit has written.
type foreign struct{ what string }

func (f *foreign) Error() string { return f.what }

// stored is commit.lua's answer.
type stored struct {
	lost   bool // the state is gone: nothing was done, heal
	total  uint64
	count  uint64 // the writer's contribution in store
	at     uint64 // the total right after it was stored: the number of its last message
	fields int    // of the hash when the writer came to it, else 0
	healed bool
	others []string // nil: as the writer was told before
}

func parseStored(r rueidis.RedisResult) (s stored, err error) {
	list, err := r.ToArray()
	if err != nil {
		return s, err
	}
	if len(list) == 1 {
		return stored{lost: true}, nil
	}
	if len(list) < 6 || len(list)%2 != 0 {
		return s, fmt.Errorf("commit script answered %d values", len(list))
	}
	var v [6]int64
	for i := range v {
		if v[i], err = list[i].AsInt64(); err != nil {
			return s, fmt.Errorf("commit script answer, value %d: %w", i, err)
		}
	}
	s = stored{total: uint64(v[1]), count: uint64(v[2]), at: uint64(v[3]), fields: int(v[4]), healed: v[5] == 1}
	for _, m := range list[6:] {
		text, err := m.ToString()
		if err != nil {
			return s, fmt.Errorf("commit script answer, other writers: %w", err)
		}
		s.others = append(s.others, strings.Clone(text))
	}
	return s, nil
}

// snapshot is what a resume finds.
type snapshot struct {
	total  uint64
	others []string // all fields but n, as pairs
}

// full says that a writer more would be refused. Finished ones that can be folded make room.
func (s *snapshot) full() bool {
	n := 0
	for i := 1; i < len(s.others); i += 2 {
		if !strings.HasSuffix(s.others[i], ":f") {
			n++
		}
	}
	return n >= fieldsMax-1 // the total is a field too
}

// parseSnapshot reads HGETALL's answer. A session without a total is no session.
func parseSnapshot(r rueidis.RedisResult) (s snapshot, err error) {
	m, err := r.AsStrMap()
	if err != nil || len(m) == 0 {
		return s, err
	}
	if s.total, err = strconv.ParseUint(m["n"], 10, 64); err != nil || s.total > maxTotal {
		return s, &foreign{fmt.Sprintf("its total is %.40q", m["n"])}
	}
	s.others = make([]string, 0, 2*len(m)-2)
	for field, value := range m {
		if field != "n" {
			s.others = append(s.others, field, value)
		}
	}
	return s, nil
}

package sessions

import (
	"crypto/rand"
	"crypto/sha1"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// maxProcesses bounds the processes that may count in one session, and with it the size of its
// hash: some 50 KB. It is far above what deploys and crashes add while one session lives.
const maxProcesses = 1000

//go:embed commit.lua
var commitTemplate string

// commitSource is commit.lua with its limit filled in, and commitSHA1 the name that Redis gives it.
var (
	commitSource = strings.ReplaceAll(commitTemplate, "MAX_PROCESSES", strconv.Itoa(maxProcesses))
	commitSHA1   = func() string {
		sum := sha1.Sum([]byte(commitSource))
		return hex.EncodeToString(sum[:])
	}()
)

// instancePrefix begins the name of a process' field, which no other field has.
const instancePrefix = "c:"

// instance is a writer's identity in all the hashes: the name of a field, and a counter of the
// incarnations that have been given out for it. A process has one; after a takeover also that of
// the process before it.
type instance struct {
	name         string
	incarnations atomic.Uint64
}

// newInstance names a field: c: and 12 random characters.
func newInstance() *instance {
	var id [9]byte
	_, _ = rand.Read(id[:]) // never fails: the program ends instead
	return &instance{name: instancePrefix + base64.RawURLEncoding.EncodeToString(id[:])}
}

// commit is what a process says of its part in a session: all that commit.lua must know.
type commit struct {
	own     contribution // after is not sent
	told    uint64       // what the other fields were worth, as the process was told
	others  []field      // all of them, to restore what Redis lost
	subject subject
	touch   bool
}

// arguments are the script's ARGV.
func (c *commit) arguments(instance, ttl string) []string {
	args := make([]string, 6, 6+2*len(c.others))
	args[0], args[1], args[2], args[3], args[5] = instance, c.value(), "0", ttl, c.subject.String()
	if c.told > 0 {
		args[2] = strconv.FormatUint(c.told, 10)
	}
	if c.touch {
		args[4] = "touch"
	}
	for _, f := range c.others {
		args = append(args, f.name, f.String())
	}
	return args
}

// value is the process' own contribution as the script takes it.
func (c *commit) value() string {
	var b [64]byte
	v := append(strconv.AppendUint(b[:0], c.own.incarnation, 10), ':')
	v = append(strconv.AppendUint(v, c.own.base, 10), ':')
	return string(strconv.AppendUint(v, c.own.delta, 10))
}

// command builds EVALSHA, or EVAL for a server that has forgotten the script.
func (c *commit) command(b rueidis.Builder, key, instance, ttl string, source bool) rueidis.Completed {
	args := c.arguments(instance, ttl)
	if source {
		return b.Eval().Script(commitSource).Numkeys(1).Key(key).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(commitSHA1).Numkeys(1).Key(key).Arg(args...).Build()
}

// foreign is an error about a key that holds what no commit has written.
type foreign struct{ what string }

func (f *foreign) Error() string { return f.what }

// stored is commit.lua's answer.
type stored struct {
	lost   bool    // another process' field is gone, and nothing was done: restore
	total  uint64  // of the session
	after  uint64  // the total right after this commit: the number of its last message
	base   uint64  // of the process' own field
	before uint64  // what that was worth before the commit
	others []field // nil if they are worth what the process was told
}

func parseStored(r rueidis.RedisResult) (s stored, err error) {
	list, err := r.ToArray()
	if err != nil {
		return s, err
	}
	if len(list) == 0 {
		return stored{lost: true}, nil
	}
	if len(list) < 4 || len(list)%2 != 0 {
		return s, fmt.Errorf("commit script answered %d values", len(list))
	}
	for i, to := range [...]*uint64{&s.total, &s.after, &s.base, &s.before} {
		n, err := list[i].AsInt64()
		if err != nil {
			return s, fmt.Errorf("commit script answer, value %d: %w", i, err)
		}
		*to = uint64(n)
	}
	for i := 4; i < len(list); i += 2 {
		name, err := list[i].ToString()
		if err != nil {
			return s, fmt.Errorf("commit script answer, field %d: %w", i, err)
		}
		value, err := list[i+1].ToString()
		if err != nil {
			return s, fmt.Errorf("commit script answer, field %d: %w", i, err)
		}
		f, err := parseField(name, value)
		if err != nil {
			return s, err
		}
		s.others = append(s.others, f)
	}
	return s, nil
}

func parseField(name, value string) (field, error) {
	if !strings.HasPrefix(name, instancePrefix) {
		return field{}, &foreign{fmt.Sprintf("it has a field %.40q", name)}
	}
	c, err := parseContribution(value)
	return field{name, c}, err
}

// snapshot is a session as a resume finds it.
type snapshot struct {
	total   uint64
	subject subject
	fields  []field
}

// without returns the fields of a snapshot but for the one of an instance, and that one's value.
func (s snapshot) without(instance string) (own contribution, others []field) {
	for i, f := range s.fields {
		if f.name == instance {
			return f.contribution, slices.Concat(s.fields[:i], s.fields[i+1:])
		}
	}
	return own, s.fields
}

// parseSnapshot reads HGETALL's answer. A session without a total is no session.
func parseSnapshot(r rueidis.RedisResult) (s snapshot, err error) {
	m, err := r.AsStrMap()
	if err != nil || len(m) == 0 {
		return s, err
	}
	if s.total, err = parseCount(m["n"]); err != nil || s.total == 0 {
		return s, &foreign{fmt.Sprintf("its total is %.40q", m["n"])}
	}
	for name, value := range m {
		switch name {
		case "n":
			continue
		case "s":
			var ok bool
			if s.subject, ok = parseSubject(value); !ok {
				return s, &foreign{fmt.Sprintf("its subject is %.40q", value)}
			}
			continue
		}
		f, err := parseField(name, value)
		if err != nil {
			return s, err
		}
		s.fields = append(s.fields, f)
	}
	return s, nil
}

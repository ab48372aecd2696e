package topics

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Position is a place in a topic's history: Offset is the number of the last message before it, and
// Epoch tells this history from others that the topic had before or will have. The zero Position
// stands for none.
type Position struct {
	Epoch  uint64
	Offset uint64
}

// String writes the epoch in hexadecimal, a colon, and the offset.
func (p Position) String() string {
	return strconv.FormatUint(p.Epoch, 16) + ":" + strconv.FormatUint(p.Offset, 10)
}

// ParsePosition reads what String has written.
func ParsePosition(s string) (p Position, err error) {
	epoch, offset, ok := strings.Cut(s, ":")
	if ok {
		if p.Epoch, err = strconv.ParseUint(epoch, 16, 64); err == nil {
			p.Offset, err = strconv.ParseUint(offset, 10, 64)
		}
	}
	if !ok || err != nil || p.String() != s {
		return Position{},
			fmt.Errorf("%.60q is not a position (want epoch:offset as it was given out)", s)
	}
	return p, nil
}

// newEpoch is never 0.
func newEpoch() uint64 { return rand.Uint64() | 1 }

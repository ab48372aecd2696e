package sessions

import (
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
)

// ID names a session: a UUID of any version. The zero ID is a valid name, though NewID never
// makes it.
type ID [16]byte

// idText is the length of the only text form that ParseID takes: 8-4-4-4-12 hexadecimal digits.
const idText = 36

// NewID returns a random (version 4) UUID. Its 122 random bits come from crypto/rand, because
// whoever knows a session's id can go on counting in it. Any goroutine.
func NewID() ID { return ID(uuid.New()) }

// ParseID reads the 36-character form, in either case. The other spellings that UUID libraries
// take (braces, urn:uuid:, no dashes) are errors: a session has one name, in URLs and in logs.
// Any goroutine.
func ParseID(s string) (ID, error) {
	if len(s) != idText {
		return ID{}, fmt.Errorf("session id has %d characters, want %d, like 9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77", len(s), idText)
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return ID{}, fmt.Errorf("session id %.*q is not a UUID, want the form 9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77", idText, s)
	}
	return ID(u), nil
}

// String returns the 36-character form in lower case. It allocates; Append does not.
func (id ID) String() string { return uuid.UUID(id).String() }

// Append appends the 36-character form in lower case to b and returns the extended slice.
func (id ID) Append(b []byte) []byte {
	b = hex.AppendEncode(b, id[0:4])
	b = hex.AppendEncode(append(b, '-'), id[4:6])
	b = hex.AppendEncode(append(b, '-'), id[6:8])
	b = hex.AppendEncode(append(b, '-'), id[8:10])
	return hex.AppendEncode(append(b, '-'), id[10:16])
}

package backend

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// connID is a connection's Connection-Id, written as a UUID. Its last two bytes number the loop
// that the connection belongs to, so that it is found without a table that all loops share; the
// rest is random.
type connID [16]byte

func newConnID(loop int) (id connID) {
	id = connID(uuid.New())
	binary.BigEndian.PutUint16(id[14:], uint16(loop))
	return id
}

// parseConnID reads the 36 characters of String.
func parseConnID(text string) (id connID, ok bool) {
	if len(text) != 36 {
		return id, false
	}
	u, err := uuid.Parse(text)
	return connID(u), err == nil
}

func (id connID) loop() int { return int(binary.BigEndian.Uint16(id[14:])) }

func (id connID) String() string { return uuid.UUID(id).String() }

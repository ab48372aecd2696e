package topics

// log is what a topic holds on one loop: the messages that not all subscribers were sent. Messages
// have sequence numbers of 32 bits, which wrap; they are compared by their difference.
type log struct {
	ring []*message // its length is 0 or a power of two
	base uint32     // number of the first message held
	n    uint32
}

// head is the number that the next message gets.
func (g *log) head() uint32 { return g.base + g.n }

func (g *log) at(seq uint32) *message { return g.ring[seq&uint32(len(g.ring)-1)] }

func (g *log) push(m *message) {
	if int(g.n) == len(g.ring) {
		bigger := make([]*message, max(2*len(g.ring), 4))
		for i := range g.n {
			seq := g.base + i
			bigger[seq&uint32(len(bigger)-1)] = g.at(seq)
		}
		g.ring = bigger
	}
	g.ring[g.head()&uint32(len(g.ring)-1)] = m
	g.n++
}

// shift drops the first message.
func (g *log) shift() (m *message) {
	i := g.base & uint32(len(g.ring)-1)
	m, g.ring[i] = g.ring[i], nil
	g.base++
	g.n--
	return m
}

// free lets go of the memory of an empty log.
func (g *log) free() {
	if g.n == 0 {
		g.ring = nil
	}
}

// afterMessage is the number of the first message held that was delivered behind the message seq.
func (g *log) afterMessage(seq uint64) uint32 {
	next := g.head()
	for next != g.base && g.at(next-1).seq > seq {
		next--
	}
	return next
}

// after is the number of the first message held whose offset in the history is beyond offset.
func (g *log) after(offset uint64) uint32 {
	seq := g.head()
	for seq != g.base && g.at(seq-1).offset > offset {
		seq--
	}
	return seq
}

package faults

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// The client writes down what it sees, one event a line, in the order in which it saw it: KIND
// SESSION CONNECTION NUMBER TEXT. A message is written down before it is sent and an
// acknowledgement when it has been read, so the book holds at least what was sent and at most
// what was acknowledged.
const (
	evName    = 'i' // the session's id is TEXT
	evOpen    = 'o' // the connection is about to be made, to the gateway at port NUMBER
	evWelcome = 'w' // the welcome frame came with total NUMBER; TEXT is "resumed" or "new"
	evSend    = 's' // NUMBER messages are about to be sent
	evAck     = 'a' // message NUMBER is acknowledged
	evLeave   = 'e' // a Close frame is about to be sent: no message comes after it
	evBye     = 'b' // the bye came with total NUMBER
	evOver    = 'c' // the connection is over; TEXT says why
	evLoss    = 'f' // the store forgets, on purpose: NUMBER is 0 before and 1 after; about no session
)

// event is one line of the journal.
type event struct {
	kind          byte
	session, conn int
	n             uint64
	text          string
}

// journal writes events. Any goroutine; the first error is kept for close.
type journal struct {
	mu  sync.Mutex
	w   *bufio.Writer
	buf []byte
	err error
}

func newJournal(w io.Writer) *journal { return &journal{w: bufio.NewWriterSize(w, 1<<20)} }

func (j *journal) put(e event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := append(j.buf[:0], e.kind, ' ')
	b = append(strconv.AppendInt(b, int64(e.session), 10), ' ')
	b = append(strconv.AppendInt(b, int64(e.conn), 10), ' ')
	b = append(strconv.AppendUint(b, e.n, 10), ' ')
	b = append(b, strings.ReplaceAll(e.text, "\n", " ")...)
	j.buf = append(b, '\n')
	if _, err := j.w.Write(j.buf); err != nil && j.err == nil {
		j.err = err
	}
}

func (j *journal) flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.w.Flush(); err != nil && j.err == nil {
		j.err = err
	}
	return j.err
}

// readJournal calls each with every event, in order.
func readJournal(r io.Reader, each func(event)) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		e, err := parseEvent(lines.Text())
		if err != nil {
			return fmt.Errorf("journal, line %d: %w", n, err)
		}
		each(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	return nil
}

func parseEvent(line string) (e event, err error) {
	f := strings.SplitN(line, " ", 5)
	if len(f) != 5 || len(f[0]) != 1 || !strings.Contains("iowsaebcf", f[0]) {
		return e, fmt.Errorf("%.80q is not an event", line)
	}
	e.kind, e.text = f[0][0], f[4]
	var errs [3]error
	e.session, errs[0] = strconv.Atoi(f[1])
	e.conn, errs[1] = strconv.Atoi(f[2])
	e.n, errs[2] = strconv.ParseUint(f[3], 10, 64)
	for _, err := range errs {
		if err != nil {
			return e, fmt.Errorf("%.80q: %w", line, err)
		}
	}
	return e, nil
}

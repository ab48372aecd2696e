package sessions

import (
	"context"
	"errors"
)

var (
	// ErrNotFound is Lookup's answer for a session that the store does not hold: never counted,
	// expired or evicted.
	ErrNotFound = errors.New("no such session")
	// ErrUnavailable says that the store cannot answer now (it is unreachable, or has been
	// closed). The client may try again: a gateway answers 503.
	ErrUnavailable = errors.New("session store unavailable")
	// ErrFull says that the store is at its bound and nothing in it can give way.
	ErrFull = errors.New("session store full")
	// ErrForbidden says that the session was made with another subject: it is somebody else's. A
	// gateway answers 403.
	ErrForbidden = errors.New("the session belongs to somebody else")
)

// Store keeps the counts of all sessions. Every connection of a process shares one.
type Store interface {
	// Join returns one loop's side of the store. post hands a function to that loop's goroutine
	// and says false once the loop has ended; the store calls it from its own goroutines. Any
	// goroutine, once a loop.
	Join(post func(fn func()) bool) Loop
	// Lookup returns the stored total of a session, or ErrNotFound, or an error that wraps
	// ErrUnavailable. It may block until ctx ends: never call it on a loop.
	Lookup(ctx context.Context, id ID) (total uint64, err error)
	// Ready is nil when resumes and commits can be answered. Otherwise it says why not, in one
	// line for an operator. It never blocks. Any goroutine.
	Ready() error
	// Handover says that the process is being replaced, or replaces another; see Role. Any
	// goroutine.
	Handover(r Role)
	// Export yields, in chunks of at most some 64 KB which die when yield returns, what Import must
	// have in the other process once all attachments have moved that can: in memory, idle sessions.
	// It ends when yield returns false. Called again it yields what there is beyond that, when
	// the attachments that could not move have ended. Any goroutine.
	Export(yield func(chunk []byte) bool)
	// Answer takes a question that the store of the other process has asked, with what it was
	// given for that; send gets chunks for its Import, then or later. An error says that the
	// question is of another version. One goroutine at a time, but a loop's.
	Answer(question []byte, send func(chunk []byte) error) error
	// Import takes a chunk. An error says that it is of another version. Any goroutine.
	Import(chunk []byte) error
	// Close waits until what is pending is stored, or ctx ends, and then frees what the store
	// holds. An error says how many messages were given up. Loops must have detached what they
	// want kept. Any goroutine.
	Close(ctx context.Context) error
}

// Loop is one loop's side of a Store. Everything here is called by that loop's goroutine only.
type Loop interface {
	// Attach adds one connection to session id. resume says that the client asked for this id, so
	// that the total is looked up; without it the id is new. o.Attached is called once, perhaps
	// before Attach returns.
	//
	// subject is who the client has proved to be, like the sub of its token, or "" for nobody. A
	// session that is made with a subject is that subject's: to all others, nobody included,
	// Attached says ErrForbidden. One that is made by nobody anybody may resume, and it stays so.
	Attach(id ID, subject string, resume bool, o Owner)
	// Unpack makes an attachment of what Pack wrote in the process before this one. o.Attached is
	// not called. An error says that the state is of another version, or the store closed.
	Unpack(state []byte, o Owner) (Attachment, error)
}

// Owner is told what became of what it asked for. The gateway's connections implement it. It is
// called on the loop only, and never again after Detached.
type Owner interface {
	// Attached answers Attach. total is the session's count so far. resumed says that the store
	// held the session (or, in memory, that another connection is attached to it). When err is
	// ErrUnavailable, ErrFull or ErrForbidden there is no attachment: a is nil. ErrFull may be
	// about the store, or about one session.
	Attached(a Attachment, total uint64, resumed bool, err error)
	// Acknowledged says that the oldest last-first+1 unacknowledged messages of this attachment
	// are stored, and are numbered first..last in the order in which they were added.
	Acknowledged(first, last uint64)
	// Detached answers Detach. Without an error everything that the attachment counted is stored,
	// and total is the session's count, whoever counted: at least what any connection was told
	// before the Detach. While the store cannot be asked, and nothing is pending, total is what
	// this process knows. With an error the store could not confirm what is pending in time; it
	// goes on trying until it is closed.
	//
	// Without a Detach it says that the store refuses this session (ErrFull: too many processes
	// have counted in it; ErrForbidden: it was made at the same time with another subject, which
	// was stored first; ErrUnavailable: something else is stored at its place). The attachment
	// has ended, and what was pending is never acknowledged, nor stored, unless a command that
	// was given up arrives late.
	Detached(total uint64, err error)
}

// Attachment is one connection's membership of a session. Everything here is called by its loop
// only.
type Attachment interface {
	// Add counts one message. With ok the message is stored and total is its number. Without, an
	// Acknowledged that covers it comes later, not before Add has returned.
	Add() (total uint64, ok bool)
	// Pending is the number of messages not yet acknowledged.
	Pending() int
	// Full says that this connection or its loop holds as many unacknowledged messages as it may.
	// The gateway stops reading the connection until an Acknowledged leaves Pending() == 0 or
	// !Full().
	Full() bool
	// Touch keeps a silent session alive, whichever connection counted in it. The gateway calls
	// it at half of the session TTL.
	Touch()
	// Detach ends the membership; nothing else may be called on the attachment afterwards. What
	// is pending is stored first: o gets Acknowledged for it and then Detached. With a nil o
	// nobody waits, though what is pending is stored all the same.
	Detach(o Owner)

	// CanMove reports whether another process can go on with this attachment: not while something
	// is pending in its session, nor, in memory, while another connection may count there. last
	// says that no connection of this process counts any more. The store's role is Giving.
	CanMove(last bool) bool
	// Pack appends to b what the other process' Loop.Unpack must have. It changes nothing: the
	// attachment may stay, and then goes on as before. Until then nothing may be added to it.
	Pack(b []byte) []byte
	// Moved says that the attachment now is the other process'; nothing else may be called on it
	// afterwards. With one from Unpack, to which nothing was added, it says that it does not come
	// after all. Nobody is told anything.
	Moved()
}

// Package takeover hands the sockets of a running process to the one that replaces it, so that a
// new binary closes no connection.
//
// The old process listens at a Unix socket (mode 0600; the peer's user is checked). The new one
// connects, and both speak messages with a length, a kind and descriptors (SCM_RIGHTS):
//
//	new → old   hello: versions of the protocol, build, kind of application
//	old → new   welcome, or a refusal in words; then the listening sockets
//	            the new process opens its loops and its store: nothing has moved yet
//	new → old   begin: the old process reads no more requests; clients that come are for the new
//	            one, which accepts from now on
//	old → new   batch: at most 253 connections, each with its state
//	new → old   ack: the batch is the new process's own, but for the connections it refuses
//	old → new   chunk: state that belongs to no connection, such as idle sessions; also between
//	            batches, what happens meanwhile that concerns connections which have gone
//	new → old   ask, at any time: a question about such state, which chunks answer
//	old → new   done
//	new → old   ready: it accepts; the old process drains what could not travel, and exits; until
//	            then it answers
//
// # Whose a connection is
//
// At each moment exactly one process serves a connection. The old one stops serving it before it
// sends it, and closes its descriptor (the kernel's socket stays) after the acknowledgement. The
// new one adopts it without serving it, writes the acknowledgement, and serves it from then on. So
// when the new process ends or is killed on the way, the old one goes on with all that was not
// acknowledged; what was acknowledged ended with its owner. When the old process is killed, the new
// one goes on with what has arrived. A new process that neither answers nor ends would leave it
// open whose the last batches are: the old one kills it (SIGKILL) and goes on.
//
// A batch is on its way for some milliseconds, and at most two are at a time: that is the pause
// that a client sees. When the new process ends, those that it had accepted itself end with it.
//
// # Versions
//
// The hello names the versions of the protocol that a program speaks. With version 1 chunks come at
// the end only, so that what is published waits until then; before version 3 the old process
// accepts those who come, who travel unread, and nobody asks, so that whoever comes back for a
// session that is not known to have moved waits until the end too. Without a common version, or
// with another kind of application, the old process refuses before anything has moved. States of
// connections are maps whose unknown keys lead to a refusal of that one connection, which the old
// process then drains as at any deploy.
//
// The package moves descriptors and bytes. What the bytes say is the business of gateway.Server
// (see Server.Handover and Server.Adopt) and of the application.
package takeover

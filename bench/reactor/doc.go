// Package reactor is the event loop of the load generator: one epoll instance, a queue of timers
// and a mailbox, run by one goroutine.
//
// It is not package poller, on purpose. The two ends of a measurement then share no code in which a
// fault could hide. And a client needs less: a Socket and its entry in the loop's table take 24
// bytes, where poller's FD with netpoll's operator takes 192, and edge-triggered events need one
// epoll_ctl for the life of a connection.
//
// # Descriptor tables
//
// RLIMIT_NOFILE holds for each descriptor table, and on Linux a thread can have one of its own
// (close_range with CLOSE_RANGE_UNSHARE). A loop with Options.OwnTable runs on such a thread, so
// that one process holds as many connections as its loops have room for together. In such a table
// are only standard input and output, what the Go runtime needs to wake its own poller, and what
// the loop opens. Code on the loop must therefore not use files or sockets of other goroutines, and
// they not those of the loop; Post is the way from one to the other.
package reactor

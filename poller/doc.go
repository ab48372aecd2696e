/*
Package poller is the reactor: it says which descriptors are ready and which timers are due, and
holds nothing else of a connection. It knows no protocol.

A [Loop] is one epoll instance, one mailbox and one timing wheel, run by one goroutine: see [Start].
The usual program has one per core, each with its own listener on the same address (SO_REUSEPORT),
or as many as it needs descriptor tables.

# Layers

From the kernel upwards, one file each:

	netpoll.go   the reactor: cloudwego/netpoll's Poll, and the few things about it that are not exported
	fd.go        FD, one registered descriptor: what it waits for, and its end
	wheel.go     timers by tick, without a clock; timer.go ties the wheel to a timerfd
	loop.go      a round: events, mailbox, timers, end of round; then what had to wait is settled
	yield.go     many loops on few processors
	table.go     a descriptor table for one loop; parcel.go descriptors from one table to another
	listener.go  listening and accepting; dial.go connecting
	buffers.go   pooled memory for input and output that is incomplete

# Rules

Everything belongs to one loop. An FD, a Timer, a Buffers and what embeds them are touched by their
loop's goroutine only, so there is no lock and no atomic on the way of a byte. From elsewhere there
are only [Loop.Post] and [Loop.Close].

Nothing on a loop may block: no channel that may be full, no file, no resolver, no log line per
message. A callback that takes a millisecond takes it from every connection of the loop;
sluice_loop_lag_seconds shows it.

A round has an order, and code may rely on it: the callbacks of the events ([Events]); what was
posted; the timers that are due, at most 512 of them, so that a tick with thousands due does not
keep the sockets waiting; what [Loop.OnRound] registered; what [Loop.Later] put off; and last the
interests that changed and the descriptors that were closed. So a descriptor's number cannot come
back to life within the round of its Close, and a stale event of the round finds a closed FD and not
its successor.

An FD serves one registration. netpoll reports a hang-up from a goroutine of its own, so it may come
rounds later; it must find the FD that it was meant for.

[Loop.Now] stands still during a round. Timers never fire early by it, and keep their phase: a
period armed with [Loop.ArmAt] does not drift, however late the loop comes to single beats.

# A descriptor table for each loop

A limit of open files (RLIMIT_NOFILE, often 20,000 in a container and not to be raised from inside)
holds for one descriptor table, and on Linux a table belongs to a thread when the thread wants that.
With [Config].OwnTable a loop's goroutine is locked to a thread that leaves the table of the
process, by close_range with CLOSE_RANGE_UNSHARE: container profiles refuse unshare(2) but allow
that. 53 loops in one process then hold 1,000,000 sockets where the limit is 20,000. [CanSplit] says
whether it works here.

What follows from it:

  - A number means what it means in the table of the thread that uses it. Everything that a loop
    serves is opened on the loop, in setup or in callbacks, and used and closed there. A net.Conn or
    an os.File does not belong there: other goroutines, and their finalizers, would use its number
    in another table.
  - [CopyFDs] brings descriptors from one table to another. It is what a listener that was inherited
    takes, and a connection that another process hands over.
  - Three kinds of descriptors have one number in all tables: the standard streams; the epoll and
    the eventfd of the Go runtime's poller, which a thread writes to when it sets a timer (a failed
    write ends the process, and one that reaches a client's socket would be worse); and one eventfd
    for each loop, by which [Loop.Post] wakes it from any thread, with a socket pair for CopyFDs.
    They are opened before the first table is split off and lie lowest: [ReserveTables]. Nothing
    else of the process is open in a loop's table, for a copy there would keep a connection alive
    that the process has closed, and nothing of a loop's in that of the process.
  - The thread ends with its loop, and its table with it: what is still open then is closed.
  - /proc/self/fd is the table of the process. /proc/self/task/TID/fd has all.

# Why netpoll's Poll and not its Connection

netpoll's Connection is made for RPC: a buffer for each connection that lives as long as it, a
handler that may block because it has a goroutine, a Flush that waits for the peer. For a hundred
thousand connections that mostly do nothing each of these is the wrong way round. OnRequest is
called again until the input is used up, so half a frame must block or spin; input has no bound;
every connection keeps 8 KiB of input buffer and 1.25 KiB of output vectors. Measured with 10,000
idle connections: 12,000 bytes each with Connection's defaults, 390 to 530 with Poll and FDOperator
and the shared buffers of this package, at half of the CPU time per message.

The layer below has what is needed and no more: Poll waits and calls OnRead, OnWrite and OnHup of an
FDOperator. What it does not do is done here, and each is tested:

  - OnHup runs on another goroutine, after netpoll has detached the operator: it only posts.
    Interests that were to be settled for an operator that has just been detached are dropped, for
    adding it again would report the hang-up twice.
  - An operator is busy while one of its callbacks runs, and freeing or adding it then spins for
    ever: all of that waits for the end of the round.
  - There is no interest in writing alone. Paused reading is the edge-triggered state that netpoll
    has for connecting sockets.
  - With the race detector netpoll finds an event's operator by descriptor number and not by pointer,
    so both builds have to be tested.

# What is hooked, and how it is guarded

Three things that netpoll does not export are needed (netpoll.go):

  - openPoll, by go:linkname. The exported way to a Poll is a global manager that starts loops of
    its own, in goroutines of its own, and spreads connections over them as it likes. A test pins
    the module's version and says what to read again when it changes; a missing symbol does not
    link.
  - The fields Handler and Reset of its Poll, which are func values in order to be replaced, but of
    an unexported struct. Handler is wrapped to have a beginning and an end of a round. Reset is
    replaced to keep the event array at 512 entries: netpoll doubles it whenever it comes back full
    and never shrinks it, up to 131,072 entries of 1.3 KB with I/O vectors that are not used here.
    The types of both are checked when a loop is made, and an error says that the version is
    another.
  - The numbers of its epoll and eventfd descriptors, which it opens without CLOEXEC. Checked
    likewise.

# The wheel against time.AfterFunc

1,000,000 timers armed at a time, due in 30 to 60 s (heartbeats with their phases spread), each in
an allocation of its own as in a connection; tick of 10 ms. CPU time, median of five runs on 2 cores
of an AMD EPYC virtual machine with Go 1.26.8, by

	go test ./poller -run '^$' -bench '^BenchmarkTimers' -benchtime 1x -count 5

	per timer                     wheel      time.AfterFunc
	memory, B                        56                 112
	arm, ns                           7                 234
	re-arm, ns                       23                  56
	cancel, ns                       12                 104
	fire, ns                        445               1,014

Memory is what the heap grew by, rounded up to the allocator's sizes; a Timer by itself is 48 bytes
inside its owner. AfterFunc's callback is shared by all, so the closure that a connection would need
is not in its figure; its arming allocates, which the wheel's does not. A Reset in the runtime only
marks its timer and the heap is mended later, so that figure leaves out a part. Firing includes the
wheel's cascades; it calls Expire on the loop, where the connection may be touched, while the
runtime starts a goroutine for each call, which would have to post to the loop on top of that.
Nearly all of the wheel's 445 ns are cache misses, because timers are visited in the order of their
time: with times in the order of memory it takes 17 ns.
*/
package poller

// Package sessions says who is counted: it keeps the number of messages of each session, across
// connections, loops and, with Redis, processes and machines.
//
// # Memory
//
// Memory (the default store) counts in this process. A session is one 64-byte struct which is
// also the Attachment of all its connections, so attaching allocates it and nothing else, and
// counting a message is one atomic add. Measured with go test -bench 'Memory' on the 2-core
// development machine: 78 to 86 B a session, its place in the index included (82 at 19,000
// sessions, 86 at 1,000,000; with a Go map 110 and 120, see index), 6 ns a counted message, 86 ns
// for attaching, counting and detaching. Ids fall on 64 shards; a shard's lock is taken at attach
// and detach only. Idle sessions form a list per shard, longest idle first, so both expiry and
// eviction take its head.
//
// # Redis: the promise
//
// For a session let A be the highest total that a client was told, R the total in Redis and S the
// messages that gateways received. Then A ≤ R ≤ S, whatever processes, connections and commands
// are lost, late or doubled, and R = S once all is quiet. A welcome or bye is never below what
// anybody was told before.
//
// Redis itself must keep what it confirmed: appendonly, appendfsync always, noeviction
// (Durability strict insists), and no failover to a replica that lags. Replicas hear of a write
// after it was confirmed, so each failover may forget some, also one that was asked for: SENTINEL
// FAILOVER promotes a replica while its master goes on confirming. With WaitReplicas N nothing is
// acknowledged before N replicas have received it, and what was survives if one of them is
// promoted. (A welcome, and a bye that is said while Redis is away, may be ahead of the replicas
// by commits that are on their way, which are repeated.)
//
// When Redis forgets, R ≤ S still holds; R is restored, by the next commit or Touch of each
// process that is connected to the session, to at least what that process told its clients. What
// only processes knew that had let go of the session is lost. Until the last of them has spoken,
// two processes may give out the same number.
//
// # Redis: the proof
//
// The writer is the process. A session is a hash with, for each process that ever counted in it,
// a field c:<instance> that only this process increases, and n, the sum of all: a G-counter. All
// connections of a process in a session, on whatever loop, commit as one. A field is i:b:d:t. A
// process that lets go of a session (its last connection left and nothing is unconfirmed) forgets
// what it counted there, so each time it takes one up is a new incarnation i, from a counter of
// the process. d counts the messages of that incarnation, b is what the field was worth before
// it. A field is worth b+d; t is explained below.
//
// Two values of one field are joined so: of two incarnations the later one's i and d, and as b
// the larger of its own b and the earlier one's b+d; of one incarnation the larger b and the
// larger d.
//
//   - R ≤ S. Let D(i) be the messages of incarnation i. Each value (i, b, d) that exists has d ≤
//     D(i) and b ≤ D(1)+…+D(i-1): true when a process makes it, since b is what it read, and kept
//     by the join, as the earlier value's b+d is at most D(1)+…+D(i'), with i' < i. So b+d never
//     exceeds what was sent.
//   - Nothing is lost. The join is worth at least as much as either value, in each of its four
//     cases. Values are never replaced but joined, so without loss in Redis no field and no total
//     ever falls, A ≤ R.
//   - Repetition, delay and order change nothing: joining a value again, or an older one, is
//     worth no more. (The join is idempotent and commutative. It is not associative: after a loss
//     the order in which processes speak may decide how much is restored of what nobody still
//     here was told.)
//   - After a loss each process restores the others' fields that it was told, by the same join,
//     and its own with the value that each commit carries. Then the hash is worth at least what
//     the process was told. That the incarnation is there matters now: a process that has
//     forgotten begins again at d = 0, and when another one restores its old, larger field, both
//     count.
//
// The numbers. commit.lua stores in t the total right after d was stored. The m messages of a
// commit own the numbers (t-m, t], in the order in which the process received them. A commit that
// is not answered is repeated with the same d, however many messages came meanwhile, so it finds
// the same t, whoever counted in between. No other commit was given one of these numbers, as n
// only grows.
//
// Loss is noticed by sums: a commit says what the other fields were worth when the process was
// last told, and if they are worth less now, nothing is done and the process sends them along.
// Only when their sum has changed are they in an answer; most sessions have one field, and
// neither send nor receive others.
//
// What is given up for it: fields stay as long as the session, one for each process that counted
// there, some 30 B. More than 1,000 are refused (ErrFull). A process that was cut off for however
// long still owns its field. A successor may inherit instance and incarnations, but never while
// the old process still has a writer for the session: two would count in one field.
//
// model_script_test.go has commit.lua once more in Go. TestModel draws histories of processes
// that come, go, end and are taken over, commands that are lost, repeated, delayed and reordered,
// losses and rollbacks, and runs them with that; TestModelInRedis runs them in a real Redis and
// compares each answer. Of each kind 200,000 were run and more (go test -run Model -histories
// 200000).
//
// Keys have the format's version in them (2:). Sessions of version 1, which had a field per
// connection and folded them into a base, are not read: a gateway of that version could still
// repeat a commit that a merge has counted, and of a base nobody knows whose commits are in it.
//
// A session can also be refused for what is at its key: another type, fields that no commit
// writes, or a total above 2^53-1, up to which Lua's numbers are exact. Its connections end
// (Detached without a Detach), it cannot be resumed, one line in ten seconds says so, and no
// other session waits for it.
//
// # Redis: batches, resumes, outages
//
// A session's committer is chosen by its id. While a batch is in flight the next one gathers, and
// for CommitInterval where Redis is faster, unless it is full or the one before was a single
// commit; its acknowledgements return to each loop in one post. A batch is one DoMulti, or up to
// four at once from 65 commits on. Each of those travels on one of four connections, which rueidis
// draws (two may have the same): Redis takes 16 KiB, some 70 commits, from each before it syncs its
// file and answers. With appendfsync always that is worth a factor of two. rueidis repeats nothing
// by itself. A batch has one deadline; what was not taken is repeated after 10 ms to 1 s, drawn at
// random, and less and less often while some of it is not taken, since all of a batch wait for its
// slowest. Pending messages are bounded per connection and per loop (Full); connections that leave
// in an outage leave their counts in that bound.
//
// A resume reads the hash through rueidis' client-side cache. Invalidations travel alone, so a
// cached count may be older than an acknowledgement from another process, or this one. Hence the
// resumes that have gathered are preceded by one PING on the connection that carries the
// invalidations: Redis queued those of every confirmed write before it reads our PING, so they
// are here when the answer is. A storm of idle sessions costs Redis one PING for up to 256 of
// them. The cache holds up to 128 MiB a server, the least recently used sessions going first.
//
// On a Cluster the question is CLUSTER INFO and CLUSTER NODES, asked of all servers, and a cached
// entry is used only if its own server says in that answer that it is master, in a majority, and
// owns the slot, which does not move, and no other server claims the slot. Otherwise the session
// is read from the servers: in a failover or a migration writes go to a server of which this one
// hears late or never, even "no such session" is cached. While a server does not answer, nothing
// is served from the cache. Behind Sentinel the question is ROLE.
//
// If Redis does not answer, resumes are refused (ErrUnavailable), also those that the cache
// knows. It would know them for the three seconds after which rueidis gives a silent connection
// up and forgets its entries, and a process that alone is cut off cannot tell its outage from
// Redis': it would welcome clients with less than another process has told them.
//
// # Redis: URLs
//
//	redis://host:6379/0                             one server, database 0
//	redis://user:password@host                      with credentials
//	redis://:password@host                          of the default user
//	rediss://host                                   TLS; ?ca=FILE adds a certificate to trust,
//	                                                ?skip_verify=true trusts any
//	redis://h1:7000?addr=h2:7001&addr=h3:7002       Redis Cluster, found from any of these
//	redis://h1:26379?addr=h2:26379&master_set=NAME  Sentinel; if they want credentials, with
//	                                                &sentinel_user=…&sentinel_password=…
//	unix:///run/redis.sock                          a Unix socket
//
// Further parameters: db, client_name, dial_timeout (a duration; default: RedisConfig.Deadline).
//
// A user in Redis' access control list needs the keys ~PREFIX* and
//
//	+ping +eval +evalsha +hmget +hgetall +hset +hlen +pexpire
//	+client|tracking +client|caching +multi +exec +pttl      with the client-side cache
//	+wait +role                                              with WaitReplicas
//	+asking                                                  and on a cluster
//	+config|get                                              to see its durability; strict needs it
//	+cluster|slots +cluster|shards                           on a cluster
//	+cluster|info +cluster|nodes                             on a cluster with the client-side cache
//	+role                                                    behind Sentinel
package sessions

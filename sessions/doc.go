// Package sessions says who is counted: it keeps the number of messages of each session, across
// connections, loops and, with Redis, processes and machines.
//
// # Memory
//
// Memory (the default store) counts in this process. A session is one 64-byte struct which is also the
// Attachment of all its connections, so attaching allocates it and nothing else, and counting a message is
// one atomic add. Measured with go test -bench 'Memory' on the 2-core development machine: 99 to 120 B a
// session, map slot included (110 at 19,000 sessions, 120 at 1,000,000), 6 ns a counted message, 86 ns for
// attaching, counting and detaching. Ids fall on 64 shards; a shard's lock is taken at attach and detach
// only. Idle sessions form a list per shard, longest idle first, so both expiry and eviction take its head.
//
// # Redis: the promise
//
// For a session let A be the highest number that was acknowledged, R the total in Redis and S the messages
// received. Then A ≤ R ≤ S whatever processes, connections or commands are lost, late or doubled, and R = S
// once all is quiet. A welcome is never below an acknowledgement that somebody received before asking.
//
// Redis itself must keep what it confirmed: appendonly, appendfsync always, noeviction (Durability strict
// insists). When it does not (a flush, an eviction, a restart with an older file, a failover to a replica
// that lags) R falls, and each writer that is still attached restores it with its next commit or Touch,
// exactly as far as the writers still attached were told; what only departed ones knew is gone. Until the
// last of them has spoken, two of them on different processes may be given the same number: no writer can know
// what another was told, other than from Redis. R ≤ S holds throughout.
//
// # Redis: the commit
//
// A writer is one attachment, with a random id. A session is a hash with the total n and, per writer, a field
// c:<writer> = contribution:total right after it:time. So n is a sum of counters of which each is written by
// one writer and only grows (a G-counter), and commit.lua, one script per session and batch, follows:
//
//   - A writer sends its contribution, not an increment. The script stores the larger of it and what it finds
//     and adds the difference to n. Repeated commits add nothing; a late one finds a larger one; order does not matter.
//   - A commit that is not answered is repeated as it was, with the same contribution: the messages that came
//     meanwhile wait for the next one. Else, had the first one been stored and another writer come between,
//     the numbers of the repeated one would not be contiguous. With it, the field says what the total was right
//     after it was stored, so the m messages of it own the numbers (T−m, T] however often it was sent.
//   - A writer says what it was told: its own contribution b, the total L. If the hash holds less of its own, or
//     less of all others than L−b, state was lost. Then nothing is done (an old command cannot restore an old
//     state) and the writer sends again with all fields that it was told. Those are merged field by field, the
//     larger wins: the join of G-counters, which is idempotent and commutative and never exceeds what was sent.
//     This is why writers remember fields and not just totals: a total may or may not include a commit of
//     another writer that was stored and not answered, and adding that again would count it twice.
//   - The other fields are in an answer only when their sum has changed, so a session with one writer, which is
//     nearly every session, sends and receives none.
//
// Fields must not pile up. A writer that has gone marks its field once it was told that everything is stored; when
// a hash has 16 fields, a new writer folds the marked ones into a base b. A commit that arrives after its writer was
// folded would be counted again. So the mark never travels with messages: while their commit is unanswered it is
// repeated, and the field must be there for as long as Redis may be out of reach. And a writer of which any command
// went unanswered, and may still lie in a connection that we gave up and Redis has not yet read, is folded a minute
// after its mark at the soonest, by Redis' clock. Most writers were answered every time, and are folded at once.
// With nothing pending and few fields a writer leaves without a commit: a write would invalidate the session in
// every cache.
//
// What a gateway that died left unmarked is folded after twice the TTL and a minute; connected writers commit or Touch
// far more often. So only a gateway that was cut off for that long, while the session went on elsewhere with 16 fields
// or more, could repeat a commit that has been folded; one that only comes back is noticed, and taken out of the base.
//
// A hash has at most 128 fields, and nothing that may be alive makes room: a new writer is refused instead, and with
// it a resume. That is some 126 connections that count in one session at once, or were left unmarked by gateways
// that died in the last two TTLs.
//
// When state is lost, two writers may know different folds. The later fold wins, and what its writer was not told of is
// dropped: it is in the base, or its own writer restores it. Keeping it could count it twice. So after a loss a session
// with folded writers may be short of what only departed writers counted, even if one still here was told of it, and
// is never above what was sent.
//
// TestCommitScriptAgainstModel draws histories of losses, repetitions, delays, folds, flushes and rollbacks and
// runs them in a real Redis.
//
// A session can also be refused for what is at its key: another type, fields that no commit writes, or a total
// above 2^53-1, up to which Lua's numbers are exact. Its connections end (Detached without a Detach), it cannot be
// resumed, one line in ten seconds says so, and no other session waits for it.
//
// # Redis: batches, resumes, outages
//
// Each loop has one committer. While a batch is in flight the next one gathers; its acknowledgements return to the
// loop in one post. A batch is one DoMulti, or up to four at once from 65 commits on. Each of those travels on one of
// four connections, which rueidis draws (two may have the same): Redis takes 16 KiB, some 70 commits, from each before
// it syncs its file and answers. With appendfsync always that is worth a factor of two. rueidis repeats nothing by
// itself. A batch has one deadline; what was not taken is repeated after 10 ms to 1 s, drawn at random, and less and
// less often while some of it is not taken, since all of a batch wait for its slowest. Pending messages are bounded
// per connection and per loop (Full); connections that leave in an outage leave their counts in that bound.
//
// A resume reads the hash through rueidis' client-side cache. Invalidations travel alone, so a cached count
// may be older than an acknowledgement from another process, or this one. Hence the resumes that have gathered
// are preceded by one PING on the connection that carries the invalidations: Redis queued those of every
// confirmed write before it reads our PING, so they are here when the answer is. A storm of idle sessions
// costs Redis one PING for up to 256 of them. The cache holds up to 128 MiB a server, the least recently used
// sessions going first.
//
// If Redis does not answer, resumes are refused (ErrUnavailable), also those that the cache knows. It would know them for
// the three seconds after which rueidis gives a silent connection up and forgets its entries, and a process that alone
// is cut off cannot tell its outage from Redis': it would welcome clients with less than another process has told them.
//
// Measured with go test -bench RedisAcknowledged -benchtime 300000x, 1,000 connections with one message in flight each, Redis 7.0 and all on
// the same 2 cores: 100,000 acknowledged messages a second without append-only file, 81,000 with appendfsync
// everysec, 38,000 to 45,000 with always and one connection for the commits. On the same machine with other work on it, alternating, medians of
// five: 17,600 with one connection, 38,700 with four. An attachment costs 160 B.
//
// # Redis: URLs
//
//	redis://host:6379/0                                    one server, database 0
//	redis://user:password@host                             with credentials; redis://:password@host for the default user
//	rediss://host                                          TLS; ?ca=FILE adds a certificate to trust, ?skip_verify=true trusts any
//	redis://h1:7000?addr=h2:7001&addr=h3:7002              Redis Cluster, found from any of these (one that answers is enough)
//	redis://h1:26379?addr=h2:26379&master_set=NAME         Sentinel; with &sentinel_user=…&sentinel_password=… if they want one
//	unix:///run/redis.sock                                 a Unix socket
//
// Further parameters: db, client_name, dial_timeout (a duration; default: RedisConfig.Deadline).
//
// A user in Redis' access control list needs the keys ~PREFIX* and
//
//	+ping +eval +evalsha +hmget +hgetall +hset +hdel +hlen +pexpire +time
//	+client|tracking +client|caching +multi +exec +pttl      with the client-side cache
//	+config|get                                              to look at its durability; strict insists on it
//	+cluster|slots +cluster|shards                           on a cluster
//	+role                                                    behind Sentinel
package sessions

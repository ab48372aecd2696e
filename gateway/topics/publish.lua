-- Publishes a message of a topic with a history, and keeps it. Both happen or neither.
-- KEYS: the topic's hash (e: epoch, s: offset of the last message), the topic's stream of messages.
-- ARGV: messages kept, their life in ms, the hash's life in ms, an epoch for a new history,
--       opcode, payload, channel, PUBLISH or SPUBLISH.
-- Answers the message's epoch and offset.
local epoch = redis.call('HGET', KEYS[1], 'e')
if not epoch then
	epoch = ARGV[4]
	redis.call('DEL', KEYS[2])
	redis.call('HSET', KEYS[1], 'e', epoch)
end
local offset = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 's', 1))
local now = redis.call('TIME')
local ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[1], offset .. '-0', ARGV[5] .. ms, ARGV[6])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call(ARGV[8], ARGV[7], ARGV[5] .. epoch .. ':' .. offset .. '\n' .. ARGV[6])
return {epoch, offset}

-- Reads the history of a topic after an offset.
-- KEYS: as in publish.lua. ARGV: the offset, the messages' life in ms, the hash's life in ms, an
-- epoch for a new history.
-- Answers the epoch, the offset of the last message, and for each message that has not expired its
-- offset, opcode and payload.
local epoch = redis.call('HGET', KEYS[1], 'e')
if not epoch then
	epoch = ARGV[4]
	redis.call('DEL', KEYS[2])
	redis.call('HSET', KEYS[1], 'e', epoch)
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local answer = {epoch, redis.call('HGET', KEYS[1], 's') or '0'}
local now = redis.call('TIME')
local oldest = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[2]
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+')) do
	local op, ms = string.match(entry[2][1], '^(%a)(%d+)$')
	if ms and tonumber(ms) > oldest then
		answer[#answer + 1] = string.match(entry[1], '^%d+')
		answer[#answer + 1] = op
		answer[#answer + 1] = entry[2][2]
	end
end
return answer

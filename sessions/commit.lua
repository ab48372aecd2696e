-- One process' commit to one session. doc.go says why it is right; model_test.go tries to prove it
-- wrong.
--
-- KEYS[1]  the session: a hash of n, the total, and per process c:<instance> = i:b:d:t, what it
--          contributed: incarnation, base, delta, the total right after delta was stored.
--          n is the sum of all b+d. s, if there is one, is the subject that it belongs to.
-- ARGV     1 the process' field  2 its value, i:b:d  3 what the others are worth, as it was told
--          4 TTL, ms  5 "touch": set the TTL though nothing changes  6 the subject, or nothing
--          7... to restore: the other fields that it was told, as pairs
-- Answers  {n, t, b, b+d before this commit, the other fields if they are not worth ARGV[3]...}
--          {}: another field was lost; nothing has been done: send again with the fields
--          an error SESSION...: this session cannot take the commit; nothing of it has been stored
local key, me, told, subject = KEYS[1], ARGV[1], tonumber(ARGV[3]), ARGV[6]
local max = 9007199254740991 -- 2^53-1: above it a Lua number skips integers
local fail = function(what) return {err = 'SESSION' .. what} end
local parse = function(v)
  local i, b, d, t = string.match(v or '0:0:0:0', '^(%d+):(%d+):(%d+):(%d+)$')
  if i and math.max(i, b + d, t) <= max then return {i = i + 0, b = b + 0, d = d + 0, t = t + 0} end
end
local join = function(x, y) -- of one field: nothing is lost, nothing counted twice
  if x.i < y.i then x, y = y, x end
  if x.i > y.i then return {i = x.i, b = math.max(x.b, y.b + y.d), d = x.d, t = x.t} end
  local z = y.d > x.d and y or x
  return {i = x.i, b = math.max(x.b, y.b), d = z.d, t = z.t}
end

local h = redis.pcall('HMGET', key, 'n', me, 's')
if h.err then return h end -- WRONGTYPE, as it is: redis.call would wrap it
local n, old, mine = tonumber(string.match(h[1] or '0', '^%d+$')), parse(h[2]), parse(ARGV[2] .. ':0')
if not n or n > max or not old then return fail('FOREIGN a commit has not written n, or ' .. me) end
if h[3] and subject ~= '' and subject ~= h[3] then return fail('SUBJECT it belongs to another') end
local before, set = old.b + old.d, {}
local put = function(field, from, v) -- what makes a field worth no more is not news
  local grown = (v.b + v.d) - (from.b + from.d) -- in this order: sums above 2^53 are not exact
  if grown <= 0 then return end
  n = n + grown
  if v.t == 0 then v.t = n end
  set[#set + 1], set[#set + 2] = field, string.format('%.0f:%.0f:%.0f:%.0f', v.i, v.b, v.d, v.t)
end
if n - before < told then
  if not ARGV[7] then return {} end
  for k = 7, #ARGV, 2 do
    local stored = parse(redis.call('HMGET', key, ARGV[k])[1])
    if not stored then return fail('FOREIGN a commit has not written ' .. ARGV[k]) end
    put(ARGV[k], stored, join(stored, parse(ARGV[k + 1])))
  end
end
local v = mine and join(old, mine)
if v then put(me, old, v) end
if not v or n > max then return fail('LIMIT the total would be above 2^53-1') end
if set[#set - 1] == me and not h[2] and redis.call('HLEN', key) - (h[3] and 1 or 0) > MAX_PROCESSES then
  return fail('FULL MAX_PROCESSES processes have counted in it')
end
if #set > 0 and subject ~= '' and not h[3] then set[#set + 1], set[#set + 2] = 's', subject end
if #set > 0 then redis.call('HSET', key, 'n', string.format('%.0f', n), unpack(set)) end
if #set > 0 or ARGV[5] ~= '' then redis.call('PEXPIRE', key, ARGV[4]) end

local reply = {n, v.t, v.b, before}
if n - v.b - v.d == told then return reply end
local all = redis.call('HGETALL', key)
for k = 1, #all, 2 do
  local field = all[k]
  if field ~= 'n' and field ~= 's' and field ~= me then
    reply[#reply + 1], reply[#reply + 2] = field, all[k + 1]
  end
end
return reply

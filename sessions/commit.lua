-- One process' commit to one session. doc.go says why it is right; model_test.go tries to prove it
-- wrong.
--
-- KEYS[1]  the session: a hash of n, the total, and per process c:<instance> = i:b:d:t, what it
--          contributed: incarnation, base, delta, the total right after delta was stored.
--          n is the sum of all b+d.
-- ARGV     1 the process' field  2 its value, i:b:d  3 what the others are worth, as it was told
--          4 TTL, ms  5 "touch": set the TTL though nothing changes
--          6... to restore: the other fields that it was told, as pairs
-- Answers  {n, t, b, b+d before this commit, the other fields if they are not worth ARGV[3]...}
--          {}: another field was lost; nothing has been done: send again with the fields
--          an error SESSION...: this session cannot take the commit; nothing of it has been stored
local key, me, told = KEYS[1], ARGV[1], tonumber(ARGV[3])
local max = 9007199254740991 -- 2^53-1: above it a Lua number skips integers
local none, writes = {i = 0, b = 0, d = 0, t = 0}, {}
local foreign = function(what) return {err = 'SESSIONFOREIGN a commit has not written ' .. what} end
local parse = function(v)
  local i, b, d, t = string.match(v, '^(%d+):(%d+):(%d+):(%d+)$')
  i, b, d, t = tonumber(i), tonumber(b), tonumber(d), tonumber(t)
  if i and math.max(i, b + d, t) <= max then return {i = i, b = b, d = d, t = t} end
end
local join = function(x, y) -- of one field: nothing is lost, nothing counted twice
  if x.i < y.i then x, y = y, x end
  if x.i > y.i then return {i = x.i, b = math.max(x.b, y.b + y.d), d = x.d, t = x.t} end
  local z = y.d > x.d and y or x
  return {i = x.i, b = math.max(x.b, y.b), d = z.d, t = z.t}
end

local h = redis.pcall('HMGET', key, 'n', me)
if h.err then return h end -- WRONGTYPE, as it is: redis.call would wrap it
local n = tonumber(string.match(h[1] or '0', '^%d+$'))
local old = h[2] and parse(h[2]) or not h[2] and none
if not n or n > max or not old then return foreign('n, or ' .. me) end
local put = function(field, from, v) -- what makes a field worth no more is not news
  if v.b + v.d <= from.b + from.d then return end
  n = n + ((v.b + v.d) - (from.b + from.d)) -- in this order: sums above 2^53 are not exact
  if v.t == 0 then v.t = n end
  writes[#writes + 1] = field
  writes[#writes + 1] = string.format('%.0f:%.0f:%.0f:%.0f', v.i, v.b, v.d, v.t)
end

local before = old.b + old.d
if n - before < told then
  if not ARGV[6] then return {} end
  for k = 6, #ARGV, 2 do
    local s = redis.call('HMGET', key, ARGV[k])[1]
    s = s and parse(s) or not s and none
    if not s then return foreign(ARGV[k]) end
    put(ARGV[k], s, join(s, parse(ARGV[k + 1])))
  end
end
local mine = parse(ARGV[2] .. ':0')
local v = mine and join(old, mine) or none
put(me, old, v)
if n > max or not mine then return {err = 'SESSIONLIMIT the total would be above 2^53-1'} end
if #writes > 0 then
  if not h[2] and writes[#writes - 1] == me and redis.call('HLEN', key) > MAX_PROCESSES then
    return {err = 'SESSIONFULL MAX_PROCESSES processes have counted in it'}
  end
  redis.call('HSET', key, 'n', string.format('%.0f', n), unpack(writes))
end
if #writes > 0 or ARGV[5] ~= '' then redis.call('PEXPIRE', key, ARGV[4]) end

local reply = {n, v.t, v.b, before}
if n - v.b - v.d ~= told then
  local all = redis.call('HGETALL', key)
  for k = 1, #all, 2 do
    if all[k] ~= 'n' and all[k] ~= me then
      reply[#reply + 1], reply[#reply + 2] = all[k], all[k + 1]
    end
  end
end
return reply

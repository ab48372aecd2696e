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
--
-- Redis runs nothing else meanwhile, so it makes no table and no string that it can do without.
local key, me, told, subject = KEYS[1], ARGV[1], tonumber(ARGV[3]), ARGV[6]
local max = 9007199254740991 -- 2^53-1: above it a Lua number skips integers
local match, format, call = string.match, string.format, redis.call
local fail = function(what) return {err = 'SESSION' .. what} end
local parse = function(v) -- i, b, d, t; nothing, if that is no field
  local i, b, d, t = match(v, '^(%d+):(%d+):(%d+):(%d+)$')
  if not i then return end
  i, b, d, t = i + 0, b + 0, d + 0, t + 0
  if i <= max and b + d <= max and t <= max then return i, b, d, t end
end
-- join is of one field: nothing is lost, nothing counted twice.
local join = function(i, b, d, t, yi, yb, yd, yt)
  if yi > i then
    i, b, d, t, yi, yb, yd = yi, yb, yd, yt, i, b, d
  elseif yi == i then
    if yd > d then d, t = yd, yt end
    yd = 0
  end
  if yb + yd > b then b = yb + yd end
  return i, b, d, t
end

local h = redis.pcall('HMGET', key, 'n', me, 's')
if h.err then return h end -- WRONGTYPE, as it is: redis.call would wrap it
local n, i, b, d, t = 0, 0, 0, 0, 0
if h[1] then n = tonumber(match(h[1], '^%d+$')) end
if h[2] then i, b, d, t = parse(h[2]) end
if not n or n > max or not i then return fail('FOREIGN a commit has not written n, or ' .. me) end
if h[3] and subject ~= '' and subject ~= h[3] then return fail('SUBJECT it belongs to another') end
local before, set = b + d, {}
local put = function(field, worth, i, b, d, t) -- what makes a field worth no more is not news
  local grown = b + d - worth -- in this order: sums above 2^53 are not exact
  if grown <= 0 then return t end
  n = n + grown
  if t == 0 then t = n end
  set[#set + 1], set[#set + 2] = field, format('%.0f:%.0f:%.0f:%.0f', i, b, d, t)
  return t
end
if n - before < told then
  if not ARGV[7] then return {} end
  for k = 7, #ARGV, 2 do
    local stored = call('HMGET', key, ARGV[k])[1] or '0:0:0:0'
    local i, b, d, t = parse(stored)
    if not i then return fail('FOREIGN a commit has not written ' .. ARGV[k]) end
    put(ARGV[k], b + d, join(i, b, d, t, parse(ARGV[k + 1])))
  end
end
local mi, mb, md, mt = parse(ARGV[2] .. ':0')
if mi then
  i, b, d, t = join(i, b, d, t, mi, mb, md, mt)
  t = put(me, before, i, b, d, t)
end
if not mi or n > max then return fail('LIMIT the total would be above 2^53-1') end
if set[1] then
  local new = not h[2] and set[#set - 1] == me -- a field that was not there
  if new and call('HLEN', key) - (h[3] and 1 or 0) > MAX_PROCESSES then
    return fail('FULL MAX_PROCESSES processes have counted in it')
  end
  if subject ~= '' and not h[3] then set[#set + 1], set[#set + 2] = 's', subject end
  call('HSET', key, 'n', format('%.0f', n), unpack(set))
end
if set[1] or ARGV[5] ~= '' then call('PEXPIRE', key, ARGV[4]) end

local reply = {n, t, b, before}
if n - b - d == told then return reply end
local all = call('HGETALL', key)
for k = 1, #all, 2 do
  local field = all[k]
  if field ~= 'n' and field ~= 's' and field ~= me then
    reply[#reply + 1], reply[#reply + 2] = field, all[k + 1]
  end
end
return reply

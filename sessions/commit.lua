-- One writer's commit to one session. doc.go says why it is right; commit_model_test.go tries to prove it wrong.
--
-- KEYS[1]  the session: a hash of n (the total), b (what folded writers counted), x (set once a writer that
--          might be alive was folded) and, per writer, c:<writer> = contribution:total-right-after:seconds[:f];
--          seconds is 0 when, besides being done (f), no command of the writer can still arrive
-- ARGV     1 field  2 contribution  3 contribution it was told is stored  4 total it was told  5 TTL ms
--          6 "f" if this writer is done, "0" if it is and repeated nothing  7 "heal" or ""
--          8… heal: the other fields it was told, as pairs
-- Answers  {1, total, contribution stored, total right after it, fields if the writer is new, healed,
--          other fields if they changed…}
--          {0} state was lost: nothing has been done, send again with "heal"
--          an error SESSION…: this session cannot take the commit, and nothing of it has been stored
local key, me = KEYS[1], ARGV[1]
local c, told, known, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local done, heal = ARGV[6], ARGV[7] == 'heal'
local now = tonumber(redis.call('TIME')[1])
local int = function(x) return string.format('%.0f', x) end -- .. would write 1e+15
local max = 9007199254740991 -- 2^53-1: above it a Lua number skips integers
local count = function(v) -- nil unless v is a count that we can have written
  local x = tonumber(v)
  if x and x <= max and not string.find(v, '%D') then return x end
end
local parse = function(v)
  local a, b, s, f = string.match(v, '^(%d+):(%d+):(%d+):?(f?)$')
  a, b = tonumber(a), tonumber(b)
  if a and a <= max and b <= max then return a, b, tonumber(s), f end
end
local foreign = 'SESSIONFOREIGN another field than a commit writes: '

local h = redis.pcall('HMGET', key, 'n', me)
if h.err then return h end -- WRONGTYPE, as it is: redis.call would wrap it
local n, s, t, sec, f = h[1] and count(h[1]) or not h[1] and 0, 0, 0, 0, ''
if not n then return {err = foreign .. 'n'} end
if h[2] then s, t, sec, f = parse(h[2]) end
if not s then return {err = foreign .. me} end

local healed = 0
if s < told or n - s < known - told then
  if not heal then return {0} end
  healed = 1
  local base, forced, have, given, all = 0, false, {}, {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local w, v = all[i], all[i + 1]
    if w == 'b' then base = count(v)
    elseif w == 'x' then forced = true
    elseif w ~= 'n' and parse(v) then have[w] = v end
    if not base then return {err = foreign .. 'b'} end
  end
  local gbase = 0
  for i = 8, #ARGV, 2 do
    local w, v = ARGV[i], ARGV[i + 1]
    if w == 'b' then gbase = count(v) or 0
    elseif w ~= 'x' and parse(v) then given[w] = v end
  end
  if base < gbase then -- the writer saw a later fold: what it did not see is in its base, or alive and will say so itself
    for w, v in pairs(have) do
      if w ~= me and not given[w] then have[w] = nil; redis.call('HDEL', key, w) end
    end
  end
  for w, v in pairs(given) do
    if have[w] then -- the same writer twice: contributions only grow, so the larger one is later
      if parse(v) > parse(have[w]) then have[w] = v end
    elseif base <= gbase then have[w] = v end -- else it was folded since the writer saw it
  end
  base = math.max(base, gbase)
  n = base
  for w, v in pairs(have) do
    n = n + parse(v)
    redis.call('HSET', key, w, v)
  end
  if base > 0 then redis.call('HSET', key, 'b', int(base)) end
  if have[me] then s, t, sec, f = parse(have[me]) else s, t = 0, 0 end
  if s < told then -- its own share, which nobody else can restore
    if forced and n >= known and base >= told - s then -- it was folded alive: take it back out
      redis.call('HSET', key, 'b', int(base - (told - s)))
    else n = n + (told - s) end
    s, t = told, n
  end
  if n > 0 then redis.call('HSET', key, 'n', int(n)) end
  redis.call('PEXPIRE', key, ttl) -- here too: the commit itself may yet be refused
end

local len = h[2] and 0 or redis.call('HLEN', key)
if len >= FOLD_ABOVE and c > 0 then -- a writer more: fold those that cannot come back
  local all, base = redis.call('HGETALL', key), 0
  for i = 1, #all, 2 do
    local w, v = all[i], all[i + 1]
    if w == 'b' then base = base + (count(v) or 0)
    elseif w ~= 'n' and w ~= 'x' and w ~= me then
      local x, _, at, fin = parse(v)
      if x and now - at >= (fin == 'f' and FOLD_AFTER or 2 * ttl / 1000 + FOLD_AFTER) then
        if fin ~= 'f' then redis.call('HSET', key, 'x', '1') end
        base, len = base + x, len - redis.call('HDEL', key, w)
      end
    end
  end
  if base > 0 then redis.call('HSET', key, 'b', int(base)) end
  if len >= FIELDS_MAX and told == 0 then
    return {err = 'SESSIONFULL ' .. len .. ' fields, of connections that count or were cut off'}
  end
end

local fresh = h[2] and healed == 0 and c > s and sec == now -- written this second: the TTL is right to a second
if c > s then
  if n + (c - s) > max then return {err = 'SESSIONLIMIT the total would be above 2^53-1'} end
  n = n + (c - s)
  s, t = c, n
end
if s > 0 then
  if done ~= '' then f = ':f' elseif f == 'f' then f = ':f' end
  redis.call('HSET', key, 'n', int(n), me, int(s) .. ':' .. int(t) .. ':' .. (done == '0' and 0 or now) .. f)
end
if not fresh then redis.call('PEXPIRE', key, ttl) end

local reply = {1, n, s, t, len, healed}
if healed == 1 or n - s ~= known - told then
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] ~= 'n' and all[i] ~= me then
      reply[#reply + 1] = all[i]
      reply[#reply + 1] = all[i + 1]
    end
  end
end
return reply

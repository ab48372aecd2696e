-- One writer's commit to one session. doc.go says why it is right; commit_model_test.go tries to prove it wrong.
--
-- KEYS[1]  the session: a hash of n (the total), b (what folded writers counted), x (set once a writer that
--          might be alive was folded) and, per writer, c:<writer> = contribution:total-right-after:seconds[:f]
-- ARGV     1 field  2 contribution  3 contribution it was told is stored  4 total it was told  5 TTL ms
--          6 "f" if this writer is done  7 "heal" or ""  8… heal: the other fields it was told, as pairs
-- Answers  {1, total, contribution stored, total right after it, fields if the writer is new, healed,
--          other fields if they changed…}
--          {0} state was lost: nothing has been done, send again with "heal"
local key, me = KEYS[1], ARGV[1]
local c, told, known, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local done, heal = ARGV[6], ARGV[7] == 'heal'
local now = tonumber(redis.call('TIME')[1])
local int = function(x) return string.format('%.0f', x) end -- .. would write 1e+15
local parse = function(v)
  local a, b, s, f = string.match(v, '^(%d+):(%d+):(%d+):?(f?)$')
  return tonumber(a), tonumber(b), tonumber(s), f
end

local h = redis.call('HMGET', key, 'n', me)
local n, s, t, sec, f = tonumber(h[1] or 0), 0, 0, 0, ''
if h[2] then s, t, sec, f = parse(h[2]) end

local healed = 0
if s < told or n - s < known - told then
  if not heal then return {0} end
  healed = 1
  local base, forced, have, given, all = 0, false, {}, {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] == 'b' then base = tonumber(all[i + 1])
    elseif all[i] == 'x' then forced = true
    elseif all[i] ~= 'n' then have[all[i]] = all[i + 1] end
  end
  local gbase = 0
  for i = 8, #ARGV, 2 do
    if ARGV[i] == 'b' then gbase = tonumber(ARGV[i + 1])
    elseif ARGV[i] ~= 'x' then given[ARGV[i]] = ARGV[i + 1] end
  end
  if base < gbase then -- the writer saw a later fold: finished writers it did not see are in its base
    for w, v in pairs(have) do
      local _, _, _, fin = parse(v)
      if fin == 'f' and not given[w] then have[w] = nil; redis.call('HDEL', key, w) end
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
end

local fresh = h[2] and healed == 0 and c > s and sec == now -- written this second: the TTL is right to a second
if c > s then
  n = n + (c - s) -- in this order: n + c may be beyond 2^53
  s, t = c, n
end
if s > 0 then
  if done == 'f' then f = 'f' end
  redis.call('HSET', key, 'n', int(n), me, int(s) .. ':' .. int(t) .. ':' .. now .. (f == 'f' and ':f' or ''))
end
if not fresh then redis.call('PEXPIRE', key, ttl) end

local len = h[2] and 0 or redis.call('HLEN', key)
if len > FOLD_ABOVE and s > 0 then -- a writer more: fold those that cannot come back
  local all, base, left = redis.call('HGETALL', key), 0, {}
  local fold = function(w, x) base = base + x; len = len - redis.call('HDEL', key, w) end
  for i = 1, #all, 2 do
    local w, v = all[i], all[i + 1]
    if w == 'b' then base = base + tonumber(v)
    elseif w ~= 'n' and w ~= 'x' and w ~= me then
      local x, _, at, fin = parse(v)
      if now - at >= (fin == 'f' and FOLD_AFTER or 2 * ttl / 1000 + FOLD_AFTER) then fold(w, x)
      else left[#left + 1] = {at, w, x, fin} end
    end
  end
  if len > FOLD_HARD then
    table.sort(left, function(p, q) -- those that are done first: nobody repeats a commit of theirs
      if p[4] ~= q[4] then return p[4] == 'f' end
      if p[1] ~= q[1] then return p[1] < q[1] end
      return p[2] < q[2]
    end)
    for i = 1, math.min(#left, len - FOLD_HARD) do fold(left[i][2], left[i][3]) end
    redis.call('HSET', key, 'x', '1')
  end
  if base > 0 then redis.call('HSET', key, 'b', int(base)) end
end

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

-- Sliding window by two counters: the previous fixed window counts in proportion to its overlap with the sliding one.
-- Exact for requests that come evenly; a burst at a window's end followed by one in the next can reach twice the limit
-- at worst. It stores two numbers per client instead of one entry per request.
-- (Cloudflare, "How we built rate limiting capable of scaling to millions of domains", 2017.)
-- KEYS[1]: the client's counters. For signed-in users also KEYS[2]: exists if the session has ended, and KEYS[3]: the
-- user's roles, if changed recently; checked here to save a round trip per request. ARGV: limit, window in ms,
-- number of requests (`cost`), now in ms or "" for the server's clock, and the roles in the token.
-- Reply: {allowed 0 or 1, remaining, ms until the next request is allowed (if refused) or until the window ends},
-- or {-1, 0, 0} if the session has ended, {-2, 0, 0} if the roles have changed.
if KEYS[2] then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {-1, 0, 0} end
  local roles = redis.call('GET', KEYS[3])
  if roles and roles ~= ARGV[5] then return {-2, 0, 0} end
end
local limit, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local slot = math.floor(now / window)
local elapsed = now - slot * window
local seen = redis.call('HMGET', KEYS[1], 's', 'c', 'p')
local current, previous = 0, 0
if seen[1] then
  local last = tonumber(seen[1])
  -- The clock may step back a little, such as after a failover: then stay in the later window. A window further ahead
  -- is discarded, else it would last until the clock gets there.
  if last == slot or last == slot + 1 then
    current, previous = tonumber(seen[2]), tonumber(seen[3])
    if last > slot then slot, elapsed = last, 0 end
  elseif last == slot - 1 then
    previous = tonumber(seen[2])
  end
end
local used = previous * (window - elapsed) / window + current
if used + cost > limit then
  local wait = window - elapsed
  if current + cost <= limit then
    wait = wait - (limit - current - cost) * window / previous
  elseif cost <= limit then  -- not before the next window, in which this one's count decays
    wait = wait + window - (limit - cost) * window / current
  end
  return {0, math.max(0, math.floor(limit - used)), math.ceil(wait)}
end
redis.call('HSET', KEYS[1], 's', slot, 'c', current + cost, 'p', previous)
redis.call('PEXPIRE', KEYS[1], 2 * window)
return {1, math.floor(limit - used - cost), window - elapsed}

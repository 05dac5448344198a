-- Sliding window by two counters: the last whole window counts by the share of it still in view. Exact where requests
-- come evenly; a burst at a window's end followed by one in the next can reach twice the limit at the worst. It keeps
-- two numbers a client instead of one entry a request.
-- (Cloudflare, "How we built rate limiting capable of scaling to millions of domains", 2017.)
-- KEYS[1] the client, KEYS[2] (for the signed-in) the mark that its session has ended, KEYS[3] the user's roles where they
-- were changed of late: asked here, to save a round trip at every request. ARGV: limit, window in ms, cost, now in ms or
-- "" for the server's clock, and the roles that the token tells.
-- Reply: {allowed 0 or 1, remaining, ms until the next request passes (when refused) or until the window ends},
-- or {-1, 0, 0} when the session has ended, {-2, 0, 0} when the roles are others.
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
  -- The clock may step back a little, as where another server takes over: stay in the later window. A window that is
  -- further ahead is forgotten: it would be stayed in until the clock comes there.
  if last == slot or last == slot + 1 then
    current, previous = tonumber(seen[2]), tonumber(seen[3])
    if last > slot then slot, elapsed = last, 0 end
  elseif last == slot - 1 then
    previous = tonumber(seen[2])
  end
end
local used = previous * (window - elapsed) / window + current
local need = math.max(cost, 1)
if used + need > limit then
  local wait = window - elapsed
  if current + need <= limit then
    wait = wait - (limit - current - need) * window / previous
  elseif need <= limit then  -- in the next window, where this one's count fades
    wait = wait + window - (limit - need) * window / current
  end
  return {0, math.max(0, math.floor(limit - used)), math.ceil(wait)}
end
if cost > 0 then
  redis.call('HSET', KEYS[1], 's', slot, 'c', current + cost, 'p', previous)
  redis.call('PEXPIRE', KEYS[1], 2 * window)
end
return {1, math.floor(limit - used - cost), window - elapsed}

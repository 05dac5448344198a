-- Counts wrong passwords per account (KEYS[1]) and per IP address of the client (KEYS[2], if it is known), each in a
-- leaky bucket. From the limit on, each further one doubles the wait until the next try. A try is counted before the
-- password is checked, so that concurrent tries can't exceed the limit, and uncounted if the password is right.
-- ARGV: the action ('look', 'try' or 'right'), now in ms or '' for the server's clock, the first wait, the longest wait
-- and the time in which a full bucket drains, in ms; then each key's limit; then, for 'right', the reply to 'try'.
-- Reply: {ms to wait or 0, then for each key the time until which it is locked}.
local what, now = ARGV[1], tonumber(ARGV[2])
local first, longest, drain = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local buckets, wait = {}, 0
for i, key in ipairs(KEYS) do
  local seen = redis.call('HMGET', key, 'count', 'at', 'until')
  local limit = tonumber(ARGV[5 + i])
  local count = 0
  if seen[1] then
    count = math.max(0, tonumber(seen[1]) - math.max(0, now - tonumber(seen[2])) * limit / drain)
  end
  local closed = tonumber(seen[3]) or 0
  -- Longer than any lock: set by a clock that was ahead of this one, such as before a failover.
  if closed > now + longest then closed = 0 end
  buckets[i] = {key = key, limit = limit, count = count, closed = closed}
  wait = math.max(wait, closed - now)
end

local function keep(bucket)
  redis.call('HSET', bucket.key, 'count', bucket.count, 'at', now, 'until', bucket.closed)
  redis.call('PEXPIRE', bucket.key, math.ceil(math.max(drain * bucket.count / bucket.limit, bucket.closed - now)) + 1)
end

local reply = {0}
if what == 'right' then
  redis.call('DEL', KEYS[1])
  local address = buckets[2]
  if address then
    address.count = math.max(0, address.count - 1)
    if address.closed == tonumber(ARGV[5 + #KEYS + 2]) then address.closed = 0 end
    keep(address)
  end
elseif wait > 0 then
  reply[1] = wait
elseif what == 'try' then
  for i, bucket in ipairs(buckets) do
    -- Not above the count that gives the longest wait.
    bucket.count = math.min(bucket.count + 1, bucket.limit + math.ceil(math.log(longest / first) / math.log(2)))
    local past = math.ceil(bucket.count) - bucket.limit
    bucket.closed = past < 0 and 0 or now + math.min(longest, first * 2 ^ past)
    keep(bucket)
    reply[1 + i] = bucket.closed
  end
end
return reply

-- Wrong passwords, counted by account (KEYS[1]) and by the client's address (KEYS[2], where it is known), each in a
-- bucket that drains. From its limit on, every further one doubles the time until the next try.
-- A try is counted before the password is checked, so that no number of them at once gets past the limit, and taken back
-- when it was right.
-- ARGV: what ('look', 'try' or 'right'), now in ms or '' for the server's clock, the first wait, the longest and the
-- time in which a full bucket drains, in ms; then for each key its limit; then, for 'right', what 'try' answered.
-- Reply: {ms to wait or 0, for each key until when it is closed}.
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
  -- Said by a clock that was ahead of ours, as before another server took over: nobody is ever closed out for so long.
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
    -- No fuller than it takes to wait the longest.
    bucket.count = math.min(bucket.count + 1, bucket.limit + math.ceil(math.log(longest / first) / math.log(2)))
    local past = math.ceil(bucket.count) - bucket.limit
    bucket.closed = past < 0 and 0 or now + math.min(longest, first * 2 ^ past)
    keep(bucket)
    reply[1 + i] = bucket.closed
  end
end
return reply

-- Gives points once for each event, on the day's board and the week's together. All keys share one slot: an event that
-- comes again after midnight must still meet its mark.
-- KEYS: the event's mark, the day's board, the week's board. ARGV: user, points, seconds that the mark, the day and the
-- week live.
-- Reply: 1 when counted now, 0 when it was before.
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[3]) then return 0 end
for i = 2, 3 do
  redis.call('ZINCRBY', KEYS[i], ARGV[2], ARGV[1])
  redis.call('EXPIRE', KEYS[i], ARGV[i + 2])
end
return 1

-- Takes away what a change has made old: any lease, the entry of another product, and the product's own entry of an
-- older version. An entry that shows the change already stays: the change is told twice, by the API and by the worker.
-- KEYS[1] product:{reference}. ARGV: the product's id and version ("" when it is gone), and the SHA-1 of the entry that
-- shows it as it is, since who writes past the API may leave the version as it was ("" when that is not known).
-- Reply: 1 when taken away.
local entry = redis.call('GET', KEYS[1])
if not entry then return 0 end
local id, version = string.match(entry, '^([^ ]+) (%d+) ')
if id == ARGV[1] and ARGV[2] ~= '' then
  local ahead = tonumber(version) - tonumber(ARGV[2])
  if ahead > 0 or (ahead == 0 and (ARGV[3] == '' or redis.sha1hex(entry) == ARGV[3])) then return 0 end
end
redis.call('DEL', KEYS[1])
return 1

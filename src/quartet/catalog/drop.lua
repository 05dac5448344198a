-- Takes away what a change has made old: any lease, the entry of another product, and the product's own entry of an
-- older version. An entry that shows the change already stays: the change is told twice, by the API and by the worker.
-- KEYS[1] product:{reference}. ARGV: the product's id and version ("" when it is gone). Reply: 1 when taken away.
local entry = redis.call('GET', KEYS[1])
if not entry then return 0 end
local id, version = string.match(entry, '^([^ ]+) (%d+) ')
if id == ARGV[1] and ARGV[2] ~= '' and tonumber(version) >= tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
return 1

-- Invalidates a cache entry after a change: deletes a lease, an entry of another product, or the product's entry of an
-- older version. An entry that has the change already stays: a change is announced twice, by the API and by the worker.
-- KEYS[1]: product:{reference}. ARGV: the product's id and version ("" if it was deleted), and the SHA-1 of the entry
-- for its present state, since a client that writes past the API may leave the version unchanged ("" if unknown).
-- Reply: 1 if it was deleted.
local entry = redis.call('GET', KEYS[1])
if not entry then return 0 end
local id, version = string.match(entry, '^([^ ]+) (%d+) ')
if id == ARGV[1] and ARGV[2] ~= '' then
  local ahead = tonumber(version) - tonumber(ARGV[2])
  if ahead > 0 or (ahead == 0 and (ARGV[3] == '' or redis.sha1hex(entry) == ARGV[3])) then return 0 end
end
redis.call('DEL', KEYS[1])
return 1

"""Every script that changes a partition, and what makes each safe to repeat. No I/O; keys are `app.stream`'s.

A script is atomic: all of it happens, or (when Redis refuses it at its first write) nothing. What must never
be seen apart stands in one script.
"""

from __future__ import annotations

# How many incarnations of edges are remembered, and how many imports. A spool is exact until so many other
# edges have appended since.
MAX_PRODUCERS = 100_000

# A repeated append is a no-op: an incarnation appends one group after the other, so a sequence number that
# is not above the last one has been appended already. Nothing here expires, so there is no window to miss;
# what is remembered is bounded by number, and the incarnation first seen longest ago goes first.
# KEYS: entries, producers, producers' order (or imports, imports' order), ledger, hours.
# ARGV: incarnation, sequence of the first group, then for each group its count of records, its counts for
# the ledger as `bucket=n;bucket=n`, its payload.
# -> id of the last entry that was appended, "" when all of them had been
APPEND = f"""
local last = redis.call('HGET', KEYS[2], ARGV[1])
local id = ''
local sequence = tonumber(ARGV[2])
for i = 3, #ARGV, 3 do
  if not last or tonumber(last) < sequence then
    id = redis.call('XADD', KEYS[1], '*', 'r', ARGV[i + 2], 'c', ARGV[i + 1])
    redis.call('HINCRBY', KEYS[4], 'appended', ARGV[i])
    for bucket, count in string.gmatch(ARGV[i + 1], '([^=;]+)=(%d+)') do
      redis.call('HINCRBY', KEYS[5], bucket .. '|appended', count)
    end
  end
  sequence = sequence + 1
end
if id ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', sequence - 1))
  if not last then
    redis.call('RPUSH', KEYS[3], ARGV[1])
    if redis.call('LLEN', KEYS[3]) > {MAX_PRODUCERS} then
      redis.call('HDEL', KEYS[2], redis.call('LPOP', KEYS[3]))
    end
  end
end
return id
"""

# Entries in order, until so many or so many bytes are read: a small one more costs little, a large one much.
# At least one, whatever its size. A stretch is no longer than the entries before it let one expect.
# KEYS: entries. ARGV: where to begin ("-", or "(" and an id), how many, how many bytes.
# -> for each id, payload, counts, and 1 where it is a dead letter that was put back (else "")
READ = """
local from, left, size, stretch, answer = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 1, {}
while left > 0 do
  local some = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', math.min(left, stretch))
  for _, entry in ipairs(some) do
    local payload, counts, was_dead = '', '', ''
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'r' then payload = entry[2][i + 1] end
      if entry[2][i] == 'c' then counts = entry[2][i + 1] end
      if entry[2][i] == 'dead' then was_dead = entry[2][i + 1] end
    end
    size = size - #payload
    if size < 0 and #answer > 0 then return answer end
    local n = #answer
    answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = entry[1], payload, counts, was_dead
    from = '(' .. entry[1]
    stretch = math.max(1, math.min(16, math.floor(size / (#payload + 1))))
  end
  if #some == 0 then return answer end
  left = left - #some
end
return answer
"""

# -> epoch of the lease that this owner now holds, 0 while another holds it.
# An owner is `slot/incarnation`: whoever restarts in a slot need not wait for its predecessor's lease to
# end (ARGV[4] = 1). Only a process that never owned may ask for that: two of one slot would otherwise take
# turns for ever. The epoch rises with every answer but 0, never on renewal; it alone fences the former owner,
# and the owner's own writes of before: one that asks again has lost a connection, and what it sent there (a
# plan, an acknowledgement) may arrive when it has settled the same entries once more.
ACQUIRE = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] .. '/' .. ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return redis.call('INCR', KEYS[2])
end
if owner and (ARGV[4] ~= '1' or string.match(owner, '^(.*)/') ~= ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. '/' .. ARGV[2], 'PX', ARGV[3])
return redis.call('INCR', KEYS[2])
"""

RENEW = """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

SAVE_PLAN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

# Acknowledge: dead letters, ledger, entries and plan in one step, so that no crash can separate them.
# KEYS: epoch, plan, entries, ledger, hours, dead, dead ids, progress.
# ARGV: epoch, oldest entry id to keep, last entry id that is done, how many dead letters there may be, number
# of changes to the ledger's hours, these as pairs of `bucket|fate` and count; then for each dead letter its
# unique_req_id (or "") and payload.
# -> 1; 0 when the epoch is another's; -1 when there would be too many dead letters (an empty stream of them
# takes those of any one batch)
ACKNOWLEDGE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local first_dead = 6 + 2 * tonumber(ARGV[5])
local dead = (#ARGV + 1 - first_dead) / 2
local kept = redis.call('XLEN', KEYS[6])
if dead > 0 and kept > 0 and kept + dead > tonumber(ARGV[4]) then return -1 end
for i = first_dead, #ARGV, 2 do
  local id = redis.call('XADD', KEYS[6], '*', 'd', ARGV[i + 1])
  if ARGV[i] ~= '' then redis.call('HSET', KEYS[7], ARGV[i], id) end
end
redis.call('XTRIM', KEYS[3], 'MINID', ARGV[2])
for i = 6, first_dead - 1, 2 do
  redis.call('HINCRBY', KEYS[5], ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', KEYS[4], string.match(ARGV[i], '[^|]+$'), ARGV[i + 1])
end
redis.call('HSET', KEYS[8], 'acknowledged', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
"""

# A dead letter goes back to the end of its partition's stream. Not appended again: it was counted once, and
# is queued by being dead no more. The entry comes first, so that a Redis without room changes nothing.
# KEYS: dead, dead ids, entries, ledger, hours.
# ARGV: the letter's id, its unique_req_id (or ""), payload and counts of the entry.
# -> id of the entry, "" when the letter is gone: replayed or purged by somebody else
REPLAY = """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return '' end
local id = redis.call('XADD', KEYS[3], '*', 'r', ARGV[3], 'c', ARGV[4], 'dead', '1')
redis.call('XDEL', KEYS[1], ARGV[1])
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[2]) end
for bucket, count in string.gmatch(ARGV[4], '([^=;]+)=(%d+)') do
  redis.call('HINCRBY', KEYS[4], 'dead', -count)
  redis.call('HINCRBY', KEYS[5], bucket .. '|dead', -count)
end
return id
"""

# A dead letter is given up: its events count as erased, or as told. It frees room, so it begins with what a
# Redis without room allows; what follows a first write is allowed too.
# KEYS: dead, dead ids, ledger, hours. ARGV: the letter's id, its unique_req_id (or ""), counts, fate if any.
# -> 0 when the letter is gone
PURGE = """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[2]) end
for bucket, count in string.gmatch(ARGV[3], '([^=;]+)=(%d+)') do
  for fate, sign in pairs({dead = -1, [ARGV[4] or 'erased'] = 1}) do
    redis.call('HINCRBY', KEYS[3], fate, sign * count)
    redis.call('HINCRBY', KEYS[4], bucket .. '|' .. fate, sign * count)
  end
end
return 1
"""

# Redis keeps the bytes of a deleted entry for as long as a neighbour in its node lives. So the letters are
# copied, a stretch at a time, into a stream in which nothing was ever deleted. KEYS: dead, copy.
# ARGV: where to begin, how many -> where to go on, "" at the end
COPY_DEAD = """
local last = ''
if ARGV[1] == '-' then redis.call('DEL', KEYS[2]) end
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])) do
  redis.call('XADD', KEYS[2], entry[1], unpack(entry[2]))
  last = '(' .. entry[1]
end
return last
"""

# The copy takes the stream's place, if nothing was deleted or added since. -> 1, 0 when it must be made anew
REPLACE_DEAD = """
local number = redis.call('XLEN', KEYS[1])
if number ~= redis.call('XLEN', KEYS[2]) then
  redis.call('DEL', KEYS[2])
  return 0
end
if number > 0 then
  if redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1] ~=
      redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1][1] then return 0 end
  redis.call('RENAME', KEYS[2], KEYS[1])
end
return 1
"""

# Which entries hold some bytes. A stretch of the stream is looked through until so many bytes were read.
# KEYS: entries. ARGV: the bytes, first and last id, how many bytes to read at most (and one entry more).
# -> {where to go on ("" at the end), bytes read, payload, …}
FIND = """
local from, size, answer = ARGV[2], 0, {'', 0}
while true do
  local some = redis.call('XRANGE', KEYS[1], from, ARGV[3], 'COUNT', 4)
  for _, entry in ipairs(some) do
    for i = 1, #entry[2], 2 do
      local value = entry[2][i + 1]
      size = size + #value
      if entry[2][i] == 'r' and string.find(value, ARGV[1], 1, true) then answer[#answer + 1] = value end
    end
  end
  if #some < 4 then break end
  from = '(' .. some[#some][1]
  if size >= tonumber(ARGV[4]) then
    answer[1] = from
    break
  end
end
answer[2] = size
return answer
"""

# -> {Redis's clock in ms, ms of the oldest unacknowledged entry or 0}
FRESHNESS = """
local now = redis.call('TIME')
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local oldest = 0
if first[1] then oldest = tonumber(string.match(first[1][1], '^%d+')) end
return {tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000), oldest}
"""


def with_oom_allowed(script: str, redis_version: tuple[int, int]) -> str:
    """`script` so that a Redis at `maxmemory` still runs it: the drain must be able to drain.

    Redis before 7.0 knows no such mark. There a script that has written may go on writing, so a write
    without effect comes first: https://github.com/redis/redis/blob/6.2/src/scripting.c (lua_write_dirty).
    """
    if redis_version >= (7, 0):
        return "#!lua flags=allow-oom" + script
    return "redis.call('DEL', KEYS[1] .. ':none')" + script

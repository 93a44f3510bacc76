"""The scripts that read and move what the ledger has counted. No I/O; keys are `app.stream`'s.

Each is one atomic step and safe to repeat: a move happens only while the ledger still says what its caller
has seen. The scripts that count are in `app.stream_scripts`, with the acts that they count.
"""

from __future__ import annotations

# Reading a stream blocks Redis. So many entries and bytes take some milliseconds; a stream that holds more
# is a backlog, and is counted when it has been drained.
MAX_QUEUE_ENTRIES = 5_000
MAX_QUEUE_BYTES = 32 * 1024 * 1024

# What the entries in the stream count for the ledger: {1 if all of them were read, bucket, count, …}.
# A bite at a time: XRANGE copies the payloads too.
QUEUE_COUNTS = f"""
local counts, entries, bytes, from, whole = {{}}, 0, 0, '-', 0
while entries < {MAX_QUEUE_ENTRIES} and bytes < {MAX_QUEUE_BYTES} do
  local some = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 16)
  for _, entry in ipairs(some) do
    for i = 1, #entry[2], 2 do
      bytes = bytes + #entry[2][i + 1]
      if entry[2][i] == 'c' then
        for bucket, count in string.gmatch(entry[2][i + 1], '([^=;]+)=(%d+)') do
          counts[bucket] = (counts[bucket] or 0) + tonumber(count)
        end
      end
    end
  end
  entries = entries + #some
  if #some < 16 then
    whole = 1
    break
  end
  from = '(' .. some[#some][1]
end
local answer = {{whole}}
for bucket, count in pairs(counts) do
  answer[#answer + 1] = bucket
  answer[#answer + 1] = count
end
return answer
"""

# Events of these buckets met another fate, such as stored ones that were erased: all or none of a bucket.
# KEYS: ledger, hours. ARGV: from fate, to fate, then pairs of bucket and the number that the caller has seen
# before it erased. A bucket that has changed since is left for the caller's next look. -> events moved
# It begins with what a Redis without room allows; what follows a first write is allowed too. FOLD likewise.
MOVE = """
local moved = 0
for i = 3, #ARGV, 2 do
  local seen = tonumber(ARGV[i + 1])
  if seen > 0 and tonumber(redis.call('HGET', KEYS[2], ARGV[i] .. '|' .. ARGV[1]) or 0) == seen then
    redis.call('HDEL', KEYS[2], ARGV[i] .. '|' .. ARGV[1])
    redis.call('HINCRBY', KEYS[2], ARGV[i] .. '|' .. ARGV[2], seen)
    redis.call('HINCRBY', KEYS[1], ARGV[1], -seen)
    redis.call('HINCRBY', KEYS[1], ARGV[2], seen)
    moved = moved + seen
  end
end
return moved
"""

# So many stored events of these buckets met another fate. Once for each round of an eraser: rounds are
# numbered, and one ends before the next begins. What was folded meanwhile is taken from the larger buckets.
# KEYS: ledger, hours, progress. ARGV: round, from fate, to fate, then each bucket, that of its month, that of
# all folded hours, and the number.
# -> events moved; -1 when this round, or a later one, has moved its events already
MOVE_SOME = """
if tonumber(redis.call('HGET', KEYS[3], 'round') or 0) >= tonumber(ARGV[1]) then return -1 end
redis.call('HSET', KEYS[3], 'round', ARGV[1])
local moved = 0
for i = 4, #ARGV, 4 do
  local left = tonumber(ARGV[i + 3])
  for place = 0, 2 do
    local bucket = ARGV[i + place] .. '|'
    local number = math.min(left, tonumber(redis.call('HGET', KEYS[2], bucket .. ARGV[2]) or 0))
    if number > 0 then
      redis.call('HINCRBY', KEYS[2], bucket .. ARGV[2], -number)
      redis.call('HINCRBY', KEYS[2], bucket .. ARGV[3], number)
      redis.call('HINCRBY', KEYS[1], ARGV[2], -number)
      redis.call('HINCRBY', KEYS[1], ARGV[3], number)
      left, moved = left - number, moved + number
    end
  end
end
return moved
"""

# Buckets are merged into larger ones; totals stay. From which hour on buckets are whole is said in the same
# step, for whoever compares them with the store.
# KEYS: hours, progress. ARGV: first hour that is kept, then triples of bucket, larger bucket and fate.
# -> fields folded
FOLD = """
local kept, folded = tonumber(ARGV[1]), 0
for i = 2, #ARGV, 3 do
  local field = ARGV[i] .. '|' .. ARGV[i + 2]
  local number = redis.call('HGET', KEYS[1], field)
  if number then
    redis.call('HDEL', KEYS[1], field)
    redis.call('HINCRBY', KEYS[1], ARGV[i + 1] .. '|' .. ARGV[i + 2], number)
    folded = folded + 1
  end
end
if folded > 0 and kept > tonumber(redis.call('HGET', KEYS[2], 'kept_from_hour') or 0) then
  redis.call('HSET', KEYS[2], 'kept_from_hour', ARGV[1])
end
return folded
"""

# A part of a bucket goes into others, while it still has what the caller has seen in it.
# KEYS: hours. ARGV: fate, bucket, number seen in it, then pairs of bucket and number, together no more.
# -> 1, or 0 when it has changed since
SPLIT = """
local from = ARGV[2] .. '|' .. ARGV[1]
if redis.call('HGET', KEYS[1], from) ~= ARGV[3] then return 0 end
for i = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], from, -ARGV[i + 1])
  redis.call('HINCRBY', KEYS[1], ARGV[i] .. '|' .. ARGV[1], ARGV[i + 1])
end
if redis.call('HGET', KEYS[1], from) == '0' then redis.call('HDEL', KEYS[1], from) end
return 1
"""

"""The scripts by which processes say that they are alive, and the number of partitions is changed. No I/O.

Redis's clock alone decides who is alive. The layout is checked in the same step as a process is registered,
and changed in the same step as nobody is found registered: so no process can begin to work under a number of
partitions that has just been given up.
"""

from __future__ import annotations

# Who left groups in a spool is remembered for so long; then the disk is taken to be gone.
REMEMBER_MS = 30 * 86_400_000
MAX_UNTOLD = 200

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

# Register, or stay registered. KEYS: members, about, layout.
# ARGV: id, incarnation, ms to live, 1 for the first beat of a life, partitions configured, place, groups in
# the spool of this place, when this life first joined (0: not yet), by how many ms its clock is ahead of this
# one at least and at most, when it said all this by this clock at the earliest, 1 for one that has a spool,
# the name of its disk or "", the dead letter queue configured or "". This may be long after it was said, if
# Redis stood still: then it is not news.
# -> {"ok", partitions, most partitions, now, id and joined of each that is alive, …}
#    {"other", partitions, most}   another number of partitions is recorded: not registered
#    {"renamed", name}             another dead letter queue is recorded, "" for none: not registered
#    {"changing"}                  somebody is changing the number right now: not registered
#    {"replaced"}                  another process registered under this id since
# A process that died while groups were in its spool stays listed until one of the same disk, which counts
# what nobody owns there too, reports none. So does one that had none at its last beat, since what it spooled
# after that it could tell nobody; the last of those, lest a Redis is full of processes that die all the time.
BEAT = f"""{_NOW}
local layout = redis.call('HMGET', KEYS[3], 'shards', 'most', 'closed_until', 'dead')
if layout[3] and tonumber(layout[3]) > now then return {{'changing'}} end
if not layout[1] then
  layout[1], layout[2], layout[4] = ARGV[5], ARGV[5], ARGV[14]
  redis.call('HSET', KEYS[3], 'shards', ARGV[5], 'most', ARGV[5])
  if ARGV[14] ~= '' then redis.call('HSET', KEYS[3], 'dead', ARGV[14]) end
end
if layout[1] ~= ARGV[5] then return {{'other', layout[1], layout[2]}} end
if ARGV[14] ~= '' and layout[4] ~= ARGV[14] then return {{'renamed', layout[4] or ''}} end
local joined = tonumber(ARGV[8])
local former = redis.call('HGET', KEYS[2], ARGV[1])
if former then
  former = cjson.decode(former)
  local alive = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0') > now
  if alive and former.incarnation ~= ARGV[2] and ARGV[4] ~= '1' then return {{'replaced'}} end
  if joined == 0 then joined = former.joined end
end
if joined == 0 then joined = now end
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
for i, id in ipairs(dead) do
  local about = cjson.decode(redis.call('HGET', KEYS[2], id) or '{{"spooled":0}}')
  local here = about.place == ARGV[6]
  if about.disk and ARGV[13] ~= '' then here = about.disk == ARGV[13] end
  local replayed = here and ARGV[7] == '0'
  local untold = about.spools == 1 and i > #dead - {MAX_UNTOLD}
  if (about.spooled == 0 and not untold) or replayed or about.at + {REMEMBER_MS} < now then
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
  end
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode({{
  incarnation = ARGV[2], joined = joined, at = now, place = ARGV[6], spooled = tonumber(ARGV[7]),
  ahead = tonumber(ARGV[9]), most = tonumber(ARGV[10]), told = math.min(now, tonumber(ARGV[11])),
  spools = tonumber(ARGV[12]), disk = ARGV[13] ~= '' and ARGV[13] or nil
}}))
local answer = {{'ok', layout[1], layout[2], string.format('%.0f', now)}}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now + 1, '+inf')) do
  answer[#answer + 1] = id
  answer[#answer + 1] = string.format('%.0f', cjson.decode(redis.call('HGET', KEYS[2], id)).joined)
end
return answer
"""

# No longer alive, at once. KEYS: members, about. ARGV: id, incarnation, groups left in the spool.
LEAVE = f"""{_NOW}
local about = redis.call('HGET', KEYS[2], ARGV[1])
if not about then return 0 end
about = cjson.decode(about)
if about.incarnation ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
about.spooled, about.at, about.told = tonumber(ARGV[3]), now, now
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(about))
redis.call('ZADD', KEYS[1], now, ARGV[1])
return 1
"""

# Everybody listed. KEYS: members, about. -> {id, its JSON, ms since it died or 0 while alive, …}
LIST = f"""{_NOW}
local answer = {{}}
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local about = redis.call('HGET', KEYS[2], members[i])
  if about then
    answer[#answer + 1] = members[i]
    answer[#answer + 1] = about
    answer[#answer + 1] = string.format('%.0f', math.max(0, now - tonumber(members[i + 1])))
  end
end
return answer
"""

# Nobody may start, so that streams can be looked at in peace. Ends by itself.
# KEYS: layout, drains, edges. ARGV: token, ms.
# -> 1; 0 when somebody is alive; -1 when somebody else is changing the number
CLOSE = f"""{_NOW}
local closed_until = redis.call('HGET', KEYS[1], 'closed_until')
if closed_until and tonumber(closed_until) > now then return -1 end
for i = 2, 3 do
  if redis.call('ZCOUNT', KEYS[i], now + 1, '+inf') > 0 then return 0 end
end
redis.call('HSET', KEYS[1], 'closed_by', ARGV[1], 'closed_until', now + tonumber(ARGV[2]))
return 1
"""

# Open again. KEYS: layout. ARGV: token, the new number of partitions or 0 to leave it as it is, the new dead
# letter queue or "".
# -> 1, 0 when the time given to CLOSE was over
OPEN = f"""{_NOW}
local layout = redis.call('HMGET', KEYS[1], 'closed_by', 'closed_until', 'most')
if layout[1] ~= ARGV[1] or tonumber(layout[2]) <= now then return 0 end
local shards = tonumber(ARGV[2])
if shards > 0 then
  redis.call('HSET', KEYS[1], 'shards', shards, 'most', math.max(shards, tonumber(layout[3] or '0')))
end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'dead', ARGV[3]) end
redis.call('HDEL', KEYS[1], 'closed_by', 'closed_until')
return 1
"""

# Record the dead letter queue where none is. A script, since a drain has to start while Redis is full.
# KEYS: layout. ARGV: its name
NAME = """
return redis.call('HSETNX', KEYS[1], 'dead', ARGV[1])
"""

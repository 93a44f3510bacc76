"""The keys of erasures in Redis, and the scripts that change them. No I/O.

    eb:registry:erasures                  stream: every tombstone that drains apply, without names
    eb:registry:erasures:hidden:<project> hash: id -> tombstone that queries apply, until its rows are gone
    eb:registry:erasures:clean            hash: id -> the same, once they are: for what is still to be proven
    eb:registry:erasures:open             hash: id -> how far it is (`app.erasures.Open`); none when done
    eb:registry:erasures:of:<project>     sorted set of erasure ids with score 0: ids sort by time
    eb:registry:erasures:report:<id>      JSON: what its status tells
    eb:registry:erasures:charts           hash: id -> tokens of charts that it has revoked; none when done
    eb:registry:erasures:round            JSON: the round that is under way (`workers.erase_round`)
    eb:registry:erasures:rounds           how many rounds there were
    eb:registry:erasures:eraser           whose work it is just now, expires

They are the registry's: durable like keys and accounts, and in its hash slot.
"""

from __future__ import annotations

from app.registry_scripts import PREFIX

LOG = f"{PREFIX}erasures"
CLEAN = f"{LOG}:clean"
OPEN = f"{LOG}:open"
CHARTS = f"{LOG}:charts"
ROUND = f"{LOG}:round"
ROUNDS = f"{LOG}:rounds"
ERASER = f"{LOG}:eraser"


def hidden(project_id: str) -> str:
    return f"{LOG}:hidden:{project_id}"


def of(project_id: str) -> str:
    return f"{LOG}:of:{project_id}"


def report(erasure_id: str) -> str:
    return f"{LOG}:report:{erasure_id}"


# An erasure begins: from here on queries and drains apply its tombstone. The same again, with a later moment,
# takes its place. KEYS: log, hidden, open, of, report.
# ARGV: id, tombstone of the log, tombstone of queries, open, report, most hidden, most bytes of them, most of
# them that mean more than customers
# -> 1; 0 when too many of the project wait
ADD = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  local size, number, costly = 0, 0, 0
  local all = redis.call('HVALS', KEYS[2])
  all[#all + 1] = ARGV[3]
  for _, one in ipairs(all) do
    size, number = size + #one, number + 1
    if string.find(one, '"filters":', 1, true) or string.find(one, '"period":', 1, true) then
      costly = costly + 1
    end
  end
  local is_one = string.find(ARGV[3], '"filters":', 1, true) or string.find(ARGV[3], '"period":', 1, true)
  if number > tonumber(ARGV[6]) or size > tonumber(ARGV[7]) then return 0 end
  if is_one and costly > tonumber(ARGV[8]) then return 0 end
end
redis.call('XADD', KEYS[1], '*', 't', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
redis.call('ZADD', KEYS[4], 0, ARGV[1])
redis.call('SET', KEYS[5], ARGV[5])
return 1
"""

_MOVE = """
local payload = redis.call('HGET', KEYS[1], ARGV[1])
if not payload then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], payload)
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
"""

# The store holds none of its rows any more: queries need not look away. KEYS: hidden, clean, open, report.
# ARGV: id, open, report
MARK_CLEAN = f"""{_MOVE}
redis.call('SET', KEYS[4], ARGV[3])
return 1
"""

# The same of a deleted project, which is hidden by having no keys. KEYS: clean, open, report.
# ARGV: id, tombstone, open, report
PROJECT_CLEAN = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('SET', KEYS[3], ARGV[4])
return 1
"""

# Rows were found after all. KEYS: clean, hidden, open. ARGV: id, open
REOPEN = f"""{_MOVE}
return 1
"""

# Nothing of it is left but what Redis's own file remembers; then not even that. KEYS: clean, open, report.
# ARGV: id, open ("" when it is done), report, seconds for which a report is kept
ADVANCE = """
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[4])
elseif redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('SET', KEYS[3], ARGV[3])
end
return 1
"""

# A token of a chart dies. KEYS: project's embeds, key's embeds, embed, charts. ARGV: token id, erasure
REVOKE_CHARTS = """
local revoked = redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if revoked == 1 then redis.call('HINCRBY', KEYS[4], ARGV[2], 1) end
return revoked
"""

# KEYS: one key. ARGV: what it must hold ("" for nothing), what it shall hold ("" for nothing) -> 1, 0
SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""

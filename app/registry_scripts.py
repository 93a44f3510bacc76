"""The registry's keys in Redis and the scripts that change them. No I/O.

    eb:registry:account:<id>           hash: name, digest, created_at
    eb:registry:account:<id>:projects  set of project ids that are not deleted
    eb:registry:project:<id>           hash: account_id, name, description, status, created_at, digest
    eb:registry:project:<id>:keys      sorted set of api key ids with score 0: ids sort by time
    eb:registry:project:<id>:event_name, …:field_path   hash: name -> last use, Unix seconds
    eb:registry:key:<id>               hash: what a list shows of a key, and its digest
    eb:registry:grant:<digest>         JSON of the Grant; deleting it revokes
    eb:registry:used                   hash: api key id -> last use, Unix ms
    eb:registry:embed:<id>             JSON of the Embed; gone when it expires; deleting it revokes
    eb:registry:key:<id>:embeds, eb:registry:project:<id>:embeds
                                       sorted sets of ids of embeds by the time they expire
    eb:registry:signing                list: keys that sign tokens of embeds, the newest first
    eb:registry:changes                stream; every process follows it to forget what it cached
    eb:registry:changes:count          how many changes there were; each entry carries its number
    eb:registry:deleted                set of project ids whose events wait for erasure

Each script changes all that belongs together in one step, and appends to the changes in the same step: a
change that cached grants never hear of would leave a revoked key alive. Scripts that revoke begin with a
command that frees memory: a Redis that is out of memory then lets the rest pass. (A Redis Cluster would want
one hash slot for `eb:registry`; the registry is small and may live in a Redis of its own.)
"""

from __future__ import annotations

PREFIX = "eb:registry:"
CHANGES = f"{PREFIX}changes"
DELETED = f"{PREFIX}deleted"
USED = f"{PREFIX}used"
SIGNING = f"{PREFIX}signing"
CHANGES_KEPT = 100_000  # a process that is further behind forgets everything instead


def account(account_id: str) -> str:
    return f"{PREFIX}account:{account_id}"


def projects(account_id: str) -> str:
    return f"{PREFIX}account:{account_id}:projects"


def project(project_id: str) -> str:
    return f"{PREFIX}project:{project_id}"


def keys(project_id: str) -> str:
    return f"{PREFIX}project:{project_id}:keys"


def names(project_id: str, kind: str) -> str:
    """`kind` is event_name or field_path."""
    return f"{PREFIX}project:{project_id}:{kind}"


def key(api_key_id: str) -> str:
    return f"{PREFIX}key:{api_key_id}"


def grant(digest: str) -> str:
    return f"{PREFIX}grant:{digest}"


def embed(token_id: str) -> str:
    return f"{PREFIX}embed:{token_id}"


def embeds(key: str) -> str:
    """Of a project's or an API key's own Redis key."""
    return f"{key}:embeds"


# Of one API key, when it dies: its embeds die with it. Their project's set may be one that is gone.
_DROP_EMBEDS = f"""
local function drop_embeds(key, of_project)
  for _, id in ipairs(redis.call('ZRANGE', key .. ':embeds', 0, -1)) do
    redis.call('DEL', '{PREFIX}embed:' .. id)
    redis.call('ZREM', of_project, id)
  end
  redis.call('DEL', key .. ':embeds')
end
"""


def _tell(what: str, identity: str) -> str:
    """The Lua call that tells every process of a change; both arguments are Lua expressions."""
    number = f"redis.call('INCR', '{CHANGES}:count')"
    return (
        f"redis.call('XADD', '{CHANGES}', 'MAXLEN', '~', '{CHANGES_KEPT}', '*', "
        f"'what', {what}, 'id', {identity}, 'n', {number})"
    )


# KEYS: account. ARGV: digest, grant, name, created_at
CREATE_ACCOUNT = f"""
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'name', ARGV[3], 'created_at', ARGV[4])
redis.call('SET', '{PREFIX}grant:' .. ARGV[1], ARGV[2])
return 1
"""

# KEYS: account, its projects, project. ARGV: project id, limit, digest, grant, pairs of the project's hash
# -> 1, 0 at the limit, -1 without such an account
CREATE_PROJECT = f"""
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[2]) then return 0 end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'digest', ARGV[3], 'status', 'ACTIVE', unpack(ARGV, 5))
redis.call('SET', '{PREFIX}grant:' .. ARGV[3], ARGV[4])
return 1
"""

# KEYS: project, account's projects. ARGV: project id, digest, grant
# -> the old digest, "" without such a project
RESET_MASTER_KEY = f"""
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then return '' end
local old = redis.call('HGET', KEYS[1], 'digest')
redis.call('DEL', '{PREFIX}grant:' .. old)
redis.call('HSET', KEYS[1], 'digest', ARGV[2])
redis.call('SET', '{PREFIX}grant:' .. ARGV[2], ARGV[3])
{_tell("'grant'", "old")}
return old
"""

# Drains store nothing of it from here on. KEYS: account's projects, project, project's keys.
# ARGV: project id, now, id of the erasure, its tombstone, how far it is, its report
# -> 1, 0 without such a project
DELETE_PROJECT = f"""
if redis.call('SREM', KEYS[1], ARGV[1]) == 0 then return 0 end
{_DROP_EMBEDS}
local function revoke(key)
  local digest = redis.call('HGET', key, 'digest')
  if digest then redis.call('DEL', '{PREFIX}grant:' .. digest) end
end
revoke(KEYS[2])
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  revoke('{PREFIX}key:' .. id)
  drop_embeds('{PREFIX}key:' .. id, KEYS[2] .. ':embeds')
  redis.call('DEL', '{PREFIX}key:' .. id)
  redis.call('HDEL', '{USED}', id)
end
redis.call('DEL', KEYS[3], KEYS[2] .. ':event_name', KEYS[2] .. ':field_path')
redis.call('HSET', KEYS[2], 'status', 'DELETED', 'deleted_at', ARGV[2], 'erasure', ARGV[3])
redis.call('XADD', '{PREFIX}erasures', '*', 't', ARGV[4])
redis.call('HSET', '{PREFIX}erasures:open', ARGV[3], ARGV[5])
redis.call('SET', '{PREFIX}erasures:report:' .. ARGV[3], ARGV[6])
redis.call('HDEL', KEYS[2], 'digest')
redis.call('SADD', '{DELETED}', ARGV[1])
{_tell("'project'", "ARGV[1]")}
return 1
"""

# KEYS: project, project's keys, key. ARGV: api key id, digest, grant, then pairs of its hash
CREATE_KEY = f"""
if redis.call('HGET', KEYS[1], 'status') ~= 'ACTIVE' then return 0 end
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('HSET', KEYS[3], 'digest', ARGV[2], unpack(ARGV, 4))
redis.call('SET', '{PREFIX}grant:' .. ARGV[2], ARGV[3])
{_tell("'grant'", "ARGV[2]")}
return 1
"""

# KEYS: project's keys, key, project's embeds. ARGV: api key id -> its digest, "" without such a key
DELETE_KEY = f"""
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return '' end
{_DROP_EMBEDS}
drop_embeds(KEYS[2], KEYS[3])
local digest = redis.call('HGET', KEYS[2], 'digest')
redis.call('DEL', KEYS[2], '{PREFIX}grant:' .. digest)
redis.call('HDEL', '{USED}', ARGV[1])
{_tell("'grant'", "digest")}
return digest
"""

# All or nothing, so that an event refused for one name does not use up places with its others.
# KEYS: project, event names, field paths. ARGV: now, cap, cap, number of event names, names, paths
# -> positions (from 1) in the list of names that found no place; {-1} where the project is gone
ADMIT_NAMES = """
if redis.call('HGET', KEYS[1], 'status') ~= 'ACTIVE' then return {-1} end
local new, refused = {{}, {}}, {}
local places = {}
for kind = 1, 2 do places[kind] = tonumber(ARGV[kind + 1]) - redis.call('HLEN', KEYS[kind + 1]) end
for i = 5, #ARGV do
  local kind = 2
  if i - 4 <= tonumber(ARGV[4]) then kind = 1 end
  if redis.call('HEXISTS', KEYS[kind + 1], ARGV[i]) == 0 then
    if places[kind] > 0 then
      places[kind] = places[kind] - 1
      table.insert(new[kind], ARGV[i])
    else
      table.insert(refused, i - 4)
    end
  end
end
if #refused > 0 then return refused end
for kind = 1, 2 do
  for _, name in ipairs(new[kind]) do redis.call('HSET', KEYS[kind + 1], name, ARGV[1]) end
end
return refused
"""

# KEYS: event names, field paths. ARGV: project id, number of event names, event names, field paths -> freed
DELETE_NAMES = f"""
local freed = 0
for i = 3, #ARGV do
  local kind = 2
  if i - 2 <= tonumber(ARGV[2]) then kind = 1 end
  freed = freed + redis.call('HDEL', KEYS[kind], ARGV[i])
end
if freed > 0 then {_tell("'names'", "ARGV[1]")} end
return freed
"""

# Only names that still have a place: a use that was noted before a deletion must not bring the name back.
# KEYS: names. ARGV: pairs of name, last use
TOUCH_NAMES = """
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
"""

# KEYS: used. ARGV: pairs of api key id, last use
TOUCH_KEYS = f"""
for i = 1, #ARGV, 2 do
  if redis.call('EXISTS', '{PREFIX}key:' .. ARGV[i]) == 1 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
"""

# KEYS: project, key, project's embeds, key's embeds, embed
# ARGV: id, when it expires, now, most of a project, most of a key, JSON
# -> 1, 0 where the key is gone, -1 where the project has too many, -2 where the key has
CREATE_EMBED = """
if redis.call('HGET', KEYS[1], 'status') ~= 'ACTIVE' or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
for i = 3, 4 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', ARGV[3])
  if redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[i + 1]) then return 2 - i end
end
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
redis.call('SET', KEYS[5], ARGV[6], 'PXAT', ARGV[2])
return 1
"""

# KEYS: project's embeds, key's embeds. ARGV: ids, or none: all of the key's -> how many were revoked
REVOKE_EMBEDS = f"""
local ids, revoked = ARGV, 0
if #ids == 0 then ids = redis.call('ZRANGE', KEYS[2], 0, -1) end
for _, id in ipairs(ids) do
  if redis.call('ZREM', KEYS[2], id) == 1 then
    redis.call('ZREM', KEYS[1], id)
    revoked = revoked + redis.call('DEL', '{PREFIX}embed:' .. id)
  end
end
return revoked
"""

# KEYS: signing. ARGV: a new key, is it to be the newest even if there is one? -> all keys
SIGNING_KEYS = """
if redis.call('LLEN', KEYS[1]) == 0 or ARGV[2] == '1' then
  redis.call('LPUSH', KEYS[1], ARGV[1])
  redis.call('LTRIM', KEYS[1], 0, 1)
end
return redis.call('LRANGE', KEYS[1], 0, -1)
"""

import { defineScript, type LuaScript } from '../redis/scripts.ts'

/**
 * Writes a session. PEXPIRE first: its answer says whether the session exists, so a delta never brings a destroyed one
 * back, and no key is ever without a TTL. `~touched` and `~created` are the server's time.
 */
export const SAVE: LuaScript = defineScript(
  1,
  `-- KEYS[1] session hash
-- ARGV[1] 'new': replace whatever is there; 'delta': only if it is there
-- ARGV[2] TTL in ms; 0 or less deletes the session
-- ARGV[3] how many fields to remove; then their names; then field, value, field, value ...
-- Result: server time in ms, or -1 when a delta found no session
local key, ttl = KEYS[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] == 'new' then
  redis.call('DEL', key)
  if ttl <= 0 then return now end
  redis.call('HSET', key, '~created', now)
end
if redis.call('PEXPIRE', key, ARGV[2]) == 0 then return -1 end
if ttl <= 0 then return now end
local first = 4 + ARGV[3]
for i = 4, first - 1 do redis.call('HDEL', key, ARGV[i]) end
for i = first, #ARGV, 1000 do
  redis.call('HSET', key, '~touched', now, unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
return now`,
)

/**
 * Replaces a session stored as one string if it is still the one we know. TTLs are whole seconds, as connect-redis
 * writes them.
 */
export const COMPARE_AND_SET: LuaScript = defineScript(
  1,
  `-- KEYS[1] session string
-- ARGV[1] the string it must still be
-- ARGV[2] the new string
-- ARGV[3] TTL in seconds
-- Result: 1 when it was replaced, 0 when there is none, the string that is there when it is another
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
if current ~= ARGV[1] then return current end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1`,
)

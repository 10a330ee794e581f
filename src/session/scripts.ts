import { hash } from 'node:crypto'
import { defineScript, type LuaScript } from '../redis/scripts.ts'

/**
 * Writes a session, all of it or nothing. A delta never brings a destroyed session back, overwrites no field that is
 * another than the request knows, and no key is ever without a TTL. `~touched` and `~created` are the server's time.
 */
export const SAVE: LuaScript = defineScript(
  1,
  `-- KEYS[1] session hash
-- ARGV[1] 'new': replace whatever is there; 'create': only if nothing is there; 'delta': only if it is there
-- ARGV[2] TTL in ms; 0 or less deletes the session
-- ARGV[3] longest life in ms since the session was made, 0: no end
-- ARGV[4] the revision it must have, '': any
-- ARGV[5] cookie, '': remove it
-- ARGV[6] what the cookie must be to be written, see below; if it is another one the TTL only grows
-- ARGV[7] user, ARGV[8] when it was made in ms: for 'new', '' if not known
-- then field, what it must be, new value ('': remove it) ...
-- What a field must be: '' absent, '*' anything, '=' and its text, '#' and the SHA-1 of its text; of the cookie also
-- '~', what is to be written; fields are looked at in a delta only
-- Result: {server time in ms, revision}; {-1} a delta found no session; {-2, id} it has moved;
-- {-3, field, value, ...} these are others; {-4} another revision; {-5} there is one already
local key, ttl, longest, last = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), #ARGV
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As text: a number that is given to a command is written with 17 digits first, which takes as long as the command.
local stamp = string.format('%d', now)
local made, rev, cookie = now, stamp, false
local function is(current, base)
  if base == '' then return not current end
  if not current then return false end
  if string.sub(base, 1, 1) == '#' then return redis.sha1hex(current) == string.sub(base, 2) end
  return current == string.sub(base, 2)
end
local writes, n = {'~rev', rev, '~touched', stamp}, 4
if ARGV[1] == 'delta' then
  local names = {'~moved', '~rev', '~created', 'cookie'}
  for i = 9, last, 3 do names[#names + 1] = ARGV[i] end
  -- Lua's stack holds 8,000 values: of more fields the rest is read one by one.
  local found = redis.call('HMGET', key, unpack(names, 1, math.min(#names, 1000)))
  if found[1] then return {-2, found[1]} end
  if not found[3] and redis.call('EXISTS', key) == 0 then return {-1} end
  if ARGV[4] ~= '' and ARGV[4] ~= (found[2] or '') then return {-4} end
  local others
  for i = 9, last, 3 do
    local base, at = ARGV[i + 1], 2 + i / 3
    if base ~= '*' then
      local current = found[at]
      if at > 1000 then current = redis.call('HGET', key, ARGV[i]) end
      if not is(current, base) then
        others = others or {-3}
        others[#others + 1] = ARGV[i]
        others[#others + 1] = current or ''
      end
    end
  end
  if others then return others end
  made, cookie = tonumber(found[3] or now), found[4]
  rev = string.format('%d', (found[2] or 0) + 1)
  writes[2] = rev
else
  if ARGV[1] == 'create' and redis.call('EXISTS', key) == 1 then return {-5} end
  redis.call('DEL', key)
  if ARGV[8] ~= '' then made = tonumber(ARGV[8]) end
  writes[5], writes[6], n = '~created', string.format('%d', made), 6
  if ARGV[7] ~= '' then writes[7], writes[8], n = '~user', ARGV[7], 8 end
end
if longest > 0 then ttl = math.min(ttl, made + longest - now) end
if ttl <= 0 then
  redis.call('DEL', key)
  return {now, 0}
end
for i = 9, last, 3 do
  local text = ARGV[i + 2]
  if text == '' then redis.call('HDEL', key, ARGV[i])
  else
    writes[n + 1], writes[n + 2], n = ARGV[i], text, n + 2
    if n >= 1000 then
      redis.call('HSET', key, unpack(writes))
      writes, n = {}, 0
    end
  end
end
local base, text = ARGV[6], ARGV[5]
local stands = base == '~' and cookie == text
local ours = stands or base == '*' or base ~= '~' and is(cookie, base)
if ours and not stands then
  if text == '' then redis.call('HDEL', key, 'cookie') else writes[n + 1], writes[n + 2], n = 'cookie', text, n + 2 end
end
if n > 0 then redis.call('HSET', key, unpack(writes)) end
ttl = longest > 0 and string.format('%d', math.ceil(ttl)) or ARGV[2]
if ours then redis.call('PEXPIRE', key, ttl) else redis.call('PEXPIRE', key, ttl, 'GT') end
return {now, rev}`,
)

/** What SAVE compares a field with: long texts are not sent twice. */
export function expected(text: string | undefined): string {
  if (text === undefined) return ''
  return text.length <= 60 ? `=${text}` : `#${hash('sha1', text)}`
}

/** Ends a session; says where it has moved to, if it has: that one must end as well. */
export const DESTROY: LuaScript = defineScript(
  1,
  `-- KEYS[1] session hash
-- Result: {1} it is gone, {0} there was none, {2, id} it had moved; then the user, if it had one
local head = redis.call('HMGET', KEYS[1], '~moved', '~user')
local found = redis.call('UNLINK', KEYS[1])
if head[1] then return {2, head[1]} end
return {found, head[2] or ''}`,
)

/**
 * Puts a sign in the place of a session that goes on under another id. Requests that have loaded it under this id save
 * there; `'open'` lets those that still come with it read there, `'closed'` does not.
 */
export const MOVE: LuaScript = defineScript(
  1,
  `-- KEYS[1] session hash
-- ARGV[1] hashed id of where it goes on, ARGV[2] 'open' or 'closed', ARGV[3] how long the sign stays in ms, 0: none
-- Result: {1} done, {0} there is no session, {2, id} it has moved before
local head = redis.call('HMGET', KEYS[1], '~moved')
if head[1] then return {2, head[1]} end
if redis.call('UNLINK', KEYS[1]) == 0 then return {0} end
if tonumber(ARGV[3]) > 0 then
  redis.call('HSET', KEYS[1], '~moved', ARGV[1], '~sign', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return {1}`,
)

/** Notes a session of a user; the note outlives the session a little, never the other way round. */
export const NOTE: LuaScript = defineScript(
  1,
  `-- KEYS[1] sorted set of a user's sessions by when they are over
-- ARGV[1] hashed id, ARGV[2] how long from now in ms, ARGV[3] hashed id to forget, '' for none
-- Result: up to 16 hashed ids whose time is over as far as this set knows
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', now + ARGV[2]), ARGV[1])
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[1], ARGV[3]) end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 16)`,
)

/**
 * Replaces a session stored as one string if it is still the one we know. TTLs are whole seconds, as connect-redis
 * writes them.
 */
export const COMPARE_AND_SET: LuaScript = defineScript(
  1,
  `-- KEYS[1] session string
-- ARGV[1] the string it must still be
-- ARGV[2] the new string, '': remove it
-- ARGV[3] TTL in seconds
-- Result: 1 when it was replaced, 0 when there is none, the string that is there when it is another
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
if current ~= ARGV[1] then return current end
if ARGV[2] == '' then redis.call('UNLINK', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return 1`,
)

import { randomBytes } from 'node:crypto'
import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'
import { HEADER_LENGTH, LUA_OFFSETS, LUA_SETRANGE, TOKEN_LENGTH } from './entry.ts'

/*
 * One loader per key: whoever finds no value leaves a marker with the token of its lease in the value's place, or
 * writes the token over that of a value that is to be replaced. Any write, DEL, clear or expiry takes the token away,
 * and with it the right to store. See `entry.ts` for the layout.
 */

const ACQUIRE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry
-- ARGV[1] token, ARGV[2] lease in ms, ARGV[3] generation, ARGV[4] '1': the generation has just been asked for
-- ARGV[5] token of the entry or lease that the caller has found to be no good, ARGV[6] '1': its value is to stay
-- ARGV[7] what a marker says behind its header, ARGV[8] longest entry that counts, in bytes
-- Result: {} acquired, {entry, PTTL, ms of lease left or 0}, or 0: ask for the generation
local key = KEYS[1]
local entry = redis.pcall('GET', key)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = string.format('%013.0f', now + ARGV[2])
if type(entry) == 'string' and #entry >= ${HEADER_LENGTH} and #entry <= tonumber(ARGV[8]) and string.sub(entry, 1, 3) == 'a1:' then
  if string.sub(entry, ${LUA_OFFSETS.generation}) == ARGV[3] then
    local token = string.sub(entry, ${LUA_OFFSETS.token})
    local left = math.max(0, (tonumber(string.sub(entry, ${LUA_OFFSETS.deadline})) or 0) - now)
    local hasValue = string.byte(entry, ${HEADER_LENGTH + 1}) == 10
    if token ~= ARGV[5] and (hasValue or left > 0) then return {entry, redis.call('PTTL', key), left} end
    if token == ARGV[5] and hasValue and ARGV[6] == '1' then
      redis.call('SETRANGE', key, ${LUA_SETRANGE.token}, ARGV[1] .. ':' .. deadline)
      local pttl = redis.call('PTTL', key)
      if pttl >= 0 and pttl < tonumber(ARGV[2]) then
        local grace = (tonumber(string.sub(entry, ${LUA_OFFSETS.grace})) or 0) + ARGV[2] - pttl
        redis.call('SETRANGE', key, ${LUA_SETRANGE.grace}, string.format('%013.0f', grace))
        redis.call('PEXPIRE', key, ARGV[2])
      end
      return {}
    end
  elseif ARGV[4] == '0' then
    return 0
  end
end
local header = 'a1:' .. ARGV[3] .. ':' .. ARGV[1] .. ':' .. deadline .. ':0000000000000'
redis.call('SET', key, header .. ARGV[7], 'PX', ARGV[2])
return {}`,
)

/** Of a lease that is held: its token, and a deadline that is not over or was not when it was last renewed. */
const HELD = `local entry = redis.pcall('GET', KEYS[1])
if type(entry) ~= 'string' or string.sub(entry, ${LUA_OFFSETS.token}) ~= ARGV[1] then return 0 end`

const RENEW: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] token, ARGV[2] lease in ms. Result: 1, or 0 when the lease has been lost
${HELD}
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SETRANGE', key, ${LUA_SETRANGE.deadline}, string.format('%013.0f', now + ARGV[2]))
local pttl = redis.call('PTTL', key)
if pttl < tonumber(ARGV[2]) then
  -- The value becomes no fresher by that: what its TTL gains is grace.
  local grace = (tonumber(string.sub(entry, ${LUA_OFFSETS.grace})) or 0) + ARGV[2] - pttl
  redis.call('SETRANGE', key, ${LUA_SETRANGE.grace}, string.format('%013.0f', grace))
  redis.call('PEXPIRE', key, ARGV[2])
end
return 1`,
)

const STORE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] token, ARGV[2] new entry, ARGV[3] its TTL in ms. Result: 1, or 0 when the lease has been lost
${HELD}
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`,
)

const RELEASE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] token. Result: 1, or 0 when the lease has been lost. A value that was there stays
${HELD}
if string.byte(entry, ${HEADER_LENGTH + 1}) ~= 10 then return redis.call('DEL', KEYS[1]) end
redis.call('SETRANGE', KEYS[1], ${LUA_SETRANGE.deadline}, '0000000000000')
return 1`,
)

const EXPIRE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] a new token. Its value is stale from now on; without grace it is deleted. Result: 1, or 0
local key = KEYS[1]
local entry = redis.pcall('GET', key)
local pttl = redis.call('PTTL', key)
if type(entry) ~= 'string' or string.sub(entry, 1, 3) ~= 'a1:' then return redis.call('DEL', key) end
local grace = tonumber(string.sub(entry, ${LUA_OFFSETS.grace})) or 0
if grace == 0 or string.byte(entry, ${HEADER_LENGTH + 1}) ~= 10 then return redis.call('DEL', key) end
redis.call('SETRANGE', key, ${LUA_SETRANGE.token}, ARGV[1] .. ':0000000000000:')
if pttl > grace then redis.call('PEXPIRE', key, string.format('%.0f', grace)) end
return 1`,
)

/** What is there, how long it lives, how long its lease lasts. */
export type Present = readonly [entry: string, ttlMs: number, leaseLeftMs: number]

export interface AcquireRequest {
  readonly token: string
  readonly leaseMs: number
  readonly generation: string
  /** Whether the generation has just been asked for. */
  readonly sure: boolean
  /** The token of what the caller has found to be no good. */
  readonly judged: string | undefined
  /** Whether its value stays readable until there is a new one. */
  readonly keep: boolean
  /** What a marker says behind its header. */
  readonly meta: string
  /** What is longer counts as nothing. */
  readonly maxBytes: number
}

/** The right and duty to load, what is in its way, or 'generation': ask for it. */
export async function acquire(
  client: RedisClient,
  key: string,
  { token, leaseMs, generation, sure, judged, keep, meta, maxBytes }: AcquireRequest,
): Promise<Present | 'acquired' | 'generation'> {
  const flags = [sure ? '1' : '0', judged ?? '', keep ? '1' : '0'] as const
  const args = [key, token, leaseMs, generation, ...flags, meta, maxBytes]
  const reply = await runScript<Present | [] | number>(client, ACQUIRE, args)
  if (typeof reply === 'number') return 'generation'
  return reply.length === 0 ? 'acquired' : reply
}

/** False when the lease has been lost. */
export async function renew(
  client: RedisClient,
  key: string,
  token: string,
  leaseMs: number,
): Promise<boolean> {
  return (await runScript<number>(client, RENEW, [key, token, leaseMs])) === 1
}

/** False when the lease has been lost. */
export async function store(
  client: RedisClient,
  key: string,
  token: string,
  entry: string,
  ttlMs: number,
): Promise<boolean> {
  return (await runScript<number>(client, STORE, [key, token, entry, ttlMs])) === 1
}

/** False when the lease has been lost. */
export async function release(client: RedisClient, key: string, token: string): Promise<boolean> {
  return (await runScript<number>(client, RELEASE, [key, token])) === 1
}

export async function expire(client: RedisClient, key: string): Promise<void> {
  await runScript(client, EXPIRE, [key, newToken()])
}

const HOLDER_LENGTH = 16
const SOME_HOLDER: string = randomBytes(HOLDER_LENGTH / 2).toString('hex')
const COUNTER_LENGTH = TOKEN_LENGTH - HOLDER_LENGTH
let tokens = 0

/** A token that no other load or write has; `holder`: the bus' id of this process, so that its leases end with it. */
export function newToken(holder: string = SOME_HOLDER): string {
  tokens += 1
  return holder + tokens.toString(36).padStart(COUNTER_LENGTH, '0')
}

/** Whose lease it is. */
export function holderOf(token: string): string {
  return token.slice(0, HOLDER_LENGTH)
}

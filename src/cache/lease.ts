import { randomBytes } from 'node:crypto'
import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript, runScript } from '../redis/scripts.ts'

/*
 * One loader per key: whoever finds no value leaves a marker with the token of its lease in the value's place. Any
 * write, DEL, clear or expiry takes the token away, and with it the right to store. See `entry.ts` for the layout.
 */

const ACQUIRE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry
-- ARGV[1] token, ARGV[2] lease in ms, ARGV[3] generation
-- ARGV[4] '0': the generation may be outdated; '1': it is not; '2': nor can the value be read
-- Result: {'value', entry, PTTL}, {'acquired'}, {'leased', token, ms left} or {'generation'}: ask for it
local key = KEYS[1]
local entry = redis.pcall('GET', key)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if type(entry) == 'string' and #entry >= 50 and string.sub(entry, 1, 3) == 'a1:' then
  if string.sub(entry, 4, 19) == ARGV[3] then
    if #entry == 50 then
      local left = (tonumber(string.sub(entry, 38, 50)) or 0) - now
      if left > 0 then return {'leased', string.sub(entry, 21, 36), left} end
    elseif ARGV[4] ~= '2' and string.byte(entry, 51) == 10 then
      return {'value', entry, redis.call('PTTL', key)}
    end
  elseif ARGV[4] == '0' then
    return {'generation'}
  end
end
local header = 'a1:' .. ARGV[3] .. ':' .. ARGV[1] .. ':' .. string.format('%013.0f', now + ARGV[2])
redis.call('SET', key, header, 'PX', ARGV[2])
return {'acquired'}`,
)

const RENEW: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] token, ARGV[2] lease in ms. Result: 1, or 0 when the lease has been lost
local key = KEYS[1]
local entry = redis.pcall('GET', key)
if type(entry) ~= 'string' or string.sub(entry, 21, 36) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SETRANGE', key, 37, string.format('%013.0f', now + ARGV[2]))
if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
return 1`,
)

const STORE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] token, ARGV[2] new entry, ARGV[3] its TTL in ms. Result: 1, or 0 when the lease has been lost
local entry = redis.pcall('GET', KEYS[1])
if type(entry) ~= 'string' or string.sub(entry, 21, 36) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`,
)

const RELEASE: LuaScript = defineScript(
  1,
  `-- KEYS[1] entry; ARGV[1] token. Result: 1, or 0 when the lease has been lost
local entry = redis.pcall('GET', KEYS[1])
if type(entry) ~= 'string' or string.sub(entry, 21, 36) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`,
)

export type Acquired =
  | ['value', entry: string, ttlMs: number]
  | ['acquired']
  | ['leased', token: string, leftMs: number]
  | ['generation']

/** How far the caller's knowledge goes: see ARGV[4] of the script. */
export type Knowledge = '0' | '1' | '2'

/** The value, or the right and duty to load it, or who has that right. */
export function acquire(
  client: RedisClient,
  key: string,
  token: string,
  leaseMs: number,
  generation: string,
  knowledge: Knowledge,
): Promise<Acquired> {
  return runScript(client, ACQUIRE, [key, token, leaseMs, generation, knowledge])
}

/** All three: false when the lease has been lost. */
export async function renew(
  client: RedisClient,
  key: string,
  token: string,
  leaseMs: number,
): Promise<boolean> {
  return (await runScript<number>(client, RENEW, [key, token, leaseMs])) === 1
}

export async function store(
  client: RedisClient,
  key: string,
  token: string,
  entry: string,
  ttlMs: number,
): Promise<boolean> {
  return (await runScript<number>(client, STORE, [key, token, entry, ttlMs])) === 1
}

export async function release(client: RedisClient, key: string, token: string): Promise<boolean> {
  return (await runScript<number>(client, RELEASE, [key, token])) === 1
}

const PROCESS_TOKEN: string = randomBytes(6).toString('base64url')
let tokens = 0

/** 16 characters that no other load has. */
export function newToken(): string {
  tokens += 1
  return PROCESS_TOKEN + tokens.toString(36).padStart(8, '0')
}

import type { RateLimiterRedis } from 'rate-limiter-flexible'
import type { RedisClient } from '../redis/client.ts'
import { defineScript, type LuaScript } from '../redis/scripts.ts'
import { type Algorithm, type Charged, capacityOf, type RateLimitPolicy } from './policy.ts'
import { scripted } from './scripted.ts'

const LOOK_LUA = `local cost, window, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used, ttl = tonumber(redis.call('GET', KEYS[1])) or 0, redis.call('PTTL', KEYS[1])
if ttl == -1 then redis.call('PEXPIRE', KEYS[1], window) end -- somebody else's key: ours have a TTL from the start
if ttl == 0 or ttl == -2 then used = 0 end
local opened = ttl > 0
if ttl <= 0 then ttl = window end
local function save(count, ms) redis.call('SET', KEYS[1], string.format('%.0f', count), 'PX', ms) end
`

/**
 * rate-limiter-flexible's script in a form that does not charge what it refuses, never counts below 0 and leaves no key
 * without TTL. Its own takes the window in whole seconds; told milliseconds as if they were seconds, ours is exact.
 */
export const FIXED_WINDOW_LUA: string = `-- KEYS[1] count of the window
-- ARGV[1] cost; ARGV[2] length of the window in ms; ARGV[3] limit
-- Result: { count with this cost, ms until the window ends, when it ends }; a count above the limit was not stored
${LOOK_LUA}local count = math.max(0, used + cost)
if count <= limit then save(count, ttl) end
return { count, ttl, redis.call('PEXPIRETIME', KEYS[1]) }`

/** What rate-limiter-flexible has no atomic form of, on the same key. A blocked key holds more than any limit. */
const FIXED_WINDOW: LuaScript = defineScript(
  1,
  `-- KEYS[1] count of the window. ARGV[1..3] as above; ARGV[4] op; ARGV[5..7] x, y, z. Result: see the ops.
${LOOK_LUA}local op, x, y, z = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if op == 'r' then
  if opened and redis.call('PEXPIRETIME', KEYS[1]) == x then
    redis.call('SET', KEYS[1], string.format('%.0f', math.max(0, used - cost)), 'KEEPTTL')
  end
  return { used >= limit and 1 or 0 }
end
local function block(ms)
  used, ttl = 9000000000000000, opened and math.max(ttl, ms) or ms
  save(used, ttl)
end
if op == 'b' then
  block(x)
  return { 1 }
end
local fits, taken = used + cost <= limit, 0
if op == '2' then taken = cost
elseif fits and op == '1' then taken = cost
elseif fits and op == 'l' then taken = math.max(cost, math.min(x, math.floor((limit - used) / y))) end
local blockFor = op == 'l' and z or op == '1' and x or 0
if taken > 0 then
  used, opened = used + taken, true
  save(used, ttl)
elseif not fits and used < 9000000000000000 and blockFor > 0 then block(blockFor) end
local reset = (opened or used > 0) and ttl or 0
return { fits and (op == 'l' and taken or 1) or 0, math.max(0, limit - used), fits and 0 or math.max(1, ttl), reset, redis.call('PEXPIRETIME', KEYS[1]), math.min(ttl, 1000, math.floor(window / 10)) }`,
)

type Library = typeof import('rate-limiter-flexible')

/** 32 ms of loading that only those pay who use it. */
let loading: Promise<Library> | undefined

function load(): Promise<Library> {
  loading ??= import('rate-limiter-flexible')
  return loading
}

const ops = scripted(FIXED_WINDOW, (policy, limit, cost) => [cost, policy.perMs, limit])

/** `limit` in a window that begins with a key's first request; across the edge of two windows up to twice the limit. */
export const fixedWindow: Algorithm = {
  ...ops,
  letter: 'f',
  /** Not the one for everything: rate-limiter-flexible defines its script on the client it is given, under one name. */
  connection: (ctx) => ctx.connect('rate-limit'),
  loaded: load,
  async charge(client, key, policy, question, blockMs) {
    // Its block would be a second command: a crash in between loses it.
    if (blockMs > 0) return ops.charge(client, key, policy, question, blockMs)
    const { RateLimiterRedis, RateLimiterRes } = await load()
    const limiter = limiterOf(client, policy, question.limit, { RateLimiterRedis, RateLimiterRes })
    try {
      return charged(policy, question, await limiter.consume(key, question.cost))
    } catch (refused) {
      if (!(refused instanceof RateLimiterRes)) throw refused
      return charged(policy, question, refused)
    }
  },
}

/** Limits that are told with each request are few; if not, their limiters are made again. */
const MAX_LIMITERS = 1_000
const limiters = new WeakMap<RedisClient, Map<string, RateLimiterRedis>>()

function limiterOf(
  client: RedisClient,
  { perMs }: RateLimitPolicy,
  limit: number,
  library: Pick<Library, 'RateLimiterRedis' | 'RateLimiterRes'>,
): RateLimiterRedis {
  const ofClient = limiters.get(client) ?? new Map<string, RateLimiterRedis>()
  limiters.set(client, ofClient)
  const numbers = `${limit}:${perMs}`
  let limiter = ofClient.get(numbers)
  if (!limiter) {
    limiter = windowEndTelling(library, {
      storeClient: client,
      useRedisPackage: false,
      rejectIfRedisNotReady: true,
      keyPrefix: '', // the key is whole already
      points: limit,
      duration: perMs,
      customIncrTtlLuaScript: FIXED_WINDOW_LUA,
    })
    if (ofClient.size >= MAX_LIMITERS) ofClient.clear()
    ofClient.set(numbers, limiter)
  }
  return limiter
}

/** One that passes on the third number of our script, which a refund needs. */
function windowEndTelling(
  { RateLimiterRedis, RateLimiterRes }: Pick<Library, 'RateLimiterRedis' | 'RateLimiterRes'>,
  options: ConstructorParameters<typeof RateLimiterRedis>[0],
): RateLimiterRedis {
  class Telling extends RateLimiterRedis {
    /** Its extension point for results of a store. */
    _getRateLimiterRes(_key: string, cost: number, [count = 0, ttl = 0, endsAt = 0]: number[]): object {
      const result = new RateLimiterRes(Math.max(0, this.points - count), ttl, count, count === cost)
      return Object.assign(result, { endsAt })
    }
  }
  return new Telling(options)
}

/** `consumedPoints` holds the cost also when that was refused. */
function charged(
  policy: RateLimitPolicy,
  { limit, cost }: { readonly limit: number; readonly cost: number },
  found: { readonly consumedPoints: number; readonly msBeforeNext: number; readonly endsAt?: number },
): Charged {
  const total = found.consumedPoints
  const allowed = total <= capacityOf(policy, limit)
  const resetMs = Math.max(0, found.msBeforeNext)
  return {
    allowed,
    remaining: Math.max(0, limit - (allowed ? total : total - cost)),
    retryAfterMs: allowed ? 0 : Math.max(1, resetMs),
    resetMs,
    at: found.endsAt ?? 0,
  }
}

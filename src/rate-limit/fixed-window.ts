import type { RateLimiterRedis } from 'rate-limiter-flexible'
import type { RedisClient } from '../redis/client.ts'
import type { Algorithm, RateLimitPolicy, Verdict } from './policy.ts'

/**
 * rate-limiter-flexible's script in a form that does not charge what it refuses, never counts below 0 and leaves no key
 * without TTL. Its own takes the window in whole seconds; told milliseconds as if they were seconds, ours is exact.
 */
export const FIXED_WINDOW_LUA: string = `-- KEYS[1] count of the window
-- ARGV[1] cost; ARGV[2] length of the window in ms; ARGV[3] limit
-- Result: { count with this cost, ms until the window ends }; a count above the limit was not stored
local cost, window, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used, ttl = tonumber(redis.call('GET', KEYS[1])) or 0, redis.call('PTTL', KEYS[1])
if ttl == -1 then redis.call('PEXPIRE', KEYS[1], window) end -- somebody else's key: ours have a TTL from the start
if ttl == 0 or ttl == -2 then used = 0 end
if ttl <= 0 then ttl = window end
local count = math.max(0, used + cost)
if count <= limit then redis.call('SET', KEYS[1], string.format('%.0f', count), 'PX', ttl) end
return { count, ttl }`

type Library = typeof import('rate-limiter-flexible')

/** 32 ms of loading that only those pay who use it. */
let loading: Promise<Library> | undefined

function load(): Promise<Library> {
  loading ??= import('rate-limiter-flexible')
  return loading
}

/** `limit` in a window that begins with a key's first request; across the edge of two windows up to twice the limit. */
export const fixedWindow: Algorithm = {
  letter: 'f',
  /** Not the one for everything: rate-limiter-flexible defines its script on the client it is given, under one name. */
  connection: (ctx) => ctx.connect('rate-limit'),
  loaded: load,
  async decide(client, key, policy, { cost, charge }) {
    const { RateLimiterRedis, RateLimiterRes } = await load()
    const limiter = limiterOf(client, policy, RateLimiterRedis)
    if (!charge) return verdict(policy, cost, (await limiter.get(key)) ?? undefined, false)
    try {
      return verdict(policy, cost, await limiter.consume(key, cost), true)
    } catch (refused) {
      if (!(refused instanceof RateLimiterRes)) throw refused
      return verdict(policy, cost, refused, true)
    }
  },
}

const limiters = new WeakMap<RedisClient, WeakMap<RateLimitPolicy, RateLimiterRedis>>()

function limiterOf(
  client: RedisClient,
  policy: RateLimitPolicy,
  Limiter: typeof RateLimiterRedis,
): RateLimiterRedis {
  const ofClient = limiters.get(client) ?? new WeakMap<RateLimitPolicy, RateLimiterRedis>()
  limiters.set(client, ofClient)
  let limiter = ofClient.get(policy)
  if (!limiter) {
    limiter = new Limiter({
      storeClient: client,
      useRedisPackage: false,
      rejectIfRedisNotReady: true,
      keyPrefix: '', // the key is whole already
      points: policy.limit,
      duration: policy.perMs,
      customIncrTtlLuaScript: FIXED_WINDOW_LUA,
    })
    ofClient.set(policy, limiter)
  }
  return limiter
}

/** `consumedPoints` holds the cost when it was asked to charge, also when that was refused. */
function verdict(
  { limit, perMs }: RateLimitPolicy,
  cost: number,
  found: { readonly consumedPoints: number; readonly msBeforeNext: number } | undefined,
  charged: boolean,
): Verdict {
  const consumed = found?.consumedPoints ?? 0
  const total = charged ? consumed : consumed + cost
  const allowed = total <= limit
  const used = allowed && charged ? total : total - cost
  const resetMs = found ? Math.min(perMs, Math.max(0, found.msBeforeNext)) : 0
  return {
    allowed,
    remaining: Math.max(0, limit - used),
    retryAfterMs: allowed ? 0 : Math.max(1, resetMs),
    resetMs,
  }
}

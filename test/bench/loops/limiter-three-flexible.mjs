import { Redis } from 'ioredis'
import { RateLimiterRedis } from 'rate-limiter-flexible'
import { redisOptions } from '../servers/redis-options.mjs'
import { LIMIT, loopOf } from './limiter-values.mjs'

/** Three limiters, three decisions. */
export async function open({ keys }) {
  const storeClient = new Redis(redisOptions)
  const limiters = [1, 60, 3_600].map(
    (duration) =>
      new RateLimiterRedis({ storeClient, points: LIMIT, duration, keyPrefix: `per-${duration}` }),
  )
  return loopOf(async (key) => {
    await Promise.all(limiters.map((limiter) => limiter.consume(key)))
    return true
  }, keys)
}

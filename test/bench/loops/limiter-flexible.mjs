import { Redis } from 'ioredis'
import { RateLimiterRedis } from 'rate-limiter-flexible'
import { redisOptions } from '../servers/redis-options.mjs'
import { LIMIT, loopOf, WINDOW_SECONDS } from './limiter-values.mjs'

export async function open({ keys, limit = LIMIT }) {
  const limiter = new RateLimiterRedis({
    storeClient: new Redis(redisOptions),
    points: limit,
    duration: WINDOW_SECONDS,
  })
  return loopOf((key) => limiter.consume(key).then(() => true), keys)
}

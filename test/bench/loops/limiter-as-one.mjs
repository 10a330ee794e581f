import { createShared } from 'as-one'
import { LIMIT, loopOf, WINDOW_SECONDS } from './limiter-values.mjs'

export async function open({ redisUrl, keys, ...options }) {
  const shared = createShared({ redis: redisUrl, namespace: 'bench' })
  const limiter = shared.rateLimiter({ limit: LIMIT, per: WINDOW_SECONDS * 1_000, ...options })
  return loopOf(async (key) => (await limiter.consume(key)).allowed, keys)
}

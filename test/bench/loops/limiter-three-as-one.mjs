import { createShared } from 'as-one'
import { LIMIT, loopOf } from './limiter-values.mjs'

/** Three policies, one decision. */
export async function open({ redisUrl, keys }) {
  const shared = createShared({ redis: redisUrl, namespace: 'bench' })
  const limiter = shared.rateLimiter(
    [1, 60, 3_600].map((seconds) => ({ name: `per-${seconds}`, limit: LIMIT, per: seconds * 1_000 })),
  )
  return loopOf(async (key) => (await limiter.consume(key)).allowed, keys)
}

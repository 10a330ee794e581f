import { SharedStateError } from '../core/errors.ts'
import type { RateLimiter } from './limiter.ts'
import { RecentCharges } from './recent-charges.ts'

/** What express-rate-limit tells a store of its own options. */
interface TheirOptions {
  readonly windowMs: number
  readonly limit: unknown
  readonly skipFailedRequests?: boolean
  readonly skipSuccessfulRequests?: boolean
}

interface Hits {
  readonly totalHits: number
  readonly resetTime: Date
}

/** A `Store` of express-rate-limit 7 and 8. */
export interface ExpressRateLimitStore {
  readonly localKeys: false
  readonly prefix: string
  init(options: TheirOptions): void
  increment(key: string): Promise<Hits>
  decrement(key: string): Promise<void>
  resetKey(key: string): Promise<void>
  get(key: string): Promise<Hits | undefined>
}

/**
 * A store for those who keep express-rate-limit: its middleware, with the counts and the bound of `limiter`. What it
 * refuses is not charged. Where its `limit` is a function, `limiter` has the highest of them.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` at `init` when the numbers are not those of `limiter`
 * @example
 * const limiter = rateLimiter({ name: 'api', limit: 100, per: '1m' })
 * app.use(rateLimit({ limit: 100, windowMs: 60_000, store: expressRateLimitStore(limiter) }))
 */
export function expressRateLimitStore(limiter: RateLimiter): ExpressRateLimitStore {
  const { name, limit, perMs } = limiter.policy
  const recent = new RecentCharges()
  let givesBack = false
  return {
    localKeys: false,
    prefix: `${name}:`,
    init({ windowMs, limit: theirs, skipFailedRequests, skipSuccessfulRequests }) {
      givesBack = skipFailedRequests === true || skipSuccessfulRequests === true
      if (windowMs === perMs && (theirs === limit || typeof theirs === 'function')) return
      throw new SharedStateError(
        'ERR_AS_ONE_OPTIONS',
        `expressRateLimitStore: limiter '${name}' has limit ${limit} per ${perMs} ms, express-rate-limit has limit ` +
          `${String(theirs)} and windowMs ${windowMs}; give both the same`,
      )
    },
    async increment(key) {
      const decision = await limiter.consume(key)
      if (decision.source === 'none' && !decision.allowed) {
        throw new SharedStateError(
          'ERR_AS_ONE_REDIS_UNAVAILABLE',
          `rate limit '${name}' cannot be decided: Redis does not answer`,
        )
      }
      if (decision.allowed && givesBack) recent.add(key, decision, 1)
      return hitsOf(decision)
    },
    async decrement(key) {
      await Promise.all(recent.take(key, 1).map((decision) => limiter.refund(decision)))
    },
    async resetKey(key) {
      recent.forget(key)
      await limiter.reset(key)
    },
    async get(key) {
      const decision = await limiter.peek(key)
      return decision.remaining === limit
        ? undefined
        : { ...hitsOf(decision), totalHits: limit - decision.remaining }
    },
  }

  function hitsOf(decision: Awaited<ReturnType<RateLimiter['consume']>>): Hits {
    const { allowed, remaining, retryAfterMs, resetMs } = decision
    const waitMs = allowed ? resetMs : retryAfterMs
    return {
      totalHits: allowed ? Math.max(1, limit - remaining) : limit + 1,
      resetTime: new Date(Date.now() + waitMs),
    }
  }
}

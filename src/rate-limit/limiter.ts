import { defaultContext, type SharedContext } from '../context.ts'
import type { Duration } from '../core/duration.ts'
import { Limiter } from './decide.ts'
import {
  type RateLimiterOptions,
  type RateLimitPolicyOptions,
  resolveRateLimiterOptions,
  type SharedLimiterOptions,
} from './options.ts'
import type { RateLimitDecision, RateLimitPolicy } from './policy.ts'
import type { RateLimitStats } from './stats.ts'

export interface ConsumeOptions {
  /** What it costs, a whole number from 1 to the limit. @default 1 */
  cost?: number
  /** Another limit for this call: the plan of this customer. Of several policies one each. @default the limiter's */
  limit?: number | readonly number[]
  /** Ends the wait, not the charge: it may have been made. */
  signal?: AbortSignal
}

/** A limit of its own, without HTTP. */
export interface RateLimiter {
  /** The first one, when there are several. */
  readonly policy: RateLimitPolicy
  readonly policies: readonly RateLimitPolicy[]
  /**
   * Takes `cost` from what `key` has left, or refuses and takes nothing. Decides within 100 ms, whatever Redis does.
   *
   * @throws SharedStateError `ERR_AS_ONE_RATE_LIMIT` for an empty key or a cost that can never fit, `ERR_AS_ONE_ABORTED`,
   * `ERR_AS_ONE_CLOSED`, `ERR_AS_ONE_REDIS_CONFIG` when no Redis is configured
   * @example
   * const { allowed, retryAfterMs } = await mails.consume(user.id, { cost: recipients.length })
   */
  consume(key: string | number, options?: ConsumeOptions): Promise<RateLimitDecision>
  /** What `consume` would say, without taking anything. */
  peek(key: string | number, options?: ConsumeOptions): Promise<RateLimitDecision>
  /**
   * Takes `cost` (default 1) whether it fits or not, and tells whether it did.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE` when Redis did not confirm it
   * @example if (isWrongPassword) await logins.penalty(ip, 5)
   */
  penalty(key: string | number, cost?: number): Promise<RateLimitDecision>
  /**
   * Gives back what a decision has taken, as far as it still counts: never into a later window, never twice. With
   * `'concurrency'` the end of what was admitted. False when there was nothing to give back.
   *
   * @throws SharedStateError `ERR_AS_ONE_RATE_LIMIT` for what is no decision, `ERR_AS_ONE_REDIS_UNAVAILABLE`
   * @example
   * const decision = await uploads.consume(user.id)
   * if (!(await store(file))) await uploads.refund(decision)
   */
  refund(decision: RateLimitDecision): Promise<boolean>
  /**
   * Refuses `key` for so long, at least; `reset` ends it.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE` when Redis did not confirm it
   */
  block(key: string | number, duration: Duration): Promise<void>
  /**
   * Gives `key` its whole limit back, and ends a block.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE` when Redis did not confirm it
   */
  reset(key: string | number): Promise<void>
  /** What this process has decided since its start. */
  stats(): RateLimitStats
}

/**
 * A limiter of the default instance, for anything but requests: mails, logins, calls to somebody's API. Several policies
 * in an array are one decision: a cost is taken from all of them, or from none.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 * @example
 * const logins = rateLimiter({ name: 'logins', limit: 5, per: '15m', blockFor: '1h' })
 * if (!(await logins.consume(username)).allowed) return tooManyAttempts()
 */
export function rateLimiter(
  options: RateLimiterOptions | readonly RateLimitPolicyOptions[],
  shared?: SharedLimiterOptions,
): RateLimiter {
  return createRateLimiter(defaultContext(), options, shared)
}

/**
 * One budget per key for all workers and machines.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 */
export function createRateLimiter(
  ctx: SharedContext,
  options: RateLimiterOptions | readonly RateLimitPolicyOptions[],
  shared?: SharedLimiterOptions,
): RateLimiter {
  const limiter = new Limiter(ctx, resolveRateLimiterOptions(options, shared))
  const { policies } = limiter
  return {
    policy: policies[0] as RateLimitPolicy,
    policies,
    consume: (key, asked) => limiter.decide(key, true, asked),
    peek: (key, asked) => limiter.decide(key, false, asked),
    penalty: (key, cost = 1) => limiter.penalty(key, cost),
    refund: (decision) => limiter.refund(decision),
    block: (key, duration) => limiter.block(key, duration),
    reset: (key) => limiter.reset(key),
    stats: () => limiter.stats,
  }
}

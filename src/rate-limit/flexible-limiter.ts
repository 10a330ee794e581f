import type { RateLimiterCompatibleAbstract, RateLimiterRes } from 'rate-limiter-flexible'
import type { RateLimiter } from './limiter.ts'
import { capacityOf, type RateLimitDecision } from './policy.ts'
import { RecentCharges } from './recent-charges.ts'

/**
 * `limiter` in the form of rate-limiter-flexible: for its `RateLimiterUnion`, `RLWrapperTimeouts`, `RateLimiterQueue`
 * and code written for it. `consume` rejects with a `RateLimiterRes` when refused, as theirs does; `reward` gives back
 * the newest charges of this process, each to its own window; `set` begins anew.
 *
 * @example const limiter = await flexibleLimiter(rateLimiter({ name: 'api', limit: 100, per: '1m' }))
 */
export async function flexibleLimiter(limiter: RateLimiter): Promise<RateLimiterCompatibleAbstract> {
  const library = await import('rate-limiter-flexible')
  const { limit, name } = limiter.policy
  const recent = new RecentCharges()

  function resultOf(
    { allowed, remaining, retryAfterMs, resetMs }: RateLimitDecision,
    cost: number,
  ): RateLimiterRes {
    const consumed = limit - remaining
    return new library.RateLimiterRes(
      remaining,
      allowed ? resetMs : retryAfterMs || resetMs,
      allowed ? consumed : consumed + cost,
      allowed && consumed === cost,
    )
  }

  class FlexibleLimiter extends library.RateLimiterCompatibleAbstract {
    override readonly keyPrefix: string = name
    override blockDuration = 0
    override execEvenly = false

    override async consume(key: string | number, cost = 1): Promise<RateLimiterRes> {
      // To them more than ever fits is a refusal like any other; to `consume` it is a mistake.
      if (Number.isSafeInteger(cost) && cost > capacityOf(limiter.policy, limit)) {
        throw resultOf({ ...(await limiter.peek(key)), allowed: false }, cost)
      }
      const decision = await limiter.consume(key, { cost })
      if (!decision.allowed) throw resultOf(decision, cost)
      recent.add(String(key), decision, cost)
      return resultOf(decision, cost)
    }

    override async penalty(key: string | number, cost = 1): Promise<RateLimiterRes> {
      return resultOf(await limiter.penalty(key, cost), cost)
    }

    override async reward(key: string | number, cost = 1): Promise<RateLimiterRes> {
      await Promise.all(recent.take(String(key), cost).map((decision) => limiter.refund(decision)))
      return resultOf(await limiter.peek(key), 0)
    }

    override async get(key: string | number): Promise<RateLimiterRes | null> {
      const decision = await limiter.peek(key)
      return decision.remaining === limit && decision.resetMs === 0 ? null : resultOf(decision, 0)
    }

    override async set(key: string | number, points: number): Promise<RateLimiterRes> {
      await this.delete(key)
      return points > 0 ? this.penalty(key, points) : resultOf(await limiter.peek(key), 0)
    }

    override async block(key: string | number, seconds: number): Promise<RateLimiterRes> {
      await limiter.block(key, seconds * 1_000)
      return resultOf(await limiter.peek(key), 0)
    }

    override async delete(key: string | number): Promise<boolean> {
      recent.forget(String(key))
      const held = (await this.get(key)) !== null
      await limiter.reset(key)
      return held
    }
  }
  return new FlexibleLimiter()
}

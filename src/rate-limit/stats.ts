import type { RateLimitDecision, RateLimitSource } from './policy.ts'

/** What one process has decided since its start, for limiters of one name. */
export interface RateLimitStats {
  readonly allowed: number
  readonly refused: number
  /** Allowed, with less than a fifth of the limit left. */
  readonly nearLimit: number
  readonly sources: Readonly<Record<RateLimitSource, number>>
}

/** From this share of the limit on, a key is near it. */
const NEAR = 0.8

export function isNear({ allowed, remaining, policy, source }: RateLimitDecision): boolean {
  return allowed && source !== 'none' && remaining < (1 - NEAR) * (policy.burst ?? policy.limit)
}

export class Counters {
  #allowed = 0
  #refused = 0
  #nearLimit = 0
  readonly #sources: Record<RateLimitSource, number> = { redis: 0, lease: 0, known: 0, local: 0, none: 0 }

  count(decision: RateLimitDecision): void {
    if (decision.allowed) this.#allowed += 1
    else this.#refused += 1
    if (isNear(decision)) this.#nearLimit += 1
    this.#sources[decision.source] += 1
  }

  get stats(): RateLimitStats {
    return {
      allowed: this.#allowed,
      refused: this.#refused,
      nearLimit: this.#nearLimit,
      sources: { ...this.#sources },
    }
  }
}

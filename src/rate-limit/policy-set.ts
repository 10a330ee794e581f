import type { SharedContext } from '../context.ts'
import { SharedStateError } from '../core/errors.ts'
import { COUNTING } from './counting.ts'
import { type Charge, Decision } from './decision.ts'
import type { RateLimitPolicy, RateLimitSource, Verdict } from './policy.ts'
import { checkCost, checkLimit } from './subject.ts'

/** Policies with a limit told by each request, by that limit. */
const MAX_POLICIES = 1_000

/** The policies of one limiter: their keys, their limits for one call, and what was found as a decision. */
export class PolicySet {
  readonly all: readonly RateLimitPolicy[]
  readonly first: RateLimitPolicy
  /** For messages. */
  readonly name: string
  readonly #keys: SharedContext['keys']
  readonly #limits: readonly number[]
  readonly #byLimit = new Map<number, RateLimitPolicy>()

  constructor(keys: SharedContext['keys'], policies: readonly RateLimitPolicy[]) {
    this.all = policies
    this.first = policies[0] as RateLimitPolicy
    this.name = policies.map(({ name }) => name).join(', ')
    this.#keys = keys
    this.#limits = policies.map(({ limit }) => limit)
  }

  /** Of a call that may name its own; 0 stands for one that nobody has told. */
  limitsOf(asked: number | readonly number[] | undefined): readonly number[] {
    if (asked === undefined) return this.#limits
    const limits = Array.isArray(asked) ? (asked as readonly number[]) : [asked as number]
    if (limits.length !== this.all.length) {
      throw new SharedStateError(
        'ERR_AS_ONE_RATE_LIMIT',
        `rate limit '${this.name}': limit must be ${this.all.length} numbers, one for each policy, got ${limits.length}`,
      )
    }
    return limits.map((each, index) => checkLimit(each, this.all[index] as RateLimitPolicy))
  }

  check(cost: number, limits: readonly number[]): void {
    for (let index = 0; index < limits.length; index++) {
      const policy = this.all[index] as RateLimitPolicy
      const limit = limits[index] as number
      if (limit === 0) checkLimit(undefined, policy)
      checkCost(cost, policy, limit)
    }
  }

  /** The tag is the client's key, so that several policies on one client can be decided in one script on a Cluster. */
  keyOf(id: string, { name, perMs, algorithm }: RateLimitPolicy): string {
    const letter = algorithm === 'concurrency' ? 'c' : COUNTING[algorithm].letter
    return this.#keys.tagged('rate-limit', id, `${name}:${letter}${perMs}`)
  }

  /** With the limit it was asked for. */
  policyOf(index: number, limit: number): RateLimitPolicy {
    const policy = this.all[index] as RateLimitPolicy
    if (policy.limit === limit) return policy
    if (this.all.length > 1) return { ...policy, limit }
    let made = this.#byLimit.get(limit)
    if (!made) {
      if (this.#byLimit.size >= MAX_POLICIES) this.#byLimit.clear()
      made = Object.freeze({ ...policy, limit })
      this.#byLimit.set(limit, made)
    }
    return made
  }

  decision(
    limits: readonly number[],
    verdicts: readonly Verdict[],
    source: RateLimitSource,
    charge?: Charge,
  ): Decision {
    const [only] = verdicts as [Verdict]
    if (verdicts.length === 1)
      return new Decision(only, this.policyOf(0, limits[0] as number), source, charge)
    const all = verdicts.map(({ allowed, remaining, retryAfterMs, resetMs }, index) => ({
      allowed,
      remaining,
      retryAfterMs,
      resetMs,
      policy: this.policyOf(index, limits[index] as number),
    }))
    return Decision.ofSeveral(all, source, charge)
  }
}

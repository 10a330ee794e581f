import { type LimitRedis, limitsUnavailable } from './availability.ts'
import { fixedWindow } from './fixed-window.ts'
import { gcra } from './gcra.ts'
import type { Algorithm, Charged, RateLimitAlgorithm, RateLimitPolicy } from './policy.ts'
import type { PolicySet } from './policy-set.ts'
import { decideSeveral } from './several-policies.ts'
import { slidingWindow } from './sliding-window.ts'

export const COUNTING: Readonly<Record<Exclude<RateLimitAlgorithm, 'concurrency'>, Algorithm>> = {
  'sliding-window': slidingWindow,
  gcra,
  'fixed-window': fixedWindow,
}

export function countingOf({ algorithm }: RateLimitPolicy): Algorithm {
  return COUNTING[algorithm as Exclude<RateLimitAlgorithm, 'concurrency'>]
}

/** What Redis counts for the policies of one limiter. */
export class Counting {
  readonly redis: LimitRedis
  /** Of a single policy; several are one script of their own. */
  readonly algorithm: Algorithm | undefined
  readonly blockMs: number
  readonly #policies: PolicySet

  constructor(redis: LimitRedis, policies: PolicySet, blockMs: number) {
    this.redis = redis
    const { all, first } = policies
    this.algorithm =
      all.length === 1 && first.algorithm !== 'concurrency' ? COUNTING[first.algorithm] : undefined
    this.blockMs = blockMs
    this.#policies = policies
    this.algorithm?.loaded?.().catch(() => {}) // the first decision tells why
  }

  /** The answer of Redis; undefined when it is away. */
  async count(
    id: string,
    op: 'charge' | 'look' | 'force',
    cost: number,
    limits: readonly number[],
  ): Promise<readonly Charged[] | undefined> {
    const { algorithm, blockMs } = this
    const { all, first } = this.#policies
    if (algorithm === undefined) {
      const keys = all.map((each) => this.#policies.keyOf(id, each))
      const question = { op, cost, limits, blockMs }
      return this.redis.ask(keys[0] as string, (client) => decideSeveral(client, keys, all, question))
    }
    if (algorithm.loaded) await algorithm.loaded()
    const stored = this.#policies.keyOf(id, first)
    const question = { cost, limit: limits[0] as number }
    const answer = await this.redis.ask(stored, (client) =>
      algorithm[op](client, stored, first, question, blockMs),
    )
    return answer && [answer]
  }

  /** True when there was no room before. */
  async refund(id: string, policy: RateLimitPolicy, cost: number, limit = 1, at = 0): Promise<boolean> {
    const stored = this.#policies.keyOf(id, policy)
    const question = { cost, limit, at }
    const full = await this.redis.ask(stored, (client) =>
      countingOf(policy).refund(client, stored, policy, question),
    )
    if (full === undefined) throw limitsUnavailable(`the refund of ${policy.name}`, this.redis.label)
    return full
  }

  async block(id: string, ms: number): Promise<void> {
    const blocks = this.#policies.all.map((policy) => {
      const stored = this.#policies.keyOf(id, policy)
      return this.redis.ask(stored, (client) => countingOf(policy).block(client, stored, policy, ms))
    })
    if ((await Promise.all(blocks)).includes(undefined))
      throw limitsUnavailable(`the block of ${this.#policies.name}`, this.redis.label)
  }
}

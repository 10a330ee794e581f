import type { SharedContext } from '../context.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'

export type RateLimitAlgorithm = 'sliding-window' | 'fixed-window'

/** What a limiter enforces. */
export interface RateLimitPolicy {
  readonly name: string
  readonly limit: number
  readonly perMs: number
  readonly algorithm: RateLimitAlgorithm
}

/** What is asked about a key: whether `cost` fits now, and to take it if it does. */
export interface Question {
  readonly cost: number
  /** False only looks. */
  readonly charge: boolean
}

/** What was found about a key. A refused cost has not been charged. */
export interface Verdict {
  readonly allowed: boolean
  /** What is left of the limit, after this cost if it was charged. */
  readonly remaining: number
  /** When the same cost would fit if nobody else came; 0 when it fits now. */
  readonly retryAfterMs: number
  /** When the whole limit is free again if nobody else comes. */
  readonly resetMs: number
}

/** Whether something may happen now, and what is left. */
export interface RateLimitDecision extends Verdict {
  readonly policy: RateLimitPolicy
  /** Who counted: Redis for all processes; `'local'` this process, while Redis is away; `'none'` nobody, as `onUnavailable` says. */
  readonly source: 'redis' | 'local' | 'none'
}

/** A way to count in Redis; one command per decision, so that it is atomic over all processes. */
export interface Algorithm {
  /** Stands in its keys. Final: changing it is a breaking change. */
  readonly letter: string
  connection(ctx: SharedContext): RedisConnection
  /** Resolves once `decide` can be called, so that nobody's deadline pays for the loading of a library. */
  readonly loaded?: () => Promise<unknown>
  decide(client: RedisClient, key: string, policy: RateLimitPolicy, question: Question): Promise<Verdict>
}

import type { SharedContext } from '../context.ts'
import type { RedisClient, RedisConnection } from '../redis/client.ts'

export type RateLimitAlgorithm = 'sliding-window' | 'gcra' | 'fixed-window' | 'concurrency'

/** What a limiter enforces. */
export interface RateLimitPolicy {
  readonly name: string
  /** 0 when it is told with each request. */
  readonly limit: number
  /** With `'concurrency'`: after how long the slots of a process that died are free again. */
  readonly perMs: number
  readonly algorithm: RateLimitAlgorithm
  /** How much at once, with `'gcra'` when it is not `limit`. */
  readonly burst?: number
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

/** A verdict, and to which window a refund would belong. */
export interface Charged extends Verdict {
  readonly at: number
}

/**
 * Who counted: `'redis'` for all processes; `'lease'` this process, from what Redis has granted it; `'known'` nobody,
 * Redis said before that it will not fit yet; `'local'` this process, while Redis is away; `'none'` nobody, as
 * `onUnavailable` says.
 */
export type RateLimitSource = 'redis' | 'lease' | 'known' | 'local' | 'none'

/** Whether something may happen now, and what is left. */
export interface RateLimitDecision extends Verdict {
  /** Of several policies the one that decided: refused the longest, or has the least left. */
  readonly policy: RateLimitPolicy
  readonly source: RateLimitSource
  /** One verdict for each of several policies, in their order. */
  readonly policies?: readonly (Verdict & { readonly policy: RateLimitPolicy })[]
}

/** A cost against a limit. */
export interface Question {
  readonly cost: number
  readonly limit: number
}

/** What a process may spend by itself. */
export interface Grant extends Charged {
  /** 0 when the cost did not fit. */
  readonly granted: number
  /** From the moment it was asked for. */
  readonly validMs: number
}

/** A way to count in Redis; one command each, so that it is atomic over all processes. */
export interface Algorithm {
  /** Stands in its keys. Final: changing it is a breaking change. */
  readonly letter: string
  connection(ctx: SharedContext): RedisConnection
  /** Resolves once the rest can be called, so that nobody's deadline pays for the loading of a library. */
  readonly loaded?: () => Promise<unknown>
  /** Takes the cost if it fits; if not and `blockMs` is not 0, nothing fits for so long. */
  charge(
    client: RedisClient,
    key: string,
    policy: RateLimitPolicy,
    question: Question,
    blockMs: number,
  ): Promise<Charged>
  look(client: RedisClient, key: string, policy: RateLimitPolicy, question: Question): Promise<Charged>
  /** Takes the cost whether it fits or not. */
  force(client: RedisClient, key: string, policy: RateLimitPolicy, question: Question): Promise<Charged>
  /** Takes at least the cost, at most `want`, and no more than `1 / share` of what is left. */
  lease(
    client: RedisClient,
    key: string,
    policy: RateLimitPolicy,
    question: Question & { readonly want: number; readonly share: number },
    blockMs: number,
  ): Promise<Grant>
  /** Gives back what was charged `at`, as far as it still counts. True when there was no room before. */
  refund(
    client: RedisClient,
    key: string,
    policy: RateLimitPolicy,
    question: Question & { readonly at: number },
  ): Promise<boolean>
  block(client: RedisClient, key: string, policy: RateLimitPolicy, ms: number): Promise<unknown>
}

/** The most that can be taken at once. */
export function capacityOf({ algorithm, burst }: RateLimitPolicy, limit: number): number {
  return algorithm === 'gcra' ? (burst ?? limit) : limit
}

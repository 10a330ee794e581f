import { hash } from 'node:crypto'
import { defaultContext, type SharedContext } from '../context.ts'
import { channels } from '../core/channels.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import type { LimitRedis } from './availability.ts'
import { fixedWindow } from './fixed-window.ts'
import { LocalWindow } from './local.ts'
import {
  type OnUnavailable,
  type RateLimiterOptions,
  type ResolvedLimiterOptions,
  resolveRateLimiterOptions,
} from './options.ts'
import type { Algorithm, Question, RateLimitAlgorithm, RateLimitDecision, RateLimitPolicy } from './policy.ts'
import { type RateLimitRoom, roomOf } from './room.ts'
import { slidingWindow } from './sliding-window.ts'

/** A limit of its own, without HTTP. */
export interface RateLimiter {
  readonly policy: RateLimitPolicy
  /**
   * Takes `cost` (default 1) from what `key` has left, or refuses and takes nothing. Decides within 100 ms, whatever Redis does.
   *
   * @throws SharedStateError `ERR_AS_ONE_RATE_LIMIT` for an empty key or a cost that can never fit, `ERR_AS_ONE_CLOSED`,
   * `ERR_AS_ONE_REDIS_CONFIG` when no Redis is configured
   * @example
   * const { allowed, retryAfterMs } = await mails.consume(user.id, { cost: recipients.length })
   */
  consume(key: string | number, options?: { cost?: number }): Promise<RateLimitDecision>
  /** What `consume` would say, without taking anything. */
  peek(key: string | number, options?: { cost?: number }): Promise<RateLimitDecision>
  /**
   * Gives `key` its whole limit back.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_UNAVAILABLE` when Redis did not confirm it
   */
  reset(key: string | number): Promise<void>
}

const ALGORITHMS: Readonly<Record<RateLimitAlgorithm, Algorithm>> = {
  'sliding-window': slidingWindow,
  'fixed-window': fixedWindow,
}

/** Longer keys, and those that are not plain ASCII, are stored by their hash. */
const LONGEST_PLAIN_KEY = 100
/** When to ask again after a refusal for which nobody counted. */
const UNAVAILABLE_RETRY_MS = 1_000

/**
 * A limiter of the default instance, for anything but requests: mails, logins, calls to somebody's API.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 * @example
 * const logins = rateLimiter({ name: 'logins', limit: 5, per: '15m' })
 * if (!(await logins.consume(username)).allowed) return tooManyAttempts()
 */
export function rateLimiter(options: RateLimiterOptions): RateLimiter {
  return createRateLimiter(defaultContext(), options)
}

/**
 * One budget per key for all workers and machines.
 *
 * @throws SharedStateError `ERR_AS_ONE_OPTIONS` that names every mistake in the options
 */
export function createRateLimiter(ctx: SharedContext, options: RateLimiterOptions): RateLimiter {
  const limiter = new Limiter(ctx, resolveRateLimiterOptions(options))
  return {
    policy: limiter.policy,
    consume: (key, { cost = 1 } = {}) => limiter.decide(key, { cost, charge: true }),
    peek: (key, { cost = 1 } = {}) => limiter.decide(key, { cost, charge: false }),
    reset: (key) => limiter.reset(key),
  }
}

export class Limiter {
  readonly policy: RateLimitPolicy
  readonly #ctx: SharedContext
  readonly #room: RateLimitRoom
  readonly #algorithm: Algorithm
  readonly #redis: LimitRedis
  readonly #local: LocalWindow
  readonly #onUnavailable: OnUnavailable

  constructor(ctx: SharedContext, { policy, onUnavailable }: ResolvedLimiterOptions) {
    this.policy = policy
    this.#ctx = ctx
    this.#room = roomOf(ctx)
    this.#room.register(policy)
    this.#algorithm = ALGORITHMS[policy.algorithm]
    this.#algorithm.loaded?.().catch(() => {}) // the first decision tells why
    this.#redis = this.#room.redisFor(this.#algorithm)
    this.#local = new LocalWindow(policy.perMs)
    this.#onUnavailable = onUnavailable
  }

  async decide(key: unknown, question: Question): Promise<RateLimitDecision> {
    const id = idOf(key, this.policy)
    checkCost(question.cost, this.policy)
    const stored = this.#keyOf(id)
    const { policy } = this
    // The number of workers must be known before Redis goes away.
    if (this.#onUnavailable === 'local') this.#ctx.bus.start()
    if (this.#algorithm.loaded) await this.#algorithm.loaded()
    const verdict = await this.#redis.ask(stored, (client) =>
      this.#algorithm.decide(client, stored, policy, question),
    )
    const decision: RateLimitDecision = verdict
      ? { ...verdict, policy, source: 'redis' }
      : this.#decideAlone(id, question)
    if (verdict) this.#room.redisAnswered()
    if (question.charge && channels['rate-limit'].hasSubscribers) {
      channels['rate-limit'].publish({ event: 'decision', key: id, cost: question.cost, ...decision })
    }
    return decision
  }

  async reset(key: unknown): Promise<void> {
    const id = idOf(key, this.policy)
    this.#local.forget(id)
    const stored = this.#keyOf(id)
    const done = await this.#redis.ask(stored, (client) => client.unlink(stored))
    if (done === undefined) throw limitsUnavailable(`the reset of ${this.policy.name}`, this.#redis.label)
  }

  get label(): string {
    return this.#redis.label
  }

  #decideAlone(id: string, question: Question): RateLimitDecision {
    const { policy } = this
    if (this.#onUnavailable === 'local') {
      const share = Math.ceil(policy.limit / this.#room.workersHere())
      return { ...this.#local.decide(id, share, question), policy, source: 'local' }
    }
    const allowed = this.#onUnavailable === 'allow'
    return {
      allowed,
      remaining: allowed ? policy.limit - question.cost : 0,
      retryAfterMs: allowed ? 0 : UNAVAILABLE_RETRY_MS,
      resetMs: 0,
      policy,
      source: 'none',
    }
  }

  /** The tag is the client's key, so that several policies on one client can be decided in one script on a Cluster. */
  #keyOf(id: string): string {
    const { name, perMs } = this.policy
    return this.#ctx.keys.tagged('rate-limit', id, `${name}:${this.#algorithm.letter}${perMs}`)
  }
}

/** An error for which the response should be a 503: Express' own error handler reads `status`. */
export function limitsUnavailable(what: string, label: string): SharedStateError & { readonly status: 503 } {
  const error = new SharedStateError(
    'ERR_AS_ONE_REDIS_UNAVAILABLE',
    `${what} cannot be decided: Redis at ${label} does not answer`,
  )
  return Object.assign(error, { status: 503 as const })
}

/** A hash starts with '#', so no plain key does. */
function idOf(key: unknown, { name }: RateLimitPolicy): string {
  const text = typeof key === 'number' && Number.isFinite(key) ? String(key) : key
  if (typeof text !== 'string' || text === '') {
    throw new SharedStateError(
      'ERR_AS_ONE_RATE_LIMIT',
      `rate limit '${name}': the key must be a non-empty string or a number, got ${show(key)}`,
    )
  }
  if (text.length <= LONGEST_PLAIN_KEY && /^[!-"$-~][!-~]*$/.test(text)) return text
  return `#${hash('sha256', text, 'base64url')}`
}

function checkCost(cost: unknown, { name, limit }: RateLimitPolicy): void {
  if (Number.isSafeInteger(cost) && (cost as number) >= 1 && (cost as number) <= limit) return
  throw new SharedStateError(
    'ERR_AS_ONE_RATE_LIMIT',
    `rate limit '${name}': cost must be a whole number from 1 to the limit of ${limit}, got ${show(cost)}`,
  )
}

import type { SharedContext } from '../context.ts'
import { withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { durationMs } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import { limitsUnavailable } from './availability.ts'
import { Counting, countingOf } from './counting.ts'
import { type Charge, Decision } from './decision.ts'
import { Leased } from './leased.ts'
import type { ConsumeOptions } from './limiter.ts'
import { MAX_PER_MS, type ResolvedLimiterOptions } from './options.ts'
import type { Charged, RateLimitDecision, RateLimitPolicy, RateLimitSource, Verdict } from './policy.ts'
import { PolicySet } from './policy-set.ts'
import { type Memory, type RateLimitRoom, roomOf } from './room.ts'
import { type Slot, Slots } from './slots.ts'
import { isNear, type RateLimitStats } from './stats.ts'
import { checkPenalty, idOf } from './subject.ts'

/** When to ask again after a refusal for which nobody counted. */
const UNAVAILABLE_RETRY_MS = 1_000

/** Decides by what is known here, else by a lease, else by Redis, else as `onUnavailable` says. */
export class Limiter {
  readonly policies: readonly RateLimitPolicy[]
  readonly #options: ResolvedLimiterOptions
  readonly #policies: PolicySet
  readonly #room: RateLimitRoom
  readonly #memory: Memory
  readonly #counting: Counting
  readonly #leased: Leased | undefined
  readonly #slots: Slots | undefined
  readonly #taken = new WeakMap<RateLimitDecision, Slot>()

  constructor(ctx: SharedContext, options: ResolvedLimiterOptions) {
    const policies = new PolicySet(ctx.keys, options.policies)
    const { first } = policies
    const isConcurrency = first.algorithm === 'concurrency'
    this.policies = options.policies
    this.#options = options
    this.#policies = policies
    this.#room = roomOf(ctx)
    this.#memory = this.#room.register(options.policies)
    const connection = isConcurrency ? ctx.redis : countingOf(first).connection(ctx)
    this.#counting = new Counting(this.#room.redisFor(connection), policies, options.blockMs)
    const { algorithm, redis } = this.#counting
    if (options.lease && algorithm) {
      const alone = (id: string, cost: number, limits: readonly number[]): Decision =>
        this.#decideAlone(id, cost, limits, true)
      this.#leased = new Leased(
        {
          policies,
          counting: this.#counting,
          algorithm,
          room: this.#room,
          memory: this.#memory,
          owner: this,
          alone,
        },
        (make) => this.#memory.leases(ctx, make),
      )
    }
    if (isConcurrency) {
      this.#slots = this.#memory.slots(ctx, () => {
        return new Slots(redis, first.perMs, (id) => policies.keyOf(id, first))
      })
    }
  }

  get label(): string {
    return this.#counting.redis.label
  }

  get stats(): RateLimitStats {
    return this.#memory.counters.stats
  }

  /** `beside` is called when Redis is about to be asked: what else there is to ask goes with it. */
  async decide(
    key: unknown,
    charge: boolean,
    asked?: ConsumeOptions,
    beside?: () => void,
  ): Promise<RateLimitDecision> {
    const cost = asked?.cost === undefined ? 1 : asked.cost
    const id = idOf(key, this.#policies.name)
    const limits = this.#policies.limitsOf(asked?.limit)
    this.#policies.check(cost, limits)
    // The number of workers must be known before Redis goes away.
    this.#room.join()
    const deciding = this.#decide(id, cost, limits, charge, beside)
    const decision = await (asked?.signal ? withDeadline(deciding, undefined, never, asked.signal) : deciding)
    if (charge) this.#told(id, cost, decision)
    return decision
  }

  async penalty(key: unknown, cost: number): Promise<RateLimitDecision> {
    const id = idOf(key, this.#policies.name)
    for (const policy of this.policies) checkPenalty(cost, policy)
    if (this.#slots) throw this.#cannot('penalty')
    const limits = this.policies.map(({ limit }) => limit || 1)
    const verdicts = await this.#counting.count(id, 'force', cost, limits)
    if (!verdicts) throw limitsUnavailable(`the penalty of ${this.#policies.name}`, this.label)
    return this.#decisionOf(id, cost, limits, verdicts)
  }

  async refund(decision: unknown): Promise<boolean> {
    if (!Decision.isDecision(decision)) {
      throw new SharedStateError(
        'ERR_AS_ONE_RATE_LIMIT',
        `rate limit '${this.#policies.name}': refund takes the decision itself, as consume resolved it, got ${show(decision)}`,
      )
    }
    const slot = this.#taken.get(decision)
    if (slot) {
      slot.free()
      return this.#taken.delete(decision)
    }
    const charge = Decision.takeCharge(decision, this)
    if (!charge) return false
    if (decision.source === 'lease' && this.#leased?.putBack(charge)) return true
    const { id, cost, limits, at } = charge
    const refunds = this.policies.map((policy, index) =>
      this.#counting.refund(id, policy, cost, limits[index], at[index]),
    )
    const full = (await Promise.all(refunds)).some(Boolean)
    if (full) this.#room.cleared(this.#memory.names, id, false)
    return true
  }

  async block(key: unknown, duration: unknown): Promise<void> {
    const id = idOf(key, this.#policies.name)
    const ms = durationMs(duration)
    if (ms === undefined || ms < 1 || ms > MAX_PER_MS) {
      throw new SharedStateError(
        'ERR_AS_ONE_RATE_LIMIT',
        `rate limit '${this.#policies.name}': a block must last from 1 ms to 31 days, got ${show(duration)}`,
      )
    }
    if (this.#slots) throw this.#cannot('block')
    const blocking = this.#counting.block(id, ms)
    this.#leased?.drop(id)
    await blocking
  }

  async reset(key: unknown): Promise<void> {
    const id = idOf(key, this.#policies.name)
    this.#memory.clear(id, true)
    const stored = this.policies.map((policy) => this.#policies.keyOf(id, policy))
    const done = await this.#counting.redis.ask(stored[0] as string, (client) => client.unlink(...stored))
    if (done === undefined) throw limitsUnavailable(`the reset of ${this.#policies.name}`, this.label)
    this.#room.cleared(this.#memory.names, id, true)
  }

  async #decide(
    id: string,
    cost: number,
    limits: readonly number[],
    charge: boolean,
    beside: (() => void) | undefined,
  ): Promise<RateLimitDecision> {
    if (this.#slots) {
      beside?.()
      return this.#decideSlot(this.#slots, id, cost, limits, charge)
    }
    if (charge) {
      const now = performance.now()
      const lease = this.#leased?.hot(id, now)
      if (lease) return (this.#leased as Leased).decide(lease, id, cost, limits)
      const known = this.#memory.known.look(id, cost, limits, now)
      if (known) return known
    }
    const askedAt = performance.now()
    beside?.()
    const verdicts = await this.#counting.count(id, charge ? 'charge' : 'look', cost, limits)
    if (!verdicts) return this.#decideAlone(id, cost, limits, charge)
    const decision = this.#decisionOf(id, charge ? cost : 0, limits, verdicts)
    if (charge && !decision.allowed) this.#memory.known.add(id, cost, limits, decision, askedAt)
    return decision
  }

  async #decideSlot(
    slots: Slots,
    id: string,
    cost: number,
    limits: readonly number[],
    charge: boolean,
  ): Promise<RateLimitDecision> {
    const limit = limits[0] as number
    const policy = this.#policies.policyOf(0, limit)
    let taken = charge ? await slots.take(id, limit, cost) : await slots.look(id, limit, cost)
    let source: RateLimitSource = 'redis'
    if (taken) this.#room.redisAnswered()
    else if (this.#options.onUnavailable !== 'local') return this.#nobodyCounts(cost, policy)
    else {
      taken = slots.takeAlone(id, this.#share(limit), cost, charge)
      source = 'local'
    }
    if (!('free' in taken)) return new Decision(taken, policy, source)
    const decision = new Decision(taken.verdict, policy, source)
    this.#taken.set(decision, taken)
    return decision
  }

  #decideAlone(id: string, cost: number, limits: readonly number[], charge: boolean): Decision {
    if (this.#options.onUnavailable !== 'local')
      return this.#nobodyCounts(cost, this.#policies.policyOf(0, limits[0] as number))
    const { local } = this.#memory
    const look = (take: boolean): Verdict[] =>
      local.map((window, index) =>
        window.decide(id, this.#share(limits[index] as number), { cost, charge: take }),
      )
    let verdicts = look(false)
    if (charge && verdicts.every(({ allowed }) => allowed)) verdicts = look(true)
    return this.#policies.decision(limits, verdicts, 'local')
  }

  #nobodyCounts(cost: number, policy: RateLimitPolicy): Decision {
    const allowed = this.#options.onUnavailable === 'allow'
    const verdict = {
      allowed,
      remaining: allowed ? policy.limit - cost : 0,
      retryAfterMs: allowed ? 0 : UNAVAILABLE_RETRY_MS,
      resetMs: 0,
    }
    return new Decision(verdict, policy, 'none')
  }

  /** Of this process, while nobody counts for all. */
  #share(limit: number): number {
    return Math.ceil(limit / this.#room.workersHere())
  }

  #decisionOf(id: string, cost: number, limits: readonly number[], verdicts: readonly Charged[]): Decision {
    this.#room.redisAnswered()
    let charge: Charge | undefined
    if (cost > 0 && verdicts.every(({ allowed }) => allowed)) {
      charge = { owner: this, id, cost, limits, at: verdicts.map(({ at }) => at) }
    }
    return this.#policies.decision(limits, verdicts, 'redis', charge)
  }

  #told(id: string, cost: number, decision: RateLimitDecision): void {
    this.#memory.counters.count(decision)
    if (!channels['rate-limit'].hasSubscribers) return
    channels['rate-limit'].publish({
      event: 'decision',
      key: id,
      cost,
      nearLimit: isNear(decision),
      ...decision,
    })
  }

  #cannot(what: string): SharedStateError {
    return new SharedStateError(
      'ERR_AS_ONE_RATE_LIMIT',
      `rate limit '${this.#policies.name}': 'concurrency' has no ${what}; what is in flight ends by itself`,
    )
  }
}

/** Only the signal ends that wait. */
function never(): Error {
  return new Error('unreachable')
}

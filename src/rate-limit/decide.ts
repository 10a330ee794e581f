import type { SharedContext } from '../context.ts'
import { withDeadline } from '../core/abort.ts'
import { channels } from '../core/channels.ts'
import { durationMs } from '../core/duration.ts'
import { SharedStateError } from '../core/errors.ts'
import { show } from '../core/options.ts'
import type { LimitRedis } from './availability.ts'
import { type Charge, Decision } from './decision.ts'
import { fixedWindow } from './fixed-window.ts'
import { gcra } from './gcra.ts'
import { type Lease, Leases } from './lease.ts'
import type { ConsumeOptions } from './limiter.ts'
import { MAX_PER_MS, type ResolvedLimiterOptions } from './options.ts'
import type {
  Algorithm,
  Charged,
  RateLimitAlgorithm,
  RateLimitDecision,
  RateLimitPolicy,
  RateLimitSource,
  Verdict,
} from './policy.ts'
import { type Memory, type RateLimitRoom, roomOf } from './room.ts'
import { decideSeveral } from './several-policies.ts'
import { slidingWindow } from './sliding-window.ts'
import { type Slot, Slots } from './slots.ts'
import { isNear, type RateLimitStats } from './stats.ts'
import { checkCost, checkLimit, checkPenalty, idOf } from './subject.ts'

const COUNTING: Readonly<Record<Exclude<RateLimitAlgorithm, 'concurrency'>, Algorithm>> = {
  'sliding-window': slidingWindow,
  gcra,
  'fixed-window': fixedWindow,
}

/** When to ask again after a refusal for which nobody counted. */
const UNAVAILABLE_RETRY_MS = 1_000
/** Policies with a limit told by each request, by that limit. */
const MAX_POLICIES = 1_000

/** Decides by what is known here, else by a lease, else by Redis, else as `onUnavailable` says. */
export class Limiter {
  readonly policies: readonly RateLimitPolicy[]
  readonly #ctx: SharedContext
  readonly #options: ResolvedLimiterOptions
  readonly #limits: readonly number[]
  readonly #room: RateLimitRoom
  readonly #memory: Memory
  /** Of a single policy; several are one script of their own. */
  readonly #algorithm: Algorithm | undefined
  readonly #redis: LimitRedis
  readonly #leases: Leases | undefined
  readonly #slots: Slots | undefined
  readonly #taken = new WeakMap<RateLimitDecision, Slot>()
  readonly #byLimit = new Map<number, RateLimitPolicy>()

  constructor(ctx: SharedContext, options: ResolvedLimiterOptions) {
    const { policies } = options
    const [first] = policies as [RateLimitPolicy]
    this.policies = policies
    this.#ctx = ctx
    this.#options = options
    this.#limits = policies.map(({ limit }) => limit)
    this.#room = roomOf(ctx)
    this.#memory = this.#room.register(policies)
    const counting = first.algorithm === 'concurrency' ? undefined : COUNTING[first.algorithm]
    this.#algorithm = policies.length === 1 ? counting : undefined
    this.#algorithm?.loaded?.().catch(() => {}) // the first decision tells why
    this.#redis = this.#room.redisFor(counting?.connection(ctx) ?? ctx.redis)
    if (options.lease && this.#algorithm) {
      this.#leases = this.#memory.leases(ctx, () => {
        return new Leases(first.perMs, (id, lease, unused) => this.#giveBack(id, lease, unused))
      })
    }
    if (first.algorithm === 'concurrency') {
      this.#slots = this.#memory.slots(ctx, () => {
        return new Slots(this.#redis, first.perMs, (id) => this.#keyOf(id, first))
      })
    }
  }

  get label(): string {
    return this.#redis.label
  }

  get stats(): RateLimitStats {
    return this.#memory.counters.stats
  }

  async decide(key: unknown, charge: boolean, asked?: ConsumeOptions): Promise<RateLimitDecision> {
    const cost = asked?.cost === undefined ? 1 : asked.cost
    const id = idOf(key, this.#name)
    const limits = asked?.limit === undefined ? this.#limits : this.#limitsOf(asked.limit)
    for (let index = 0; index < limits.length; index++) {
      const policy = this.policies[index] as RateLimitPolicy
      const limit = limits[index] as number
      if (limit === 0) checkLimit(undefined, policy)
      checkCost(cost, policy, limit)
    }
    // The number of workers must be known before Redis goes away.
    this.#room.join()
    const deciding = this.#decide(id, cost, limits, charge)
    const decision = await (asked?.signal ? withDeadline(deciding, undefined, never, asked.signal) : deciding)
    if (charge) this.#told(id, cost, decision)
    return decision
  }

  async penalty(key: unknown, cost: number): Promise<RateLimitDecision> {
    const id = idOf(key, this.#name)
    for (const policy of this.policies) checkPenalty(cost, policy)
    if (this.#slots) throw this.#cannot('penalty')
    const limits = this.#limits.map((limit) => limit || 1)
    const verdicts = await this.#count(id, 'force', cost, limits)
    if (!verdicts) throw limitsUnavailable(`the penalty of ${this.#name}`, this.label)
    return this.#decisionOf(id, cost, limits, verdicts)
  }

  async refund(decision: unknown): Promise<boolean> {
    if (!Decision.isDecision(decision)) {
      throw new SharedStateError(
        'ERR_AS_ONE_RATE_LIMIT',
        `rate limit '${this.#name}': refund takes the decision itself, as consume resolved it, got ${show(decision)}`,
      )
    }
    const slot = this.#taken.get(decision)
    if (slot) {
      slot.free()
      return this.#taken.delete(decision)
    }
    const charge = Decision.takeCharge(decision, this)
    if (!charge) return false
    const { id, cost, limits, at } = charge
    if (this.#leases && decision.source === 'lease') {
      const lease = this.#leases.of(id)
      if (lease.at === at[0] && performance.now() < lease.until) {
        lease.left += cost
        return true
      }
    }
    const refunds = this.policies.map((policy, index) =>
      this.#refundOne(id, policy, cost, limits[index], at[index]),
    )
    const full = (await Promise.all(refunds)).some(Boolean)
    if (full) this.#room.cleared(this.#memory.names, id, false)
    return true
  }

  async block(key: unknown, duration: unknown): Promise<void> {
    const id = idOf(key, this.#name)
    const ms = durationMs(duration)
    if (ms === undefined || ms < 1 || ms > MAX_PER_MS) {
      throw new SharedStateError(
        'ERR_AS_ONE_RATE_LIMIT',
        `rate limit '${this.#name}': a block must last from 1 ms to 31 days, got ${show(duration)}`,
      )
    }
    if (this.#slots) throw this.#cannot('block')
    const blocks = this.policies.map((policy) => {
      const stored = this.#keyOf(id, policy)
      return this.#redis.ask(stored, (client) => countingOf(policy).block(client, stored, policy, ms))
    })
    this.#leases?.drop(id)
    if ((await Promise.all(blocks)).includes(undefined))
      throw limitsUnavailable(`the block of ${this.#name}`, this.label)
  }

  async reset(key: unknown): Promise<void> {
    const id = idOf(key, this.#name)
    this.#memory.clear(id, true)
    const stored = this.policies.map((policy) => this.#keyOf(id, policy))
    const done = await this.#redis.ask(stored[0] as string, (client) => client.unlink(...stored))
    if (done === undefined) throw limitsUnavailable(`the reset of ${this.#name}`, this.label)
    this.#room.cleared(this.#memory.names, id, true)
  }

  get #name(): string {
    return this.#memory.names.join(', ')
  }

  async #decide(
    id: string,
    cost: number,
    limits: readonly number[],
    charge: boolean,
  ): Promise<RateLimitDecision> {
    if (this.#slots) return this.#decideSlot(this.#slots, id, cost, limits, charge)
    if (charge) {
      const now = performance.now()
      const lease = this.#leases?.of(id)
      if (lease?.isHot(now)) return this.#decideLeased(lease, id, cost, limits)
      const known = this.#memory.known.look(id, cost, limits, now)
      if (known) return known
    }
    const askedAt = performance.now()
    const verdicts = await this.#count(id, charge ? 'charge' : 'look', cost, limits)
    if (!verdicts) return this.#decideAlone(id, cost, limits, charge)
    const decision = this.#decisionOf(id, charge ? cost : 0, limits, verdicts)
    if (charge && !decision.allowed) this.#memory.known.add(id, cost, limits, decision, askedAt)
    return decision
  }

  /** The answer of Redis; undefined when it is away. */
  async #count(
    id: string,
    op: 'charge' | 'look' | 'force',
    cost: number,
    limits: readonly number[],
  ): Promise<readonly Charged[] | undefined> {
    const { blockMs } = this.#options
    const algorithm = this.#algorithm
    const [policy] = this.policies as [RateLimitPolicy]
    if (algorithm === undefined) {
      const keys = this.policies.map((each) => this.#keyOf(id, each))
      const question = { op, cost, limits, blockMs }
      return this.#redis.ask(keys[0] as string, (client) =>
        decideSeveral(client, keys, this.policies, question),
      )
    }
    if (algorithm.loaded) await algorithm.loaded()
    const stored = this.#keyOf(id, policy)
    const question = { cost, limit: limits[0] as number }
    const answer = await this.#redis.ask(stored, (client) =>
      algorithm[op](client, stored, policy, question, blockMs),
    )
    return answer && [answer]
  }

  async #decideLeased(
    lease: Lease,
    id: string,
    cost: number,
    limits: readonly number[],
  ): Promise<RateLimitDecision> {
    const limit = limits[0] as number
    for (;;) {
      const now = performance.now()
      if (lease.fits(cost, limit, now)) {
        lease.left -= cost
        const verdict = {
          allowed: true,
          remaining: lease.remaining + lease.left,
          retryAfterMs: 0,
          resetMs: Math.max(0, Math.ceil(lease.resetAt - now)),
        }
        return new Decision(
          verdict,
          this.#policyOf(0, limit),
          'lease',
          this.#chargeOf(id, cost, limits, [lease.at]),
        )
      }
      const known = this.#memory.known.look(id, cost, limits, now)
      if (known) return known
      if (lease.refill === undefined) {
        return (await this.#refill(lease, id, cost, limits)) ?? this.#decideAlone(id, cost, limits, true)
      }
      lease.waiting += cost
      const answered = await lease.refill
      lease.waiting -= cost
      if (!answered) return this.#decideAlone(id, cost, limits, true)
    }
  }

  /** One for all who wait; who asks is decided by Redis at once, and by nothing that could end meanwhile. */
  async #refill(
    lease: Lease,
    id: string,
    cost: number,
    limits: readonly number[],
  ): Promise<RateLimitDecision | undefined> {
    const algorithm = this.#algorithm as Algorithm
    const [policy] = this.policies as [RateLimitPolicy]
    const stored = this.#keyOf(id, policy)
    const limit = limits[0] as number
    let tell: (answered: boolean) => void = () => {}
    lease.refill = new Promise((resolve) => {
      tell = resolve
    })
    let answered = false
    try {
      if (algorithm.loaded) await algorithm.loaded()
      const askedAt = performance.now()
      const { limit: oldLimit, at } = lease
      const unused = lease.next(askedAt, limit)
      if (unused > 0) void this.#giveBack(id, { limit: oldLimit, at }, unused)
      const question = {
        cost,
        limit,
        want: lease.want + lease.waiting + cost,
        share: this.#room.workersEverywhere(),
      }
      let waits = true
      const grant = await this.#redis.ask(stored, async (client) => {
        const granting = await algorithm.lease(client, stored, policy, question, this.#options.blockMs)
        if (!waits && granting.granted > 0)
          void this.#giveBack(id, { limit, at: granting.at }, granting.granted)
        return granting
      })
      waits = false
      if (!grant) return undefined
      answered = true
      this.#room.redisAnswered()
      const decision = new Decision(
        {
          ...grant,
          allowed: grant.granted > 0,
          remaining: grant.remaining + Math.max(0, grant.granted - cost),
        },
        this.#policyOf(0, limit),
        'redis',
        this.#chargeOf(id, grant.granted > 0 ? cost : 0, limits, [grant.at]),
      )
      if (grant.granted > 0) {
        lease.renew(grant, cost, limit, askedAt)
        this.#leases?.renewed()
      } else this.#memory.known.add(id, cost, limits, decision, askedAt)
      return decision
    } finally {
      lease.refill = undefined
      tell(answered)
    }
  }

  /** What nobody spent; if Redis does not hear of it, it counts as spent. */
  async #giveBack(id: string, { limit, at }: { limit: number; at: number }, unused: number): Promise<void> {
    const [policy] = this.policies as [RateLimitPolicy]
    const full = await this.#refundOne(id, policy, unused, limit, at).catch(() => false)
    if (full) this.#room.cleared(this.#memory.names, id, false)
  }

  async #refundOne(id: string, policy: RateLimitPolicy, cost: number, limit = 1, at = 0): Promise<boolean> {
    const stored = this.#keyOf(id, policy)
    const question = { cost, limit, at }
    const full = await this.#redis.ask(stored, (client) =>
      countingOf(policy).refund(client, stored, policy, question),
    )
    if (full === undefined) throw limitsUnavailable(`the refund of ${policy.name}`, this.label)
    return full
  }

  async #decideSlot(
    slots: Slots,
    id: string,
    cost: number,
    limits: readonly number[],
    charge: boolean,
  ): Promise<RateLimitDecision> {
    const limit = limits[0] as number
    const policy = this.#policyOf(0, limit)
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

  #decideAlone(id: string, cost: number, limits: readonly number[], charge: boolean): RateLimitDecision {
    if (this.#options.onUnavailable !== 'local')
      return this.#nobodyCounts(cost, this.#policyOf(0, limits[0] as number))
    const { local } = this.#memory
    const look = (take: boolean): Verdict[] =>
      local.map((window, index) =>
        window.decide(id, this.#share(limits[index] as number), { cost, charge: take }),
      )
    let verdicts = look(false)
    if (charge && verdicts.every(({ allowed }) => allowed)) verdicts = look(true)
    return this.#asDecision(limits, verdicts, 'local')
  }

  #nobodyCounts(cost: number, policy: RateLimitPolicy): RateLimitDecision {
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
    const charged = cost > 0 && verdicts.every(({ allowed }) => allowed)
    const at = verdicts.map((verdict) => verdict.at)
    return this.#asDecision(
      limits,
      verdicts,
      'redis',
      charged ? this.#chargeOf(id, cost, limits, at) : undefined,
    )
  }

  #asDecision(
    limits: readonly number[],
    verdicts: readonly Verdict[],
    source: RateLimitSource,
    charge?: Charge,
  ): Decision {
    const [only] = verdicts as [Verdict]
    if (verdicts.length === 1)
      return new Decision(only, this.#policyOf(0, limits[0] as number), source, charge)
    const all = verdicts.map(({ allowed, remaining, retryAfterMs, resetMs }, index) => ({
      allowed,
      remaining,
      retryAfterMs,
      resetMs,
      policy: this.#policyOf(index, limits[index] as number),
    }))
    return Decision.ofSeveral(all, source, charge)
  }

  #chargeOf(id: string, cost: number, limits: readonly number[], at: readonly number[]): Charge | undefined {
    return cost === 0 ? undefined : { owner: this, id, cost, limits, at }
  }

  /** With the limit it was asked for. */
  #policyOf(index: number, limit: number): RateLimitPolicy {
    const policy = this.policies[index] as RateLimitPolicy
    if (policy.limit === limit) return policy
    if (this.policies.length > 1) return { ...policy, limit }
    let made = this.#byLimit.get(limit)
    if (!made) {
      if (this.#byLimit.size >= MAX_POLICIES) this.#byLimit.clear()
      made = Object.freeze({ ...policy, limit })
      this.#byLimit.set(limit, made)
    }
    return made
  }

  #limitsOf(limit: number | readonly number[]): readonly number[] {
    const limits = Array.isArray(limit) ? (limit as readonly number[]) : [limit as number]
    if (limits.length !== this.policies.length) {
      throw new SharedStateError(
        'ERR_AS_ONE_RATE_LIMIT',
        `rate limit '${this.#name}': limit must be ${this.policies.length} numbers, one for each policy, got ${limits.length}`,
      )
    }
    return limits.map((each, index) => checkLimit(each, this.policies[index] as RateLimitPolicy))
  }

  /** The tag is the client's key, so that several policies on one client can be decided in one script on a Cluster. */
  #keyOf(id: string, { name, perMs, algorithm }: RateLimitPolicy): string {
    const letter = algorithm === 'concurrency' ? 'c' : COUNTING[algorithm].letter
    return this.#ctx.keys.tagged('rate-limit', id, `${name}:${letter}${perMs}`)
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
      `rate limit '${this.#name}': 'concurrency' has no ${what}; what is in flight ends by itself`,
    )
  }
}

function countingOf({ algorithm }: RateLimitPolicy): Algorithm {
  return COUNTING[algorithm as Exclude<RateLimitAlgorithm, 'concurrency'>]
}

/** Only the signal ends that wait. */
function never(): Error {
  return new Error('unreachable')
}

/** An error for which the response should be a 503: Express' own error handler reads `status`. */
export function limitsUnavailable(what: string, label: string): SharedStateError {
  return new SharedStateError(
    'ERR_AS_ONE_REDIS_UNAVAILABLE',
    `${what} cannot be decided: Redis at ${label} does not answer`,
  )
}

import type { Counting } from './counting.ts'
import { type Charge, Decision } from './decision.ts'
import { type Lease, Leases } from './lease.ts'
import type { Algorithm } from './policy.ts'
import type { PolicySet } from './policy-set.ts'
import type { Memory, RateLimitRoom } from './room.ts'

/** What the decisions about a busy key need of their limiter. */
export interface LeasedOptions {
  readonly policies: PolicySet
  readonly counting: Counting
  readonly algorithm: Algorithm
  readonly room: RateLimitRoom
  readonly memory: Memory
  /** Who may give back what was charged. */
  readonly owner: object
  /** Decides while Redis is away. */
  readonly alone: (id: string, cost: number, limits: readonly number[]) => Decision
}

/** Decisions about busy keys: from what Redis has granted this process, as long as it lasts. */
export class Leased {
  readonly #options: LeasedOptions
  readonly #leases: Leases

  /** The leases are those of all limiters of the same name. */
  constructor(options: LeasedOptions, leasesOf: (make: () => Leases) => Leases) {
    this.#options = options
    const { perMs } = options.policies.first
    this.#leases = leasesOf(() => new Leases(perMs, (id, lease, unused) => this.#giveBack(id, lease, unused)))
  }

  /** To be called for each charge: undefined for a key that is not worth a lease. */
  hot(id: string, now: number): Lease | undefined {
    const lease = this.#leases.of(id)
    return lease.isHot(now) ? lease : undefined
  }

  drop(id: string): void {
    this.#leases.drop(id)
  }

  /** True when what was spent of a lease could still be put back into it. */
  putBack({ id, cost, at }: Charge): boolean {
    const lease = this.#leases.of(id)
    if (lease.at !== at[0] || performance.now() >= lease.until) return false
    lease.left += cost
    return true
  }

  async decide(lease: Lease, id: string, cost: number, limits: readonly number[]): Promise<Decision> {
    const { policies, memory, alone } = this.#options
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
          policies.policyOf(0, limit),
          'lease',
          this.#charge(id, cost, limits, lease.at),
        )
      }
      const known = memory.known.look(id, cost, limits, now)
      if (known) return known
      if (lease.refill === undefined) {
        return (await this.#refill(lease, id, cost, limits)) ?? alone(id, cost, limits)
      }
      lease.waiting += cost
      const answered = await lease.refill
      lease.waiting -= cost
      if (!answered) return alone(id, cost, limits)
    }
  }

  /** One for all who wait; who asks is decided by Redis at once, and by nothing that could end meanwhile. */
  async #refill(
    lease: Lease,
    id: string,
    cost: number,
    limits: readonly number[],
  ): Promise<Decision | undefined> {
    const { policies, counting, algorithm, room, memory } = this.#options
    const { first: policy } = policies
    const stored = policies.keyOf(id, policy)
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
        share: room.workersEverywhere(),
      }
      let waits = true
      const grant = await counting.redis.ask(stored, async (client) => {
        const granting = await algorithm.lease(client, stored, policy, question, counting.blockMs)
        if (!waits && granting.granted > 0)
          void this.#giveBack(id, { limit, at: granting.at }, granting.granted)
        return granting
      })
      waits = false
      if (!grant) return undefined
      answered = true
      room.redisAnswered()
      const decision = new Decision(
        {
          ...grant,
          allowed: grant.granted > 0,
          remaining: grant.remaining + Math.max(0, grant.granted - cost),
        },
        policies.policyOf(0, limit),
        'redis',
        grant.granted > 0 ? this.#charge(id, cost, limits, grant.at) : undefined,
      )
      if (grant.granted > 0) {
        lease.renew(grant, cost, limit, askedAt)
        this.#leases.renewed()
      } else memory.known.add(id, cost, limits, decision, askedAt)
      return decision
    } finally {
      lease.refill = undefined
      tell(answered)
    }
  }

  #charge(id: string, cost: number, limits: readonly number[], at: number): Charge {
    return { owner: this.#options.owner, id, cost, limits, at: [at] }
  }

  /** What nobody spent; if Redis does not hear of it, it counts as spent. */
  async #giveBack(id: string, { limit, at }: { limit: number; at: number }, unused: number): Promise<void> {
    const { counting, policies, room, memory } = this.#options
    const full = await counting.refund(id, policies.first, unused, limit, at).catch(() => false)
    if (full) room.cleared(memory.names, id, false)
  }
}

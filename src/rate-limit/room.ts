import { hostname } from 'node:os'
import type { SharedContext } from '../context.ts'
import { SharedStateError } from '../core/errors.ts'
import type { RedisConnection } from '../redis/client.ts'
import { LimitRedis } from './availability.ts'
import { KnownRefusals } from './known-refusals.ts'
import type { Leases } from './lease.ts'
import { LocalWindow } from './local.ts'
import type { RateLimitPolicy } from './policy.ts'
import type { Slots } from './slots.ts'
import { Counters } from './stats.ts'

const machine = hostname()
/** Tells all processes that a key has room again before it was to be expected. */
const TOPIC = 'as-one.rate-limit'

/** What limiters of the same names remember in this process. */
export class Memory {
  readonly names: readonly string[]
  readonly known: KnownRefusals = new KnownRefusals()
  /** One for each policy. */
  readonly local: readonly LocalWindow[]
  readonly counters: Counters = new Counters()
  #leases: Leases | undefined
  #slots: Slots | undefined

  constructor(policies: readonly RateLimitPolicy[]) {
    this.names = policies.map(({ name }) => name)
    this.local = policies.map(({ perMs }) => new LocalWindow(perMs))
  }

  clear(id: string, reset: boolean): void {
    this.known.clear(id, performance.now())
    if (!reset) return
    for (const local of this.local) local.forget(id)
    this.#leases?.drop(id)
    this.#slots?.forget(id)
  }

  leases(ctx: SharedContext, make: () => Leases): Leases {
    if (!this.#leases) {
      const made = make()
      ctx.closing.add(() => made.close())
      this.#leases = made
    }
    return this.#leases
  }

  slots(ctx: SharedContext, make: () => Slots): Slots {
    if (!this.#slots) {
      const made = make()
      ctx.closing.add(() => made.close())
      this.#slots = made
    }
    return this.#slots
  }
}

/** What all limiters of one instance share. */
export class RateLimitRoom {
  readonly #ctx: SharedContext
  readonly #policies = new Map<string, RateLimitPolicy>()
  readonly #memories = new Map<string, Memory>()
  readonly #redis = new Map<RedisConnection, LimitRedis>()
  #mostWorkers = 1
  #listening = false

  constructor(ctx: SharedContext) {
    this.#ctx = ctx
  }

  /** @throws SharedStateError `ERR_AS_ONE_OPTIONS` when another limiter enforces other numbers under a name */
  register(policies: readonly RateLimitPolicy[]): Memory {
    for (const policy of policies) {
      const known = this.#policies.get(policy.name)
      if (known && inWords(known) !== inWords(policy)) {
        throw new SharedStateError(
          'ERR_AS_ONE_OPTIONS',
          `rateLimit: name '${policy.name}' is already used by a limiter with ${inWords(known)}, this one has ` +
            `${inWords(policy)}; give one of them another name`,
        )
      }
    }
    for (const policy of policies) this.#policies.set(policy.name, policy)
    const names = policies.map(({ name }) => name).join()
    const memory = this.#memories.get(names) ?? new Memory(policies)
    this.#memories.set(names, memory)
    return memory
  }

  redisFor(connection: RedisConnection): LimitRedis {
    let redis = this.#redis.get(connection)
    if (!redis) {
      redis = new LimitRedis(connection)
      this.#redis.set(connection, redis)
      const opened = redis
      this.#ctx.closing.add(() => opened.close())
    }
    return redis
  }

  /**
   * Called by every decision; a limiter that is made joins nothing.
   *
   * @throws SharedStateError `ERR_AS_ONE_REDIS_CONFIG`, `ERR_AS_ONE_CLOSED`
   */
  join(): void {
    if (this.#listening) return
    this.#ctx.bus.start() // throws when no Redis is configured, where the caller hears it
    this.#listening = true
    this.#ctx.bus.subscribe(TOPIC, (message) => this.#heard(message)).ready.catch(() => {}) // without Redis there is nothing to hear, and the bus goes on trying
  }

  /** `id` has room again under each of `names`: to be believed here at once, elsewhere as soon as they hear it. */
  cleared(names: readonly string[], id: string, reset: boolean): void {
    this.#clear(names, id, reset)
    this.#ctx.bus.broadcast(TOPIC, { names, id, reset })
  }

  /** Told by every decision of Redis. */
  redisAnswered(): void {
    this.#mostWorkers = 1
  }

  /**
   * How many processes of this machine share the limit while Redis is away. Without our primary they lose sight of each
   * other then, so the highest number seen since Redis last answered counts.
   */
  workersHere(): number {
    let seen = 0
    for (const member of this.#ctx.bus.members()) if (member.machine === machine) seen += 1
    this.#mostWorkers = Math.max(this.#mostWorkers, seen)
    return this.#mostWorkers
  }

  /** Of all machines: among so many what is left of a limit is divided. */
  workersEverywhere(): number {
    return Math.max(1, this.#ctx.bus.members().length)
  }

  #heard(message: unknown): void {
    const { names, id, reset } = (message ?? {}) as Record<string, unknown>
    if (Array.isArray(names) && typeof id === 'string') this.#clear(names, id, reset === true)
  }

  #clear(names: readonly unknown[], id: string, reset: boolean): void {
    for (const memory of this.#memories.values()) {
      if (memory.names.some((name) => names.includes(name))) memory.clear(id, reset)
    }
  }
}

const rooms = new WeakMap<SharedContext, RateLimitRoom>()

export function roomOf(ctx: SharedContext): RateLimitRoom {
  const room = rooms.get(ctx) ?? new RateLimitRoom(ctx)
  rooms.set(ctx, room)
  return room
}

function inWords({ limit, perMs, algorithm, burst }: RateLimitPolicy): string {
  const numbers = `${limit === 0 ? 'a limit per request' : `limit ${limit}`} per ${perMs} ms`
  return `${numbers} (${algorithm}${burst === undefined ? '' : `, burst ${burst}`})`
}

import { hostname } from 'node:os'
import type { SharedContext } from '../context.ts'
import { SharedStateError } from '../core/errors.ts'
import type { RedisConnection } from '../redis/client.ts'
import { LimitRedis } from './availability.ts'
import type { Algorithm, RateLimitPolicy } from './policy.ts'

const machine = hostname()

/** What all limiters of one instance share. */
export class RateLimitRoom {
  readonly #ctx: SharedContext
  readonly #policies = new Map<string, RateLimitPolicy>()
  readonly #redis = new Map<RedisConnection, LimitRedis>()
  #mostWorkers = 1

  constructor(ctx: SharedContext) {
    this.#ctx = ctx
  }

  /** @throws SharedStateError `ERR_AS_ONE_OPTIONS` when another limiter enforces other numbers under this name */
  register(policy: RateLimitPolicy): void {
    const known = this.#policies.get(policy.name)
    if (known && !isSame(known, policy)) {
      throw new SharedStateError(
        'ERR_AS_ONE_OPTIONS',
        `rateLimit: name '${policy.name}' is already used by a limiter with ${inWords(known)}, this one has ` +
          `${inWords(policy)}; give one of them another name`,
      )
    }
    this.#policies.set(policy.name, policy)
  }

  redisFor(algorithm: Algorithm): LimitRedis {
    const connection = algorithm.connection(this.#ctx)
    let redis = this.#redis.get(connection)
    if (!redis) {
      redis = new LimitRedis(connection)
      this.#redis.set(connection, redis)
      const opened = redis
      this.#ctx.closing.add(() => opened.close())
    }
    return redis
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
}

const rooms = new WeakMap<SharedContext, RateLimitRoom>()

export function roomOf(ctx: SharedContext): RateLimitRoom {
  const room = rooms.get(ctx) ?? new RateLimitRoom(ctx)
  rooms.set(ctx, room)
  return room
}

function isSame(a: RateLimitPolicy, b: RateLimitPolicy): boolean {
  return a.limit === b.limit && a.perMs === b.perMs && a.algorithm === b.algorithm
}

function inWords({ limit, perMs, algorithm }: RateLimitPolicy): string {
  return `limit ${limit} per ${perMs} ms (${algorithm})`
}

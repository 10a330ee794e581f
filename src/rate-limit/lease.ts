import type { Grant } from './policy.ts'

/** Asked for so often within the time below, a key is worth a lease: 50 per second. */
const HOT_COUNT = 5
const HOT_MS = 100
const FIRST_WANT = 8
/** About 3 MB per limiter at worst; the longest unused one is forgotten. */
const MAX_KEYS = 10_000

/** What this process may still spend of one key by itself. */
export class Lease {
  left = 0
  /** On `performance.now()`: the clock of a worker may be set, this one not. */
  until = 0
  limit = 0
  at = 0
  /** What Redis has left beside all leases, and when all of it is free. */
  remaining = 0
  resetAt = 0
  /** What callers who wait for the refill under way cost. */
  waiting = 0
  /** Resolves to false when Redis did not answer. */
  refill: Promise<boolean> | undefined
  want: number = FIRST_WANT
  #count = 0
  #since = 0
  #hot = false

  /** To be called at every use. A key that comes once in a while is decided by Redis, and strands nothing. */
  isHot(now: number): boolean {
    if (now - this.#since > HOT_MS) {
      this.#hot = this.#count >= HOT_COUNT
      this.#count = 0
      this.#since = now
    }
    this.#count += 1
    if (this.#count >= HOT_COUNT) this.#hot = true
    return this.#hot
  }

  fits(cost: number, limit: number, now: number): boolean {
    return cost <= this.left && now < this.until && limit === this.limit
  }

  /** As much again and again as was spent in time, half as much when most was not. Returns what is left of the last one. */
  next(now: number, limit: number): number {
    const { left } = this
    if (this.until > 0) {
      if (left > this.want / 2) this.want = Math.max(FIRST_WANT, Math.floor(this.want / 2))
      else if (now < this.until) this.want = Math.min(limit, this.want * 2)
    }
    this.left = 0
    return left
  }

  /**
   * `askedAt` is before Redis counted, so the end is never after the one Redis means: to the millisecond, of which
   * Redis counts whole ones, so one is taken off.
   */
  renew(
    { granted, remaining, resetMs, validMs, at }: Grant,
    cost: number,
    limit: number,
    askedAt: number,
  ): void {
    this.left = granted - cost
    this.until = askedAt + validMs - 1
    this.limit = limit
    this.at = at
    this.remaining = remaining
    this.resetAt = askedAt + resetMs
  }

  drop(): void {
    this.left = 0
    this.until = 0
  }
}

/** The leases of one limiter. What is not spent in time goes back. */
export class Leases {
  readonly #keys = new Map<string, Lease>()
  readonly #sweepMs: number
  readonly #giveBack: (id: string, lease: Lease, unused: number) => Promise<void>
  #timer: NodeJS.Timeout | undefined

  constructor(perMs: number, giveBack: (id: string, lease: Lease, unused: number) => Promise<void>) {
    this.#sweepMs = Math.max(10, Math.min(1_000, perMs / 10))
    this.#giveBack = giveBack
  }

  of(id: string): Lease {
    let lease = this.#keys.get(id)
    if (lease === undefined) {
      if (this.#keys.size >= MAX_KEYS) this.#forget(this.#keys.keys().next().value as string)
      lease = new Lease()
      this.#keys.set(id, lease)
    }
    return lease
  }

  /** To be called when a lease has been renewed. */
  renewed(): void {
    this.#timer ??= setTimeout(() => this.#sweep(), this.#sweepMs).unref()
  }

  drop(id: string): void {
    this.#keys.get(id)?.drop()
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    const returning = [...this.#keys].map(([id, lease]) => this.#return(id, lease))
    this.#keys.clear()
    await Promise.all(returning)
  }

  #sweep(): void {
    this.#timer = undefined
    const now = performance.now()
    let more = false
    for (const [id, lease] of this.#keys) {
      if (lease.left === 0) continue
      if (now < lease.until) more = true
      else void this.#return(id, lease)
    }
    if (more) this.renewed()
  }

  #forget(id: string): void {
    const lease = this.#keys.get(id)
    this.#keys.delete(id)
    if (lease) void this.#return(id, lease)
  }

  async #return(id: string, lease: Lease): Promise<void> {
    const unused = lease.next(performance.now(), lease.limit)
    if (unused > 0) await this.#giveBack(id, lease, unused)
  }
}

import type { RateLimitDecision } from './policy.ts'

/** For libraries that give back by key. Beyond so many the keys longest unseen are forgotten. */
const MAX_CHARGES = 20_000

interface Recent {
  readonly decision: RateLimitDecision
  readonly cost: number
}

/** What this process has charged lately, so that what is given back goes to the window it came from. */
export class RecentCharges {
  readonly #keys = new Map<string, Recent[]>()
  #size = 0

  add(key: string, decision: RateLimitDecision, cost: number): void {
    const charges = this.#keys.get(key) ?? []
    this.#keys.delete(key)
    this.#keys.set(key, charges)
    charges.push({ decision, cost })
    this.#size += 1
    while (this.#size > MAX_CHARGES) this.forget(this.#keys.keys().next().value as string)
  }

  /** The newest ones that cost no more than `cost` together. */
  take(key: string, cost: number): readonly RateLimitDecision[] {
    const charges = this.#keys.get(key) ?? []
    const taken: RateLimitDecision[] = []
    for (let left = cost; charges.length > 0; ) {
      const newest = charges.at(-1) as Recent
      left -= newest.cost
      if (left < 0) break
      charges.pop()
      this.#size -= 1
      taken.push(newest.decision)
    }
    if (charges.length === 0) this.#keys.delete(key)
    return taken
  }

  forget(key: string): void {
    this.#size -= this.#keys.get(key)?.length ?? 0
    this.#keys.delete(key)
  }
}

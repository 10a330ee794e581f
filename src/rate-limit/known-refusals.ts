import type { Decision } from './decision.ts'

/** About 5 MB per limiter at worst; a flood of refused keys beyond it makes Redis be asked again. */
const MAX_KEYS = 10_000

interface Refusal {
  readonly decision: Decision
  readonly askedAt: number
  /** Not after the moment Redis named: it said "in so long" after we had asked. */
  readonly until: number
  readonly cost: number
  readonly limits: readonly number[]
}

/** What need not be asked: Redis has said when it will fit. */
export class KnownRefusals {
  readonly #keys = new Map<string, Refusal>()
  #clearedAt = Number.NEGATIVE_INFINITY

  add(id: string, cost: number, limits: readonly number[], decision: Decision, askedAt: number): void {
    // Asked before room was made, answered after: no longer true.
    if (askedAt <= this.#clearedAt) return
    this.#keys.delete(id)
    if (this.#keys.size >= MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value as string)
    this.#keys.set(id, { decision, askedAt, until: askedAt + decision.retryAfterMs, cost, limits })
  }

  /** A smaller cost or a higher limit may fit. */
  look(id: string, cost: number, limits: readonly number[], now: number): Decision | undefined {
    const known = this.#keys.get(id)
    if (known === undefined) return undefined
    if (now >= known.until) {
      this.#keys.delete(id)
      return undefined
    }
    if (cost < known.cost) return undefined
    if (limits !== known.limits && limits.some((limit, index) => limit > (known.limits[index] as number))) {
      return undefined
    }
    return known.decision.later(now - known.askedAt)
  }

  clear(id: string, now: number): void {
    this.#clearedAt = now
    this.#keys.delete(id)
  }
}

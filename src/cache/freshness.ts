import { toLocalMs } from '../core/monotonic.ts'

/**
 * How long copies may be used without asking Redis: the hub has sent a PING at a moment t and got its answer, and all
 * it heard before has been told here; so until t + maxStaleness no copy is older than the bound, whatever happens.
 */
export class Freshness {
  readonly #maxStalenessMs: number
  #validUntil = Number.NEGATIVE_INFINITY
  /** False until the hub has proven something: before that it may not have known that we listen. */
  synced = false
  /** Why there is no proof. */
  reason: string

  constructor(maxStalenessMs: number, reason: string) {
    this.#maxStalenessMs = maxStalenessMs
    this.reason = reason
  }

  isProven(now: number = performance.now()): boolean {
    return now <= this.#validUntil
  }

  /** `at`: when the PING was sent, by the machine's monotonic clock. */
  proven(at: number): void {
    this.synced = true
    this.reason = 'no proof of freshness in time'
    this.#validUntil = Math.max(this.#validUntil, toLocalMs(at) + this.#maxStalenessMs)
  }

  lost(reason: string): void {
    this.synced = false
    this.reason = reason
    this.#validUntil = Number.NEGATIVE_INFINITY
  }
}

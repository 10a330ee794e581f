const FAILURES = 5
const WITHIN_MS = 1_000
const PROBE_EVERY_MS = 500

/**
 * Keeps calls from waiting for a Redis that does not answer: five failures, or one timeout, and only one call in
 * half a second is let through until one succeeds.
 */
export class Breaker {
  #open = false
  #nextProbe = 0
  #failures = 0
  #firstFailure = 0

  allows(): boolean {
    if (!this.#open) return true
    const now = performance.now()
    if (now < this.#nextProbe) return false
    this.#nextProbe = now + PROBE_EVERY_MS
    return true
  }

  succeeded(): void {
    this.#open = false
    this.#failures = 0
  }

  failed(): void {
    const now = performance.now()
    if (now - this.#firstFailure > WITHIN_MS) {
      this.#firstFailure = now
      this.#failures = 0
    }
    this.#failures += 1
    if (this.#failures >= FAILURES) this.#trip(now)
  }

  timedOut(): void {
    this.#trip(performance.now())
  }

  #trip(now: number): void {
    if (!this.#open) this.#nextProbe = now + PROBE_EVERY_MS
    this.#open = true
  }
}

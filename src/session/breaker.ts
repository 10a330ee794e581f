const FAILURES = 5
const WINDOW_MS = 1_000
const PROBE_EVERY_MS = 500

/**
 * Remembers that a Redis is away, so that requests need not find out one by one: open after one timeout or 5 failures
 * in a second, until a probe is answered.
 */
export class Breaker {
  /** When the last failures were, oldest first. */
  #failures: number[] = []
  #cause: unknown
  #probeAt = 0

  /** Why it is open; undefined when it is closed. */
  get cause(): unknown {
    return this.#cause
  }

  failed(error: unknown, isTimeout: boolean): void {
    const now = performance.now()
    this.#failures = [...this.#failures.filter((at) => now - at < WINDOW_MS), now]
    if (this.#cause === undefined && !isTimeout && this.#failures.length < FAILURES) return
    if (this.#cause === undefined) this.#probeAt = now + PROBE_EVERY_MS
    this.#cause = error
  }

  /** True once per half second while it is open: it is time to ask again. */
  isProbeDue(): boolean {
    const now = performance.now()
    if (this.#cause === undefined || now < this.#probeAt) return false
    this.#probeAt = now + PROBE_EVERY_MS
    return true
  }

  close(): void {
    this.#failures = []
    this.#cause = undefined
  }
}

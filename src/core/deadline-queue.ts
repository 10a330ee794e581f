interface Waiting {
  readonly until: number
  giveUp(): void
}

/** Many waits of the same length on one timer: those added first are due first. */
export class DeadlineQueue {
  readonly #waitMs: number
  readonly #waiting = new Set<Waiting>()
  #timer: NodeJS.Timeout | undefined

  constructor(waitMs: number) {
    this.#waitMs = waitMs
  }

  /** Calls `giveUp` when the time is over, unless the returned function has been called before. */
  add(giveUp: () => void): () => void {
    const waiting = { until: performance.now() + this.#waitMs, giveUp }
    this.#waiting.add(waiting)
    this.#timer ??= this.#wakeIn(this.#waitMs)
    return () => this.#waiting.delete(waiting)
  }

  #wakeIn(ms: number): NodeJS.Timeout {
    return setTimeout(() => this.#giveUpLate(), ms).unref()
  }

  #giveUpLate(): void {
    const now = performance.now()
    this.#timer = undefined
    for (const waiting of this.#waiting) {
      if (waiting.until > now) {
        this.#timer = this.#wakeIn(waiting.until - now)
        return
      }
      this.#waiting.delete(waiting)
      waiting.giveUp()
    }
  }
}

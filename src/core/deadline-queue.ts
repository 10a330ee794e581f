interface Waiting {
  readonly until: number
  giveUp(): void
}

/** Many waits of the same length on one timer: they end in the order they began. */
export class DeadlineQueue {
  readonly waitMs: number
  readonly #waiting = new Set<Waiting>()
  #timer: NodeJS.Timeout | undefined

  constructor(waitMs: number) {
    this.waitMs = waitMs
  }

  /** Calls `giveUp` when the time is over, unless the returned function has been called before. */
  add(giveUp: () => void): () => void {
    const waiting = { until: performance.now() + this.waitMs, giveUp }
    this.#waiting.add(waiting)
    this.#timer ??= this.#wakeIn(this.waitMs)
    return () => this.#waiting.delete(waiting)
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #wakeIn(ms: number): NodeJS.Timeout {
    // After a stalled event loop, timers come before the sockets: an answer that lies there already shall count.
    return setTimeout(() => setImmediate(() => this.#giveUpLate()), ms).unref()
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

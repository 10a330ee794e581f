/**
 * Gives up on answers that take too long. All wait equally long, so they end in the order they began and one timer is
 * enough for any number of them.
 */
export class Deadlines {
  readonly #ms: number
  readonly #waiting = new Set<Waiting>()
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number) {
    this.#ms = ms
  }

  /** What `start` resolves to; rejects with a `DeadlineError` when that takes too long. A late answer is observed and dropped. */
  within<T>(start: () => Promise<T>): Promise<T> {
    // Its own promise per call, so that a late answer reaches the caller in the caller's async context.
    return new Promise<T>((resolve, reject) => {
      const waiting: Waiting = { until: performance.now() + this.#ms, giveUp: reject }
      this.#waiting.add(waiting)
      this.#timer ??= this.#wakeIn(this.#ms)
      const settle = (): boolean => this.#waiting.delete(waiting)
      let answer: Promise<T>
      try {
        answer = start()
      } catch (error) {
        settle()
        throw error
      }
      answer.then(
        (value) => {
          settle()
          resolve(value)
        },
        (error: unknown) => {
          settle()
          reject(error)
        },
      )
    })
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
      waiting.giveUp(new DeadlineError(`no answer within ${this.#ms} ms`))
    }
  }
}

export class DeadlineError extends Error {}

interface Waiting {
  readonly until: number
  giveUp(error: Error): void
}

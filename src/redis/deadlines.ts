import { DeadlineQueue } from '../core/deadline-queue.ts'

/** Gives up on answers that take too long. All wait equally long, so one timer is enough for any number of them. */
export class Deadlines {
  readonly #queue: DeadlineQueue

  constructor(ms: number) {
    this.#queue = new DeadlineQueue(ms)
  }

  /** What `start` resolves to; rejects with a `DeadlineError` when that takes too long. A late answer is observed and dropped. */
  within<T>(start: () => Promise<T>): Promise<T> {
    // Its own promise per call, so that a late answer reaches the caller in the caller's async context.
    return new Promise<T>((resolve, reject) => {
      const inTime = this.#queue.add(() =>
        reject(new DeadlineError(`no answer within ${this.#queue.waitMs} ms`)),
      )
      let answer: Promise<T>
      try {
        answer = start()
      } catch (error) {
        inTime()
        throw error
      }
      answer.then(
        (value) => {
          inTime()
          resolve(value)
        },
        (error: unknown) => {
          inTime()
          reject(error)
        },
      )
    })
  }

  close(): void {
    this.#queue.close()
  }
}

export class DeadlineError extends Error {}

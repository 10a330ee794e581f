import { performance } from 'node:perf_hooks' // the global one is found by a getter at every use

/** How often the clock of waits is read, by parts of a wait. */
const LOOKS = 10
/** A turn of the event loop counts as this part of a wait at most, however long it was. */
const TURNS = 3

/**
 * Many waits of the same length on one timer: they end in the order they began. Only time in which the event loop went
 * round counts: after a stall the question may not even have been sent, and an answer has some turns to be read in.
 * A wait gets longer than `waitMs` only where single turns take more than a third of it.
 */
export class DeadlineQueue {
  readonly waitMs: number
  /** The ring's anchor: what waits longest comes after it, what came last before it. */
  readonly #ring = new Waiting(Number.POSITIVE_INFINITY, undefined)
  /** The clock of waits, and when it was read last. */
  #clock = 0
  #lookedAt = 0
  #timer: NodeJS.Timeout | undefined

  constructor(waitMs: number) {
    this.waitMs = waitMs
  }

  /** Calls `giveUp` when the time is over, unless the returned function has been called before. */
  add(giveUp: () => void): () => void {
    if (this.#timer === undefined) {
      this.#lookedAt = performance.now()
      this.#wakeIn(this.waitMs)
    }
    const waiting = new Waiting(this.#now() + this.waitMs, giveUp)
    waiting.enter(this.#ring)
    return () => waiting.leave()
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #now(): number {
    return this.#clock + Math.min(performance.now() - this.#lookedAt, this.waitMs / TURNS)
  }

  #wakeIn(ms: number): void {
    // After a stalled event loop, timers come before the sockets: an answer that lies there already shall count.
    const look = (): void => void setImmediate(() => this.#giveUpLate())
    this.#timer = setTimeout(look, Math.min(ms, this.waitMs / LOOKS)).unref()
  }

  #giveUpLate(): void {
    const now = this.#now()
    this.#clock = now
    this.#lookedAt = performance.now()
    this.#timer = undefined
    for (let first = this.#ring.later; first !== this.#ring; first = this.#ring.later) {
      if (first.until > now) {
        this.#wakeIn(first.until - now)
        return
      }
      first.leave()?.()
    }
  }
}

/**
 * A ring and not a Set: whenever a Set has grown, its old table keeps what was in it and leads to the new one, so that
 * one table that the garbage collector has moved to the old generation keeps all later waits, and their requests, too.
 * Measured with sessions: 10 µs of each request.
 */
class Waiting {
  readonly until: number
  later: Waiting = this
  #earlier: Waiting = this
  #giveUp: (() => void) | undefined

  constructor(until: number, giveUp: (() => void) | undefined) {
    this.until = until
    this.#giveUp = giveUp
  }

  /** Goes to the end of `ring`. */
  enter(ring: Waiting): void {
    this.later = ring
    this.#earlier = ring.#earlier
    ring.#earlier.later = this
    ring.#earlier = this
  }

  /** Its `giveUp`, when it still was in a ring; leaves no way from here to anything. */
  leave(): (() => void) | undefined {
    const giveUp = this.#giveUp
    this.#giveUp = undefined
    this.#earlier.later = this.later
    this.later.#earlier = this.#earlier
    this.later = this
    this.#earlier = this
    return giveUp
  }
}

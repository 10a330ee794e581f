import type { Verdict } from './policy.ts'
import { SUB_WINDOWS } from './sliding-window.ts'

/** About 4 MB per limiter at worst; a flood of keys beyond it makes the longest unseen forgotten. */
const MAX_KEYS = 20_000

interface Counts {
  /** Number of the newest sub-window. */
  current: number
  /** Newest first. */
  readonly counts: number[]
}

/** The sliding window of sliding-window.ts in this process's memory, for the time without Redis. */
export class LocalWindow {
  /** Microseconds, a whole number as in the script. */
  readonly #width: number
  readonly #now: () => number
  /** In the order of their last use. */
  readonly #keys = new Map<string, Counts>()

  constructor(perMs: number, now: () => number = () => performance.now()) {
    this.#width = (perMs * 1_000) / SUB_WINDOWS
    this.#now = now
  }

  /** A cost above the limit never fits; its `retryAfterMs` is when all is free. */
  decide(
    id: string,
    limit: number,
    { cost, charge }: { readonly cost: number; readonly charge: boolean },
  ): Verdict {
    const now = Math.floor(this.#now() * 1_000)
    const { current, counts } = this.#look(id, Math.floor(now / this.#width))
    const untilGone = (age: number): number =>
      Math.ceil(((current - age + SUB_WINDOWS + 1) * this.#width - now) / 1_000)
    let used = counts.reduce((sum, count) => sum + count, 0)
    const allowed = used + cost <= limit
    let retryAfterMs = 0
    if (allowed && charge) {
      counts[0] = (counts[0] as number) + cost
      used += cost
    } else if (!allowed) {
      let age = counts.length
      for (let left = used; left + cost > limit && age > 0; ) left -= counts[--age] as number
      retryAfterMs = untilGone(age)
    }
    const newest = counts.findIndex((count) => count > 0)
    return {
      allowed,
      remaining: Math.max(0, limit - used),
      retryAfterMs,
      resetMs: newest === -1 ? 0 : untilGone(newest),
    }
  }

  forget(id: string): void {
    this.#keys.delete(id)
  }

  #look(id: string, current: number): Counts {
    let entry = this.#keys.get(id)
    if (entry) this.#keys.delete(id)
    else entry = { current, counts: new Array<number>(SUB_WINDOWS + 1).fill(0) }
    for (; entry.current < current; entry.current++) {
      if (entry.current + SUB_WINDOWS < current) {
        entry.counts.fill(0)
        entry.current = current - 1
      }
      entry.counts.pop()
      entry.counts.unshift(0)
    }
    if (this.#keys.size >= MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value as string)
    this.#keys.set(id, entry)
    return entry
  }
}
